"""Books with a bit of everything in them, made by the real parts. Tests only read them, or take back what they did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from tallystick.billing.instructions import Instruction
from tallystick.customers.service import Customers
from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tallystick.kernel.ids import new_id
from tallystick.metering.model import Meter
from tallystick.operations.explain import Explain
from tallystick.operations.verify import Verify
from tallystick.pricing.service import Pricing
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.conftest import new_database
from tests.metering.books import (
    CREDITS,
    DYNAMIC,
    MARCH,
    batch,
    create_customer,
    create_price,
    grant,
    measurement,
    put_meter,
    submit,
)

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
FEBRUARY = MARCH - timedelta(days=20)
CREDIT = 1_000_000

MONTHLY = {"type": "per_unit", "amount": "1", "per": "730"}
STEP_DOWN = {"type": "volume", "tiers": [{"up_to": "10", "amount": "3"}, {"up_to": None, "amount": "1"}]}
TIERS = {"type": "graduated", "tiers": [{"up_to": "5", "amount": "0"}, {"up_to": None, "amount": "0.07"}]}


@pytest.fixture(scope="package")
def database(database_server: str, database_template: str) -> Iterator[str]:
    """The URL of a database that tests share: whoever changes it takes that back."""
    with new_database(database_server, f"TEMPLATE {database_template}") as url:
        asyncio.run(_keep_books(url))
        yield url


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    """A connection to the books within a transaction; what happens on it is taken back."""
    connect = psycopg.AsyncConnection.connect(database, autocommit=True)
    async with await connect as connection, connection.transaction(force_rollback=True):
        yield connection


@pytest.fixture
def pricing() -> Pricing:
    clock = TestClock(NOW)
    return Pricing(clock, Customers(clock))


@pytest.fixture
def verify(pricing: Pricing) -> Verify:
    return Verify(pricing)


@pytest.fixture
def explain(pricing: Pricing) -> Explain:
    return Explain(pricing)


async def _keep_books(url: str) -> None:
    async with open_service(Settings(database_pool_size=4), url, TestClock(NOW)) as service:
        await _set_up(service)
        await _use(service)
        # What waited without a price is charged when it gets one; a dynamic price turns its quantity into money.
        await submit(service, measurement("solo", 4, meter="fees", sender_id="fee", unit_price="0.5"))
        await create_price(service, "fees", DYNAMIC)


async def _set_up(service: Service) -> None:
    await put_meter(service, Meter("tokens", unit="token"))
    await put_meter(service, Meter("storage", "gauge", "max"))
    await create_price(service, "tokens", MONTHLY)
    await create_price(service, "tokens", {"type": "per_unit", "amount": "2"}, kind="gold", asset="USD")
    await create_price(service, "images", STEP_DOWN)
    await create_price(service, "storage", TIERS, quantum=Decimal("0.01"))
    await create_price(service, "calls", DYNAMIC)
    await create_customer(service, "acme")
    await create_customer(service, "lab", payer="acme")
    await create_customer(service, "shop", credit_policy="prepaid")
    await grant(service, "acme", 100 * CREDIT)
    await grant(service, "shop", 5 * CREDIT)


async def _use(service: Service) -> None:
    await submit(
        service,
        measurement("acme", 730, sender_id="month"),
        measurement("acme", "0.5", sender_id="half", resource="gpu", agent="ada@acme.example"),
        measurement("acme", 1, sender_id="one"),
        measurement("acme", 365, at=FEBRUARY, sender_id="late"),
        measurement("acme", 3, kind="gold", sender_id="gold"),
    )
    await submit(service, measurement("lab", 100, sender_id="lab"))
    await submit(service, measurement("shop", 5, meter="images", sender_id="five"))  # 15 credits: 10 go to arrears
    await submit(service, measurement("shop", 6, meter="images", sender_id="six"))  # the step gives 4 credits back
    for hour, value in enumerate((10, 25, 25, 31)):
        at = MARCH + timedelta(hours=hour)
        reading = measurement("solo", value, meter="project_vcpu_usage", at=at, sender_id=f"vcpu-{hour}")
        await service.intake.submit(batch([reading]))
        await submit(service, measurement("solo", (5, 3, 9, 9)[hour], meter="storage", at=at))
    await submit(service, measurement("solo", 3, meter="calls", unit_price="0.25", sender_id="call"))
    await submit(service, measurement("solo", 2, meter="calls", sender_id="unpriced call"))
    await submit(service, measurement("solo", 7, meter="unheard-of", sender_id="unpriced"))
    bill = Instruction(new_id(NOW), "bill", "acme", CREDITS, 2 * CREDIT, "support")
    await service.instructions.carry_out(bill)
