"""Books with a bit of everything in them, made by the real parts. Tests only read them, or take back what they did."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files

import psycopg
import pytest

from tallystick.billing.instructions import Instruction
from tallystick.billing.transactions import Transactions, Wanted
from tallystick.customers.service import Customers
from tallystick.database.pool import Connection, Pool, open_pool
from tallystick.kernel.calendar import month_before
from tallystick.kernel.clock import TestClock
from tallystick.kernel.ids import new_id
from tallystick.ledger import remaining
from tallystick.ledger.contract import Status, Transfer, TransferFlags
from tallystick.ledger.exchange import ExchangeOrder
from tallystick.ledger.grant_model import GrantCredits, VoidGrant
from tallystick.ledger.hold_model import PlaceHold, ReleaseHold, SettleHold
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import AccountCode, InsufficientCredits, Movement, TransferCode, transfer_of
from tallystick.metering.model import Meter
from tallystick.operations.explain import Explain
from tallystick.operations.verify import Verify
from tallystick.pricing.service import Pricing
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.conftest import new_database
from tests.metering.books import (
    CREDITS,
    DOLLARS,
    DYNAMIC,
    MARCH,
    batch,
    create_customer,
    create_price,
    grant,
    measurement,
    put_meter,
    set_payer,
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
    with new_database(database_server, database_template) as url:
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
async def beside(database: str) -> AsyncIterator[Pool]:
    """Connections to the books, beside that on which things are taken back."""
    async with await open_pool(database, size=1) as opened:
        yield opened


@pytest.fixture
def verify(pricing: Pricing, beside: Pool) -> Verify:
    return Verify(pricing, PostgresLedger(TestClock(NOW)), beside)


@pytest.fixture
def explain(pricing: Pricing) -> Explain:
    return Explain(pricing)


async def _keep_books(url: str) -> None:
    async with open_service(Settings(database_pool_size=4), url, TestClock(NOW)) as service:
        await _set_up(service)
        await _use(service)
        await _reserve(service)
        await _hold(service)
        await _note_grants(service)
        await _exchange(service)
        await _keep_places(service)
        await _fill_gaps(service)
        await _post(service)
        # What waited without a price is charged when it gets one; a dynamic price turns its quantity into money.
        await submit(service, measurement("solo", 4, meter="fees", sender_id="fee", unit_price="0.5"))
        await create_price(service, "fees", DYNAMIC)


async def _post(service: Service) -> None:
    """``bureau`` is posted monthly: February with a supplement, March not yet. ``office`` paid for itself before."""
    await create_customer(service, "bureau", posting_policy="monthly")
    await submit(service, measurement("office", 73, at=FEBRUARY, sender_id="own"))
    await set_payer(service, "office", "bureau")
    for sender_id, at in (("posted", FEBRUARY), ("supplement", FEBRUARY), ("noted", MARCH)):
        await submit(service, measurement("office", 730, at=at, sender_id=sender_id))
        await service.postings.post(month_before(NOW))


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
    for key in ("too much", "much too much"):
        refused = Instruction(new_id(NOW), "bill", "shop", CREDITS, 99 * CREDIT, idempotency_key=key)
        with pytest.raises(InsufficientCredits):
            await service.instructions.carry_out(refused)


async def _reserve(service: Service) -> None:
    """Every fate of a pending transfer, in the books of ``desk``: one waits, one is posted in part, one is voided.

    Then its account for what expired is closed, and that of dollars closed and opened again.
    """
    await create_customer(service, "desk", credit_policy="prepaid")
    await grant(service, "desk", 10 * CREDIT)
    await grant(service, "desk", 1 * CREDIT, ledger=DOLLARS)
    async with service.pool.connection() as conn, conn.transaction():
        payer = (await service.customers.find(conn, ["desk"]))["desk"][1]

        def reserve(amount: int, flags: TransferFlags = TransferFlags.NONE, ledger: int = CREDITS) -> Transfer:
            movement = Movement(new_id(NOW), payer, ledger, amount)
            to = AccountCode.EXPIRED if flags else AccountCode.USED
            return transfer_of(movement, AccountCode.WALLET, to, TransferCode.EXCHANGE, TransferFlags.PENDING | flags)

        def resolve(pending: Transfer, flags: TransferFlags, amount: int) -> Transfer:
            return pending._replace(id=new_id(NOW), amount=amount, flags=flags, pending_id=pending.id)

        waits, posted, voided = reserve(1 * CREDIT), reserve(3 * CREDIT), reserve(2 * CREDIT)
        closes = reserve(0, TransferFlags.CLOSING_CREDIT)
        reopens = reserve(0, TransferFlags.CLOSING_CREDIT, DOLLARS)
        transfers = [
            *(waits, posted, voided, closes, reopens),
            resolve(posted, TransferFlags.POST_PENDING, 2 * CREDIT),
            resolve(voided, TransferFlags.VOID_PENDING, voided.amount),
            resolve(reopens, TransferFlags.VOID_PENDING, 0),
        ]
        results = await PostgresLedger(service.clock).post(conn, transfers)
    assert {result.status for result in results} == {Status.CREATED}


async def _hold(service: Service) -> None:
    """Every fate of a hold, in the books of ``inn``: one open, one settled in part, one beyond, one released."""
    await create_customer(service, "inn", credit_policy="prepaid")
    await grant(service, "inn", 10 * CREDIT)
    places = [PlaceHold(new_id(NOW), "inn", CREDITS, amount * CREDIT, description="stay") for amount in (1, 2, 3, 4)]
    _, part, excess, released = [await service.holds.carry_out(place) for place in places]
    await service.holds.carry_out(SettleHold(new_id(NOW), "inn", part.id, 1 * CREDIT))
    await service.holds.carry_out(SettleHold(new_id(NOW), "inn", excess.id, 5 * CREDIT))
    await service.holds.carry_out(ReleaseHold(new_id(NOW), "inn", released.id))


async def _exchange(service: Service) -> None:
    """In the books of ``mint``, opened empty: grants used, voided or expired, and money that came in without."""
    await service.instructions.carry_out(Instruction(new_id(NOW), "open", "mint", CREDITS, 0, credit_policy="postpaid"))
    await service.instructions.carry_out(Instruction(new_id(NOW), "top_up", "mint", CREDITS, CREDIT, "by cheque"))
    grants = [
        GrantCredits(new_id(NOW), "mint", CREDITS, amount * CREDIT, priority=priority, expires_at=expires_at)
        for amount, priority, expires_at in ((6, 2, None), (5, 1, NOW + timedelta(days=9)), (3, 3, None), (2, 2, None))
    ]
    for order in grants:
        await service.grants.give(order)
    async with service.pool.connection() as conn:
        credit, dollar, euro = [await service.assets.get(conn, code) for code in ("CREDIT", "USD", "EUR")]
    # 2.5 and 3.5 microdollars: to the even one of two, down and up.
    for target, amount, rate in (
        (euro, CREDIT, "1.5"),
        (dollar, 5, "0.5"),
        (dollar, 7, "0.5"),
        (dollar, 4 * CREDIT, "2"),
    ):
        await service.exchanges.carry_out(ExchangeOrder(new_id(NOW), "mint", credit, target, amount, Decimal(rate)))
    await _bill(service, "mint", 4 * CREDIT)
    await service.grants.void(VoidGrant(new_id(NOW), "mint", grants[2].id))
    await _bill(service, "mint", CREDIT)
    await _bill(service, "mint", 3 * CREDIT, DOLLARS)
    await service.grants.give(GrantCredits(new_id(NOW), "mint", DOLLARS, 2 * CREDIT))
    await service.exchanges.carry_out(ExchangeOrder(new_id(NOW), "mint", credit, dollar, CREDIT, Decimal("0.25")))
    await _bill(service, "mint", CREDIT // 2, DOLLARS)
    soon = NOW + timedelta(hours=1)
    await service.grants.give(GrantCredits(new_id(NOW), "mint", euro.ledger, CREDIT, expires_at=soon))
    async with service.pool.connection() as conn, conn.transaction():
        assert await service.grants.run_due(conn, soon, limit=10) == 1


async def _keep_places(service: Service) -> None:
    """Readers note how far they have come: in histories, and with the dollars of ``mint``."""
    history = Transactions(service.clock, milestone_every=3)
    async with service.pool.connection() as conn:
        customers = {
            key: id_ for key, (id_, _) in (await service.customers.find(conn, ["mint", "shop", "inn"])).items()
        }
        for customer_id in customers.values():
            await history.page(conn, customer_id, None, Wanted(), None, 10)
        await remaining.keep(conn, await remaining.fold(conn, [(customers["mint"], DOLLARS)]), posts=True)
    await _bill(service, "mint", CREDIT // 4, DOLLARS)


async def _fill_gaps(service: Service) -> None:
    """``plant`` has levels: measured, estimated, late, of half hours, in money; and a value older than all of them."""
    await put_meter(service, Meter("power", "gauge"))
    await submit(service, measurement("plant", 7, meter="power", resource="m", at=MARCH, sender_id="free"))
    await put_meter(service, Meter("power", "gauge", on_gap="held"))
    await put_meter(service, Meter("water", "gauge", on_gap="interpolated", interval_minutes=30))
    await put_meter(service, Meter("heat", "gauge", on_gap="held"))
    await create_price(service, "power")
    await create_price(service, "heat", DYNAMIC)
    for hour, value in ((0, 8), (2, 10), (5, 16), (5.5, 13), (3, 4)):
        at = MARCH + timedelta(hours=hour)
        for meter, resource in (("power", "m"), ("water", ""), ("heat", "")):
            price = "0.5" if meter == "heat" else None
            sender_id = f"{meter}-{hour}"
            sent = measurement(
                "plant", value, meter=meter, resource=resource, at=at, sender_id=sender_id, unit_price=price
            )
            await submit(service, sent)


async def _bill(service: Service, customer: str, amount: int, ledger: int = CREDITS) -> None:
    await service.instructions.carry_out(Instruction(new_id(NOW), "bill", customer, ledger, amount, "by hand"))


async def _note_grants(service: Service) -> None:
    """What came in is noted as grants, as the migration does it with what came in before there were any."""
    migration = (files("tallystick.database") / "migrations" / "0004_grants.sql").read_text(encoding="utf-8")
    (insert,) = re.findall(r"^INSERT INTO grants.*?(?=;)", migration, re.MULTILINE | re.DOTALL)
    async with service.pool.connection() as conn:
        await conn.execute(f"{insert} ON CONFLICT DO NOTHING".encode())
