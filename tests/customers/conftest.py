from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from tallystick.customers.service import Customers
from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tests.conftest import new_database


@pytest.fixture
def clock() -> TestClock:
    return TestClock(datetime(2026, 3, 1, 12, tzinfo=UTC))


@pytest.fixture
def customers(clock: TestClock) -> Customers:
    return Customers(clock)


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
