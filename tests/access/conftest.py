"""Books with a customer and its agent, and whoever makes keys for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from tallystick.access.callers import Scope
from tallystick.access.model import NewKey
from tallystick.access.service import Made
from tallystick.customers.model import NewCustomer
from tallystick.kernel.clock import TestClock
from tallystick.service import Service, open_service
from tests.web.conftest import settings

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
AGENT = "bot@example.org"


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture
async def service(database_url: str, clock: TestClock) -> AsyncIterator[Service]:
    """With the customer ``ada`` and her agent."""
    async with open_service(settings(database_pool_size=4), database_url, clock) as service:
        async with service.pool.connection() as conn, conn.transaction():
            ada = await service.accounts.create(conn, NewCustomer("ada"))
            await service.accounts.create_agent(conn, ada.id, AGENT, "Bot")
        yield service


async def make(service: Service, new: NewKey | None = None) -> Made:
    """A key in the books: an operator's, if nothing else is asked for."""
    async with service.pool.connection() as conn, conn.transaction():
        return await service.access.keys.create(conn, new or NewKey("shop", [Scope.BILLING_READ]))
