from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import Wallets


@pytest.fixture
def ledger() -> PostgresLedger:
    return PostgresLedger(TestClock(datetime(2026, 3, 1, 12, tzinfo=UTC)))


@pytest.fixture
def wallets(ledger: PostgresLedger) -> Wallets:
    return Wallets(ledger)


@pytest.fixture
async def conn(pool: Pool) -> AsyncIterator[Connection]:
    """A connection within a transaction, as services get it."""
    async with pool.connection() as connection, connection.transaction():
        yield connection
