"""Brings a database's schema up to what this version of Tallystick needs.

A migration is a plain SQL file, ``migrations/NNNN_name.sql``. They are applied in the order of their names, each once,
each in one transaction together with the mark that it has been applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import structlog
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri
from yoyo.migrations import Migration, default_migration_table

from tallystick.database.pool import CONNECT_TIMEOUT_SECONDS, unreachable
from tallystick.kernel.errors import TallyError

MIGRATIONS = Path(__file__).with_name("migrations")
ADVISORY_LOCK = 0x7A11_9571_C4  # any number, the same in all versions

_log = structlog.get_logger()


class DatabaseNewer(TallyError):
    """The database was migrated by a newer version of Tallystick, which this one does not understand."""

    code = "database_newer"
    status = 503


def migrate(url: str, folder: Path = MIGRATIONS) -> list[str]:
    """Applies what is pending and returns the names, oldest first. Safe to call from many processes at once.

    Raises ``DatabaseNewer``, ``Unavailable``, or ``psycopg.Error`` if the database refuses a migration; those before it
    stay applied.
    """
    with _Backend(url) as backend, backend.lock():
        waiting = _pending(backend, folder)
        for migration in waiting:
            backend.apply_one(migration)
            _log.info("database.migrated", migration=migration.id)
        return [migration.id for migration in waiting]


def pending(url: str, folder: Path = MIGRATIONS) -> list[str]:
    """The names of what ``migrate`` would apply; changes nothing. Raises ``DatabaseNewer`` or ``Unavailable``."""
    with _Backend(url) as backend:
        return [migration.id for migration in _pending(backend, folder)]


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo has no types
    """yoyo's own, made safe to kill.

    yoyo commits a migration and its mark one after the other, and locks with a row of a table: a process killed between
    the two leaves a database that can never be migrated again. Here they are one transaction, and the session's end
    frees the lock.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        super().__init__(parse_uri("postgresql+psycopg://"), default_migration_table)

    def connect(self, dburi: object) -> psycopg.Connection:
        """libpq reads the URL itself: yoyo's parser knows neither several hosts nor key=value strings."""
        try:
            return psycopg.connect(self._url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS)
        except psycopg.Error as error:
            raise unreachable(self._url, error) from None

    @contextmanager
    def lock(self, timeout: float = 0) -> Iterator[None]:
        """Waits for its turn as long as it takes: who holds the lock is at work, or its session would have ended."""
        self.connection.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        try:
            yield
        finally:
            self.connection.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])

    def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:
        self.ensure_internal_schema_updated()
        with self.transaction():
            migration.process_steps(self, "apply", force=force)
            self.mark_one(migration, log=False)

    def applied(self) -> set[str]:
        if self.migration_table not in self.list_tables():
            return set()
        rows: Any = self.execute(f"SELECT migration_id FROM {self.migration_table_quoted}")  # noqa: S608  # a constant
        return {name for (name,) in rows}


def _pending(backend: _Backend, folder: Path) -> list[Migration]:
    known = read_migrations(str(folder))
    applied = backend.applied()
    if unknown := sorted(applied - {migration.id for migration in known}):
        raise DatabaseNewer(
            f"the database was migrated to {unknown[-1]} by a newer Tallystick than this one: update this one."
        )
    return [migration for migration in known if migration.id not in applied]
