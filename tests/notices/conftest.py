"""A service with rules, and what it has raised."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from tallystick.billing.instructions import Instruction
from tallystick.kernel.clock import TestClock
from tallystick.kernel.ids import new_id
from tallystick.kernel.money import format_quantity
from tallystick.ledger.wallets import CreditPolicy
from tallystick.notices.model import NewRule, Rule, Sending
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.metering.books import assert_books_hold

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
UNIT = 1_000_000
CREDITS, DOLLARS = 1, 840


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture
async def service(database_url: str, clock: TestClock) -> AsyncIterator[Service]:
    """A service with the standard rules: 50%, 20% and nothing left. Its books must hold in the end."""
    settings = Settings(dev=True, database_pool_size=4, enable_events=True, broker_url="amqp://nobody.invalid")
    async with open_service(settings, database_url, clock) as service:
        yield service
        await assert_books_hold(service)


async def instruct(
    service: Service, type_: Any, key: str, amount: int, *, ledger: int = CREDITS, policy: CreditPolicy = "prepaid"
) -> int:
    """Moves so many whole units; the balance after it."""
    instruction = Instruction(
        new_id(service.clock.now()), type_, key, ledger, amount * UNIT, "", uuid4().hex, credit_policy=policy
    )
    return await service.instructions.carry_out(instruction) // UNIT


async def define(service: Service, kind: Any, threshold: Any, **others: Any) -> Rule:
    async with service.pool.connection() as conn, conn.transaction():
        return await service.notices.define(conn, NewRule(kind, Decimal(threshold), **others))


async def raised(service: Service, customer: str | None = None) -> list[Sending]:
    """What was raised, in the order in which it was."""
    async with service.pool.connection() as conn:
        page = await service.notices.page(conn, None, customer, None, 1000)
    return page.items[::-1]


async def levels(service: Service, customer: str | None = None) -> list[tuple[str, int]]:
    """Threshold and balance of what was raised, in whole units, the highest threshold first."""
    found = sorted(await raised(service, customer), key=lambda each: (-each.notice.threshold, -each.notice.balance))
    return [(format_quantity(each.notice.threshold), each.notice.balance // UNIT) for each in found]


async def events(service: Service) -> list[tuple[str, str, dict[str, Any]]]:
    """Type, subject and data of the events about balances that wait for the broker, in order."""
    query = "select type, subject, data from outbox_events where type like 'balance.%' order by position"
    async with service.pool.connection() as conn:
        rows = await (await conn.execute(query)).fetchall()
    return [(kind, subject, data) for kind, subject, data in rows]
