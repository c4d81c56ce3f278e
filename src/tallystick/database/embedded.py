"""A private PostgreSQL server that starts and ends with the service, on nothing but a data folder.

    with EmbeddedPostgres.start(Path("data")) as server:
        pool = await open_pool(server.url, size=10)

What lies where, who owns it, and what happens when something is killed: see this folder's README.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
import structlog
from psycopg import pq

from tallystick.database.binaries import EmbeddedPostgresFailed
from tallystick.database.cluster import ENDINGS, POLL_SECONDS, PORT, ROLE, Cluster, create_private, last_line
from tallystick.kernel.errors import TallyError

DATABASE = "tally"
DEFAULT_SERVER_USER = "nobody"
START_TIMEOUT_SECONDS = 600.0  # recovery after a crash may have to read 4 GiB of log
REPORT_SECONDS = 1.0
# A server that dies is started again; one that dies this often without standing for so long is given up.
RESTART_LIMIT = 5
RESTART_PAUSE_SECONDS = 0.5
STABLE_SECONDS = 60.0

_log = structlog.get_logger()


class DataFolderInUse(TallyError):
    """Another service works on this data folder."""

    code = "data_folder_in_use"
    status = 409


class EmbeddedPostgres:
    """A running private server. ``url`` connects psycopg and psql alike; ``stop`` ends it and frees the data folder."""

    def __init__(self, data_dir: Path, lock: DataFolderLock, cluster: Cluster) -> None:
        """Use ``start``."""
        self.data_dir = data_dir
        self.url = _url(cluster)
        self._lock = lock
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._spawned: Future[None] = Future()
        self._spawning = threading.Lock()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="postgres-keeper", daemon=True)

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        server_user: str = DEFAULT_SERVER_USER,
        binaries: Path | None = None,
        timeout_seconds: float = START_TIMEOUT_SECONDS,
        report: Callable[[str], None] | None = None,
    ) -> EmbeddedPostgres:
        """Starts the server of ``data_dir`` (made if missing) and returns when it accepts connections.

        ``server_user`` is whom root runs a new server as; others run it as themselves. ``binaries`` is a folder with
        programs of PostgreSQL other than the wheel's. ``report`` is told what is being waited for, about once a second.

        Raises ``DataFolderInUse`` if another service has the folder, ``EmbeddedPostgresFailed`` if it cannot be done.
        """
        tell = report or (lambda state: _log.info("database.starting", state=state))
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            data_dir = data_dir.resolve()
            with contextlib.ExitStack() as undo:
                lock = DataFolderLock(data_dir)
                undo.callback(lock.release)
                _url_file(data_dir).unlink(missing_ok=True)
                cluster = Cluster.prepare(cluster_folder(data_dir), server_user, binaries, tell)
                undo.callback(cluster.close)
                server = cls(data_dir, lock, cluster)
                undo.callback(server._end)
                server._begin(timeout_seconds, tell)
                undo.pop_all()
            return server
        except (OSError, subprocess.SubprocessError, psycopg.Error) as error:
            raise EmbeddedPostgresFailed(f"the embedded PostgreSQL in {data_dir} cannot start: {error}.") from error

    def stop(self) -> None:
        """Ends the server, in good order unless that takes too long, and frees the folder. Harmless if repeated."""
        if self._stopping.is_set():
            return
        _url_file(self.data_dir).unlink(missing_ok=True)
        self._end()
        self._cluster.close()
        self._lock.release()

    def __enter__(self) -> EmbeddedPostgres:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.stop()

    def _begin(self, timeout_seconds: float, tell: Callable[[str], None]) -> None:
        self._keeper.start()
        self._spawned.result()
        self._wait_until_ready(timeout_seconds, tell)
        _ensure_database(self._cluster)
        self._ready.set()
        with create_private(_url_file(self.data_dir)) as file:
            file.write(self.url.encode())

    def _wait_until_ready(self, timeout_seconds: float, tell: Callable[[str], None]) -> None:
        began = time.monotonic()
        told = 0.0
        while not self._answers():
            waited = time.monotonic() - began
            if not self._keeper.is_alive():
                raise EmbeddedPostgresFailed(f"the embedded PostgreSQL ended at once ({self._last_words()}).")
            if waited > timeout_seconds:
                raise EmbeddedPostgresFailed(
                    f"the embedded PostgreSQL is not ready after {timeout_seconds:.0f} s ({self._last_words()})."
                )
            if waited - told >= REPORT_SECONDS:
                told = waited
                tell(f"the database is starting or recovering, {waited:.0f} s so far")
            self._keeper.join(POLL_SECONDS)

    def _last_words(self) -> str:
        words = last_line(self._cluster.start_log.read_text(encoding="utf-8", errors="replace"))
        return f"{words}; more may stand in {self._cluster.log}"

    def _keep(self) -> None:
        """The keeper thread: owns the server process, and starts another if it dies before its time.

        The kernel ends the server with the thread that started it; one of a worker pool may end long before us.
        """
        deaths = 0
        try:
            while self._spawn():
                began = time.monotonic()
                code = self._process.wait() if self._process else 0
                if self._stopping.is_set() or not self._ready.is_set():
                    return
                deaths = 1 if time.monotonic() - began > STABLE_SECONDS else deaths + 1
                _log.error("database.server_died", code=code, deaths=deaths)
                if deaths > RESTART_LIMIT or self._stopping.wait(RESTART_PAUSE_SECONDS):
                    return
                self._cluster.end_leftovers(lambda state: _log.info("database.restarting", state=state))
        except (OSError, TallyError) as error:
            _log.error("database.server_lost", error=str(error))

    def _spawn(self) -> bool:
        """Starts the server unless we are stopping; ``stop`` never misses a process that is just being started."""
        with self._spawning:
            if self._stopping.is_set():
                return False
            try:
                self._process = self._cluster.spawn()
            except OSError as error:
                if not self._spawned.done():
                    self._spawned.set_exception(error)
                raise
        if not self._spawned.done():
            self._spawned.set_result(None)
        return True

    def _end(self) -> None:
        self._stopping.set()
        with self._spawning:
            process = self._process
        # One that is still recovering has nothing to put in order; and asked to do so just when it begins again after
        # the crash of a process of its own, PostgreSQL 18 may hang.
        for number, patience_seconds in ENDINGS if self._answers() else ENDINGS[1:]:
            if process is None or not self._keeper.is_alive():
                return
            process.send_signal(number)
            self._keeper.join(patience_seconds)

    def _answers(self) -> bool:
        return pq.PGconn.ping(_url(self._cluster, "postgres").encode()) == pq.Ping.OK


def cluster_folder(data_dir: Path) -> Path:
    """Where the books of a data folder are; there are none yet if it is missing."""
    return data_dir / "postgres"


def attach(data_dir: Path) -> str | None:
    """The URL of the server that a running service keeps in ``data_dir``; None if none answers us there."""
    try:
        url = _url_file(data_dir).read_text(encoding="utf-8")
    except OSError:
        return None
    return url if pq.PGconn.ping(url.encode()) == pq.Ping.OK else None


class DataFolderLock:
    """Makes one service the only one on a data folder until it ends, in whatever way."""

    def __init__(self, data_dir: Path) -> None:
        """Takes the lock. Raises ``DataFolderInUse``, which names the holder's process id."""
        # Not inherited (Python's default), so nothing that we start can hold it after us.
        self._fd = os.open(data_dir / "tally.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise DataFolderInUse(
                f"the data folder {data_dir} is in use by another Tallystick service (process {holder}).",
                field="data_dir",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def _url_file(data_dir: Path) -> Path:
    return data_dir / "database-url"


def _url(cluster: Cluster, database: str = DATABASE) -> str:
    return f"postgresql://{ROLE}@/{database}?host={quote(cluster.socket_folder, safe='')}&port={PORT}"


def _ensure_database(cluster: Cluster) -> None:
    with psycopg.connect(_url(cluster, "postgres"), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(f"CREATE DATABASE {DATABASE}")
