"""Server processes, put together as in production, on one database that each test finds empty."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.metering.readings import Readings
from tallystick.metering.resources import Resources
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.conftest import new_database
from tests.doubles.sweepable import Sweepable
from tests.metering.books import EMPTY, assert_books_hold

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)

StartService = Callable[[], Awaitable[Service]]


@pytest.fixture(scope="package")
def database(database_server: str, database_template: str) -> Iterator[str]:
    """The URL of a migrated database that tests share. Emptying it takes a hundredth of the time of making one."""
    with new_database(database_server, database_template) as url:
        yield url


@pytest.fixture
def database_url(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(EMPTY)
    return database


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture
async def start_service(database_url: str, clock: TestClock) -> AsyncIterator[StartService]:
    """Starts what one server process would: each call another one, with connections, memory and lanes of its own."""
    settings = Settings(dev=True, database_pool_size=4)
    async with AsyncExitStack() as services:

        async def start() -> Service:
            return await services.enter_async_context(open_service(settings, database_url, clock))

        yield start


@pytest.fixture
async def service(start_service: StartService) -> AsyncIterator[Service]:
    """A service. Whatever the test did with it, its books must hold in the end."""
    started = await start_service()
    yield started
    await assert_books_hold(started)


def readings_of(service: Service, *sources: Sweepable, intake: Any = None) -> Readings:
    resources = Resources(service.clock, service.customers)
    return Readings(service.pool, service.clock, intake or service.intake, resources, service.customers, sources)


@pytest.fixture
def taken(service: Service) -> Readings:
    return readings_of(service)
