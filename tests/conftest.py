"""What every room's tests may ask for. The database is always a real one.

The tests start a server of their own, each of their processes one. ``TALLY_TEST_POSTGRES`` names a folder with programs
of PostgreSQL other than the wheel's for it; ``TALLY_TEST_DATABASE_URL`` (a URL of a superuser) puts the tests on a
server of yours instead.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import settings

from tallystick.database.embedded import EmbeddedPostgres
from tallystick.database.migrate import migrate
from tallystick.database.pool import Pool, open_pool
from tests.doubles.capi import Capi
from tests.doubles.oidc_provider import Provider

POOL_SIZE = 4

settings.register_profile("unhurried", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def database_server() -> Iterator[str]:
    """The URL of a server on which the tests make their databases; its own database stays empty."""
    if given := os.environ.get("TALLY_TEST_DATABASE_URL"):
        yield given
        return
    programs = os.environ.get("TALLY_TEST_POSTGRES")
    with (
        tempfile.TemporaryDirectory(prefix="tally-tests-") as folder,
        EmbeddedPostgres.start(Path(folder), binaries=Path(programs) if programs else None) as server,
    ):
        _administer(server.url, "ALTER SYSTEM SET fsync = off")  # no test cuts the power
        _administer(server.url, "ALTER SYSTEM SET min_wal_size = '32MB'")  # nor needs much room kept for a log
        _administer(server.url, "SELECT pg_reload_conf()")
        yield server.url


@pytest.fixture(scope="session")
def database_template(database_server: str) -> Iterator[str]:
    """The name of a migrated, empty database, to be copied: much faster than migrating one for each test."""
    with new_database(database_server) as url:
        migrate(url)
        yield urlsplit(url).path[1:]


@pytest.fixture
def database_url(database_server: str, database_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    with new_database(database_server, database_template) as url:
        yield url


@pytest.fixture
def empty_database_url(database_server: str) -> Iterator[str]:
    """The URL of a database of this test's own with nothing in it, not even our tables."""
    with new_database(database_server) as url:
        yield url


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Connections to this test's own database."""
    async with await open_pool(database_url, size=POOL_SIZE) as opened:
        yield opened


@pytest.fixture(scope="session")
def oidc_process() -> Iterator[Provider]:
    """An OpenID provider in a process of its own, for all tests."""
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture
def provider(oidc_process: Provider) -> Provider:
    """The provider as it is when all is well."""
    oidc_process.tell("reset")
    return oidc_process


@pytest.fixture(scope="session")
def capi_process() -> Iterator[Capi]:
    """A Cloud Foundry platform in a process of its own, for all tests."""
    capi = Capi()
    yield capi
    capi.close()


@pytest.fixture
def capi(capi_process: Capi) -> Capi:
    """The platform as it is when all is well, and empty."""
    capi_process.tell("reset")
    return capi_process


@contextmanager
def new_database(server_url: str, template: str = "template1") -> Iterator[str]:
    """Makes a database with a name that was never used before, and removes it with all connections to it.

    The files of ``template`` are copied as they are: to write them to the log, page by page, takes four times as long.
    """
    name = f"tally_{uuid.uuid4().hex}"
    _administer(server_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        _administer(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(server_url: str, statement: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement)
