"""Server processes on a database of the test's own, each with connections, memory and queues of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from tallystick.billing.instructions import Instructions
from tallystick.kernel.clock import TestClock
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.metering.books import assert_books_hold

StartService = Callable[[], Awaitable[Service]]


@pytest.fixture
def clock() -> TestClock:
    return TestClock(datetime(2026, 3, 20, 12, tzinfo=UTC))


@pytest.fixture
async def start_service(database_url: str, clock: TestClock) -> AsyncIterator[StartService]:
    """Starts what one server process would."""
    async with AsyncExitStack() as services:

        async def start() -> Service:
            return await services.enter_async_context(open_service(Settings(database_pool_size=4), database_url, clock))

        yield start


@pytest.fixture
async def service(start_service: StartService) -> AsyncIterator[Service]:
    """A service. Whatever the test did with it, its books must hold in the end."""
    started = await start_service()
    yield started
    await assert_books_hold(started)


@pytest.fixture
def instructions(service: Service) -> Instructions:
    """Where instructions are handed in."""
    return service.instructions
