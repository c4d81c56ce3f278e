"""The files and processes of one embedded PostgreSQL: everything that can be said of it before and after it runs.

The home folder ``<data folder>/postgres`` holds our configuration and belongs to us; its three subfolders ``cluster``
(PostgreSQL's data folder), ``run`` (socket) and ``log`` belong to the account that the server runs as. So a server that was
taken over cannot lead us, if we are root, to a file elsewhere by planting a link.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil  # type: ignore[import-untyped]

from tallystick.database import launch
from tallystick.database.binaries import Account, Binaries, EmbeddedPostgresFailed

ROLE = "tally"
PORT = 5432  # only part of the socket's name
SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sockaddr_un, without the closing zero
INITDB_TIMEOUT_SECONDS = 300
# How an old server is ended: in good order, then at once (it recovers at the next start), then by the kernel.
ENDINGS: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 10))

_CONFIGURATION = Path(__file__).with_name("postgresql.conf")
# Nothing of ours reaches the server, least of all secrets and PG* variables.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Cluster:
    """One home folder, the account its server runs as, and the programs that it runs with."""

    home: Path
    account: Account
    binaries: Binaries
    home_fd: int

    @classmethod
    def prepare(cls, home: Path, server_user: str, binaries: Path | None, report: Callable[[str], None]) -> Cluster:
        """Makes the folders, the database cluster (once) and the configuration. The caller holds the data folder's lock.

        As root, the server runs as the one whom its files belong to, at first ``server_user``.
        Raises ``EmbeddedPostgresFailed`` or ``OSError``.
        """
        account = _account(home / "cluster", server_user)
        programs = Binaries.for_account(account, binaries)
        home.mkdir(mode=0o700, exist_ok=True)
        cluster = cls(home, account, programs, os.open(home, os.O_RDONLY | os.O_DIRECTORY))
        try:
            cluster._make_folders()
            cluster.end_leftovers(report)
            if not cluster.data.exists():
                cluster._initialise()
            cluster._check_version()
            cluster._configure()
        except BaseException:
            cluster.close()
            raise
        return cluster

    @property
    def data(self) -> Path:
        return self.home / "cluster"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def socket_folder(self) -> str:
        """Where clients find the server: ``run``, by a way short enough for the address of a socket."""
        if len(os.fsencode(self.run / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES:
            return str(self.run)
        if sys.platform != "linux":
            raise EmbeddedPostgresFailed(f"the path {self.home} is too long for a socket: choose a shorter data folder.")
        return f"/proc/{os.getpid()}/fd/{self.home_fd}/run"  # holds for every process of ours, for as long as we live

    @property
    def start_log(self) -> Path:
        """What the server says before its own log begins; only of the last start."""
        return self.home / "start.log"

    @property
    def log_folder(self) -> Path:
        """The server's own logs, a week of them."""
        return self.home / "log"

    def close(self) -> None:
        os.close(self.home_fd)

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts the server. It ends in good order when the calling *thread* ends (Linux)."""
        inside = self._seen_by_server
        program = [self.binaries.program("postgres"), "-D", f"{inside}/cluster", "-c", f"config_file={inside}/postgresql.conf"]
        program += ["-c", f"hba_file={inside}/pg_hba.conf", "-c", f"ident_file={inside}/pg_ident.conf", "-p", str(PORT)]
        with create_private(self.start_log) as output:
            return subprocess.Popen(  # noqa: S603
                self._command(program, signal.SIGINT),
                cwd="/",
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(self.home_fd,),
                start_new_session=True,  # Ctrl-C is for us: the server is needed until our last transaction is done
            )

    def end_leftovers(self, report: Callable[[str], None] = lambda _: None) -> None:
        """Ends what an earlier service has left running on these files, and removes what would stand in a new server's way."""
        for number, patience_seconds in ENDINGS:
            ours = list(self._processes())
            if not ours:
                break
            report(f"waiting for the server of an earlier service to end ({number.name})")
            ids = {process.pid for process in ours}
            for process in ours:
                if _parent(process) not in ids:  # the others are ended by the one that started them
                    _send(process, number)
            psutil.wait_procs(ours, timeout=patience_seconds)
        if any(self._processes()):
            raise EmbeddedPostgresFailed(f"an earlier server on {self.data} does not end.")
        # Nobody uses them any more; but their process ids may by now belong to others, which would stop the new server.
        for stale in (self.data / "postmaster.pid", *self.run.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)

    def _processes(self) -> Iterator[psutil.Process]:
        """The running processes of this very cluster: every process of PostgreSQL works inside its data folder."""
        for process in psutil.process_iter():
            try:
                if process.name().startswith("postgres") and self.data.samefile(process.cwd()):
                    yield process
            except (psutil.Error, OSError):
                continue  # it has ended, or is none of ours

    @property
    def _seen_by_server(self) -> str:
        """The home folder's path as the server names it.

        Its user may be unable to enter the folders above. An open descriptor needs no way there, and nobody's rights have to be
        changed: /proc/self/fd/N leads straight to the folder in every process that has inherited it.
        """
        return str(self.home) if self.account.uid == os.geteuid() else f"/proc/self/fd/{self.home_fd}"

    def _command(self, program: list[str], death_signal: int) -> list[str]:
        return launch.command(program, uid=self.account.uid, gid=self.account.gid, death_signal=death_signal)

    def _make_folders(self) -> None:
        if self.account.uid != os.geteuid():
            os.fchown(self.home_fd, -1, self.account.gid)
            os.fchmod(self.home_fd, 0o710)  # the server's group may pass through, not look around
        for folder in (self.run, self.log_folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._own(folder)
        for unfinished in self.home.glob("cluster.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)  # a last process of a killed initdb may still write there

    def _own(self, path: Path) -> Path:
        if self.account.uid != os.geteuid():
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)
        return path

    def _initialise(self) -> None:
        """Makes the database cluster under another name first: killed half-way, it leaves nothing that looks like one."""
        fresh = self._own(Path(tempfile.mkdtemp(prefix="cluster.new-", dir=self.home)))
        program = [self.binaries.program("initdb"), "-D", f"{self._seen_by_server}/{fresh.name}", "-U", ROLE]
        program += ["--encoding=UTF8", "--auth=reject", "--data-checksums", "--no-instructions"]
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
            shutil.rmtree(fresh, ignore_errors=True)
            raise EmbeddedPostgresFailed(f"PostgreSQL's initdb failed: {last_line(done.stderr)}")
        fresh.rename(self.data)
        os.fsync(self.home_fd)  # initdb itself has synced what is inside

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != str(self.binaries.major):
            raise EmbeddedPostgresFailed(
                f"the database in {self.data} was made by PostgreSQL {made_by}, "
                f"which PostgreSQL {self.binaries.major} of this Tallystick cannot read."
            )

    def _configure(self) -> None:
        """The kernel vouches for who connects: ourselves, and root, who could read the files anyway. There is no password."""
        clients = {pwd.getpwuid(os.geteuid()).pw_name, pwd.getpwuid(0).pw_name}
        self._write("pg_hba.conf", f"local all {ROLE} peer map=tallystick\n")
        self._write("pg_ident.conf", "".join(f'tallystick "{name}" {ROLE}\n' for name in sorted(clients)))
        self._write("postgresql.conf", _CONFIGURATION.read_text(encoding="utf-8"))

    def _write(self, name: str, text: str) -> None:
        with create_private(self.home / name) as file:
            file.write(text.encode())
            if self.account.uid != os.geteuid():
                os.fchown(file.fileno(), -1, self.account.gid)
                os.fchmod(file.fileno(), 0o640)


def create_private(path: Path) -> BinaryIO:
    """Opens a new file in place of what is there, if anything; only its owner can read it. Does not follow a link."""
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
        raise EmbeddedPostgresFailed("as root the embedded PostgreSQL runs on Linux only: use another user, or TALLY_DATABASE_URL.")
    return Account.numbered(data.stat().st_uid) if data.exists() else Account.named(server_user)


def _parent(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.Error:
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # checks that the process id has not been given to another process meanwhile
    except psutil.NoSuchProcess:
        pass
