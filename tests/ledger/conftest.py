from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest

from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import Wallets
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.conftest import new_database
from tests.ledger.engines import NO_TIGERBEETLE, tigerbeetle_addresses
from tests.ledger.services import NOW, StartService
from tests.ledger.tigerbeetle.server import CLUSTER_ID
from tests.metering.books import assert_books_hold


@pytest.fixture
def ledger() -> PostgresLedger:
    return PostgresLedger(TestClock(datetime(2026, 3, 1, 12, tzinfo=UTC)))


@pytest.fixture
def wallets(ledger: PostgresLedger) -> Wallets:
    return Wallets(ledger)


@pytest.fixture(scope="package")
def database(database_server: str, database_template: str) -> Iterator[str]:
    """The URL of a migrated database that tests share, because each takes back what it did."""
    with new_database(database_server, database_template) as url:
        yield url


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    """A connection within a transaction, as services get it; what happens on it is taken back."""
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as connection,
        connection.transaction(force_rollback=True),
    ):
        yield connection


# A service on both engines


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture(scope="module", params=["postgres", "tigerbeetle"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the setting ``ledger`` says."""
    if request.param == "postgres":
        yield "postgres"
        return
    with tigerbeetle_addresses(tmp_path_factory.mktemp("tigerbeetle")) as addresses:
        if addresses is None:
            pytest.skip(NO_TIGERBEETLE)
        yield f"tigerbeetle://{CLUSTER_ID}@{addresses}"


@pytest.fixture
async def start_service(database_url: str, clock: TestClock, engine: str) -> AsyncIterator[StartService]:
    """Starts what one server process would."""
    async with AsyncExitStack() as services:

        async def start() -> Service:
            settings = Settings(dev=True, database_pool_size=4, ledger=engine)
            return await services.enter_async_context(open_service(settings, database_url, clock))

        yield start


@pytest.fixture
async def service(start_service: StartService) -> AsyncIterator[Service]:
    """A service. Whatever the test did with it, its books must hold in the end."""
    started = await start_service()
    yield started
    await assert_books_hold(started)


@pytest.fixture
def key() -> str:
    """An idempotency key that was never used on this ledger, which tests share."""
    return uuid4().hex
