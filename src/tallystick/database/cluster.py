"""The files and processes of one embedded PostgreSQL: everything that can be said of it before and after it runs.

The home folder, ``<data folder>/postgres``, holds our configuration and belongs to us. Its subfolders ``cluster``
(PostgreSQL's data), ``run`` (the socket) and ``log`` belong to the account that the server runs as. So a server that
was taken over cannot lead us, if we are root, to a file elsewhere by planting a link.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil  # type: ignore[import-untyped]

from tallystick.database import launch
from tallystick.database.binaries import Account, Binaries, EmbeddedPostgresFailed

ROLE = "tally"
PORT = 5432  # only a part of the socket's name
SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sun_path of sockaddr_un, without the closing zero
INITDB_TIMEOUT_SECONDS = 300
POLL_SECONDS = 0.01
# How a server is ended, and for how many seconds each way is tried: in good order (it writes what is not yet in its
# files), at once (it recovers at the next start), by the kernel.
ENDINGS: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 10))

_CONFIGURATION = Path(__file__).with_name("postgresql.conf")
_CONFIGURATION_FILES = {"config-file": "postgresql.conf", "hba-file": "pg_hba.conf", "ident-file": "pg_ident.conf"}
# Nothing of our environment reaches the server, least of all secrets and PG* variables.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Cluster:
    """One home folder, the account that its server runs as, and the programs that it runs with."""

    home: Path
    home_fd: int
    account: Account
    binaries: Binaries

    @classmethod
    def prepare(cls, home: Path, server_user: str, binaries: Path | None, report: Callable[[str], None]) -> Cluster:
        """Makes the folders, the database cluster (once) and the configuration. The caller holds the folder's lock.

        As root, the server runs as the one whom its files belong to; ``server_user`` if there are none yet.
        Raises ``EmbeddedPostgresFailed`` or ``OSError``.
        """
        account = _account(home / "cluster", server_user)
        programs = Binaries.for_account(account, binaries)
        home.mkdir(mode=0o700, exist_ok=True)
        cluster = cls(home, os.open(home, os.O_RDONLY | os.O_DIRECTORY), account, programs)
        try:
            cluster._make_folders()
            cluster.end_leftovers(report)
            if not cluster.data.exists():
                report("the database is being created")
                cluster._initialise()
            cluster._check_version()
            cluster._configure()
        except BaseException:
            cluster.close()
            raise
        return cluster

    def close(self) -> None:
        os.close(self.home_fd)

    @property
    def data(self) -> Path:
        return self.home / "cluster"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def start_log(self) -> Path:
        """What the server says before its own log begins; only of the last start."""
        return self.home / "start.log"

    @property
    def socket_folder(self) -> str:
        """Where clients find the server: ``run``, by a way that is short enough for the address of a socket."""
        if len(os.fsencode(self.run / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES:
            return str(self.run)
        if sys.platform != "linux":
            raise EmbeddedPostgresFailed(f"{self.home} is too long a path for a socket: choose a shorter data folder.")
        return f"/proc/{os.getpid()}/fd/{self.home_fd}/run"  # leads there from every process of ours while we live

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts the server. On Linux it ends, in good order, when the calling *thread* ends."""
        inside = self._seen_by_server
        files = [f"--{option}={inside}/{name}" for option, name in _CONFIGURATION_FILES.items()]
        program = [self.binaries.program("postgres"), "-D", f"{inside}/cluster", f"--port={PORT}", *files]
        if sys.platform == "linux":
            program += ["--recovery-init-sync-method=syncfs"]  # or recovery begins by syncing a thousand files singly
        with create_private(self.start_log) as output:
            return subprocess.Popen(  # noqa: S603
                self._command(program, signal.SIGINT),
                cwd="/",
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(self.home_fd,),
                start_new_session=True,  # Ctrl-C is for us alone: our last transactions still need the server
            )

    def end_leftovers(self, report: Callable[[str], None]) -> None:
        """Ends what an earlier service has left running on these files, and clears the way for a new server.

        Raises ``EmbeddedPostgresFailed`` if something does not end.
        """
        for number, patience_seconds in ENDINGS:
            ours = list(self._processes())
            if not ours:
                break
            report(f"waiting for the server of an earlier service to end ({number.name})")
            ids = {process.pid for process in ours}
            for process in ours:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.ppid() not in ids:  # the others are ended by the one that started them
                        process.send_signal(number)
            deadline = time.monotonic() + patience_seconds
            while any(self._processes()) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        else:
            if any(self._processes()):
                raise EmbeddedPostgresFailed(f"an earlier server on {self.data} does not end.")
        # Nobody uses these any more. But the process ids in them may by now be others', and PostgreSQL would give way.
        for stale in (self.data / "postmaster.pid", *self.run.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)

    def _processes(self) -> Iterator[psutil.Process]:
        """The living processes of this very cluster: each process of PostgreSQL works inside its data folder."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # ended (a zombie has no folder), or none of ours
                if process.name().startswith("postgres") and self.data.samefile(process.cwd()):
                    yield process

    @property
    def _seen_by_server(self) -> str:
        """The path of the home folder for the server.

        Its user may be unable to enter the folders above, and nobody's rights there are ours to change. An open
        descriptor needs no way: in each process that inherits it, /proc/self/fd/N leads straight to the folder.
        """
        return str(self.home) if self.account.uid == os.geteuid() else f"/proc/self/fd/{self.home_fd}"

    def _command(self, program: list[str], death_signal: signal.Signals) -> list[str]:
        return launch.command(program, uid=self.account.uid, gid=self.account.gid, death_signal=death_signal)

    def _make_folders(self) -> None:
        if self.account.uid != os.geteuid():
            os.fchown(self.home_fd, -1, self.account.gid)
            os.fchmod(self.home_fd, 0o710)  # the server's group may pass through, not look around
        for folder in (self.run, self.log):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._give_to_server(folder)
        for unfinished in self.home.glob("cluster.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)  # the last process of a killed initdb may still be writing

    def _give_to_server(self, path: Path) -> None:
        if self.account.uid != os.geteuid():
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def _initialise(self) -> None:
        """Makes the database cluster under another name first: killed half-way, it leaves nothing that looks like one.

        initdb syncs what it has written, so a cluster with its final name is whole even after a power cut.
        """
        fresh = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self.home))
        self._give_to_server(fresh)
        program = [self.binaries.program("initdb"), "-D", f"{self._seen_by_server}/{fresh.name}", "-U", ROLE]
        program += ["--encoding=UTF8", "--data-checksums", "--auth=reject", "--no-instructions"]
        if self.binaries.major >= 17:
            program += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            program += ["--sync-method=syncfs"] if sys.platform == "linux" else []
        else:
            program += ["--locale=C.UTF-8"]
        done = subprocess.run(  # noqa: S603
            self._command(program, signal.SIGKILL),
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            pass_fds=(self.home_fd,),
            timeout=INITDB_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise EmbeddedPostgresFailed(f"PostgreSQL's initdb failed: {last_line(done.stderr)}")
        fresh.rename(self.data)
        os.fsync(self.home_fd)

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        if made_by != str(self.binaries.major):
            raise EmbeddedPostgresFailed(
                f"the database in {self.data} was made by PostgreSQL {made_by}, which the PostgreSQL "
                f"{self.binaries.major} of this Tallystick cannot read."
            )

    def _configure(self) -> None:
        """The kernel vouches for who connects: we, and root, who could read the files anyway. There is no password."""
        clients = sorted({pwd.getpwuid(os.geteuid()).pw_name, pwd.getpwuid(0).pw_name})
        self._write("pg_hba.conf", f"local all {ROLE} peer map=tallystick\n")
        self._write("pg_ident.conf", "".join(f'tallystick "{name}" {ROLE}\n' for name in clients))
        self._write("postgresql.conf", _CONFIGURATION.read_text(encoding="utf-8"))

    def _write(self, name: str, text: str) -> None:
        with create_private(self.home / name) as file:
            file.write(text.encode())
            if self.account.uid != os.geteuid():
                os.fchown(file.fileno(), -1, self.account.gid)
                os.fchmod(file.fileno(), 0o640)


def create_private(path: Path) -> BinaryIO:
    """Opens a new file, in place of what is there, that only its owner can read. Never writes through a link."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def last_line(output: str) -> str:
    """What a program said last, for an error message."""
    lines = output.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _account(data: Path, server_user: str) -> Account:
    if os.geteuid() != 0:
        return Account.numbered(os.geteuid())
    if sys.platform != "linux":
        raise EmbeddedPostgresFailed("as root the embedded PostgreSQL runs on Linux only: use another user.")
    return Account.numbered(data.stat().st_uid) if data.exists() else Account.named(server_user)
