"""Bookkeeping for tests: making measurements and prices, and comparing the database with what it must hold."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import count
from typing import Any
from uuid import UUID

from tallystick.customers.model import Customer, NewCustomer
from tallystick.kernel.ids import NIL
from tallystick.ledger.wallets import Balance, CreditPolicy, Movement, PostingPolicy, TransferCode
from tallystick.metering.model import Batch, Measurement, Meter, Receipt, Unreadable
from tallystick.operations.verify import snapshot
from tallystick.pricing.functions import parse_model
from tallystick.pricing.model import NewPrice
from tallystick.service import Service
from tests.metering.reference import Accountant, cost

MARCH = datetime(2026, 3, 10, 9, tzinfo=UTC)
ALWAYS = datetime(2020, 1, 1, tzinfo=UTC)
MICRO = Decimal("0.000001")
CREDITS, DOLLARS = 1, 840

PER_UNIT = {"type": "per_unit", "amount": "2"}
DYNAMIC = {"type": "dynamic"}

MODELS: tuple[dict[str, Any], ...] = (
    {"type": "per_unit", "amount": "1000000", "per": "730"},
    {"type": "per_unit", "amount": "0.3", "per": "1024", "free": "10"},
    {"type": "package", "amount": "5", "size": "7.5"},
    {
        "type": "graduated",
        "tiers": [
            {"up_to": "10", "amount": "0.01"},
            {"up_to": "100", "amount": "0.007", "flat": "1"},
            {"up_to": None, "amount": "1", "per": "3"},
        ],
    },
    {
        "type": "volume",
        "tiers": [
            {"up_to": "20", "amount": "3"},
            {"up_to": "200", "amount": "0.5"},
            {"up_to": None, "amount": "0.001"},
        ],
    },
    {"type": "dynamic"},
)
"""One of each type, of which the last is dynamic."""

QUANTA = (MICRO, Decimal("0.01"), Decimal("2.5"))

COUNTING = (
    Meter("", "delta"),
    Meter("", "counter"),
    Meter("", "counter", on_drop="from_zero"),
    Meter("", "gauge"),
    Meter("", "gauge", "max"),
    Meter("", "gauge", "latest"),
    Meter("", "delta", "unique"),
)
"""Every way of counting."""

EMPTY = """
delete from measurements; delete from usage_totals; delete from series; delete from meter_states; delete from resources;
delete from former_payers; delete from unposted_usage; delete from postings; delete from posting_lines;
delete from quarantine; delete from readings; delete from gauge_levels; delete from pulls;
delete from ledger_transfers; delete from ledger_batches; delete from ledger_failures; delete from ledger_outbox;
delete from ledger_accounts; delete from ledger_milestones; delete from ledger_home;
delete from wallet_operations; delete from idempotency_keys; delete from exchanges; delete from holds;
delete from grants; delete from grant_checkpoints; delete from agreements; delete from tiers; delete from display_rates;
delete from job_failures; delete from job_slots; delete from job_schedule; delete from books_clock;
delete from procrastinate_events; delete from procrastinate_periodic_defers; delete from procrastinate_jobs;
delete from procrastinate_workers;
delete from prices; delete from resource_kinds; delete from meters; delete from outbox_events;
delete from webhook_deliveries; delete from webhook_endpoints;
delete from notices; delete from notice_wallets;
delete from notice_rules where customer_id is not null or kind <> 'share';
delete from notice_days; delete from notice_progress; delete from customer_maintainers;
delete from agents; delete from api_keys; delete from customers;
delete from assets where ledger > 1000;
update holds_checked set sequence = 0;
update catalogue set version = version + 1"""
"""Takes everything out of a database, and leaves what a new one has. The version tells services on it to forget what
they know."""

_numbers = count(1)


def fresh(name: str) -> str:
    """A key that was never used before."""
    return f"{name}-{next(_numbers)}"


def measurement(
    customer: str = "ada",
    value: Decimal | int | str = 1,
    *,
    at: datetime = MARCH,
    meter: str = "tokens",
    sender_id: str | None = None,
    source: str = "events:test",
    kind: str = "",
    resource: str = "",
    agent: str = "",
    unit_price: Decimal | int | str | None = None,
) -> Measurement:
    """A measurement with an id of its own, unless one is given."""
    return Measurement(
        source,
        sender_id or fresh("id"),
        customer,
        meter,
        at,
        Decimal(value),
        kind,
        resource,
        agent,
        None if unit_price is None else Decimal(unit_price),
    )


def batch(
    measurements: Iterable[Measurement],
    *,
    unreadable: Iterable[Unreadable] = (),
    source: str = "events",
    creates_meters: bool = True,
) -> Batch:
    """A batch in which what could not be read stood behind what could."""
    readable = list(measurements)
    return Batch(source, readable, list(range(len(readable))), list(unreadable), creates_meters)


async def start_over(service: Service) -> None:
    """Empties the service's database."""
    async with service.pool.connection() as conn, conn.transaction():
        for statement in EMPTY.split(";"):
            await conn.execute(statement)


async def submit(service: Service, *measurements: Measurement) -> Receipt:
    return await service.intake.submit(batch(measurements))


async def put_meter(service: Service, meter: Meter) -> Meter:
    async with service.pool.connection() as conn, conn.transaction():
        return await service.meters.put(conn, meter)


async def create_customer(
    service: Service,
    key: str,
    *,
    payer: str | None = None,
    credit_policy: CreditPolicy = "postpaid",
    posting_policy: PostingPolicy = "immediate",
) -> str:
    new = NewCustomer(key, payer=payer, credit_policy=credit_policy, posting_policy=posting_policy)
    async with service.pool.connection() as conn, conn.transaction():
        return (await service.customers.create(conn, new)).key


async def set_payer(service: Service, key: str, payer: str | None) -> Customer:
    async with service.pool.connection() as conn, conn.transaction():
        return await service.payers.change(conn, key, payer)


async def set_posting_policy(service: Service, key: str, policy: PostingPolicy) -> Customer:
    async with service.pool.connection() as conn, conn.transaction():
        return await service.payers.set_posting_policy(conn, key, policy)


async def create_price(
    service: Service,
    meter: str = "tokens",
    model: dict[str, Any] = PER_UNIT,
    *,
    kind: str = "",
    customer: str | None = None,
    since: datetime = ALWAYS,
    asset: str = "CREDIT",
    quantum: Decimal = MICRO,
    settle: bool = True,
) -> dict[UUID, NewPrice]:
    """Creates a price, and the meter if there is none, and charges what waited. Returns the price by its id."""
    new = NewPrice(meter, kind, customer, since, asset, quantum, parse_model(model))
    async with service.pool.connection() as conn, conn.transaction():
        if await service.meters.find(conn, meter) is None:
            await service.meters.put(conn, Meter(meter))
        price = await service.pricing.create(conn, new)
    if settle:
        await service.settlement.settle()
    return {price.id: new}


async def grant(service: Service, customer: str, amount: int, *, ledger: int = CREDITS) -> None:
    """Gives ``amount`` microunits."""
    async with service.pool.connection() as conn, conn.transaction():
        payer = (await service.customers.find(conn, [customer]))[customer][1]
        movement = Movement(UUID(int=next(_numbers)), payer, ledger, amount)
        await service.wallets.grant(conn, [movement], TransferCode.GRANT)


async def balance(service: Service, customer: str, *, ledger: int = CREDITS) -> Balance:
    """The standing of a customer's own wallet; all zero if nothing ever moved."""
    async with service.pool.connection() as conn:
        customer_id, _ = (await service.customers.find(conn, [customer]))[customer]
        standing = await service.wallets.balances(conn, customer_id, [ledger])
    return standing[0] if standing else Balance(ledger, 0, 0, 0, 0)


async def fetch(service: Service, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    async with service.pool.connection() as conn:
        return list(await (await conn.execute(query, parameters)).fetchall())


async def waiting(service: Service) -> int:
    """How many measurements have no price."""
    return int((await fetch(service, "select count(*) from measurements where price_id is null"))[0][0])


async def charged(service: Service, customer: str) -> int:
    """Microunits, of whatever asset, that all measurements of a customer were charged."""
    rows = await fetch(
        service,
        "select sum(amount) from measurements as m join customers as c on c.id = m.customer_id where c.key = %s",
        customer,
    )
    return int(rows[0][0] or 0)


async def quantity(service: Service, customer: str) -> Fraction:
    """The sum of all usage totals of a customer."""
    rows = await fetch(
        service,
        "select sum(quantity) from usage_totals as t join customers as c on c.id = t.customer_id where c.key = %s",
        customer,
    )
    return Fraction(rows[0][0] or 0)


async def assert_books_agree(service: Service, accountant: Accountant, customers: dict[str, str]) -> None:
    """The totals of ``customers``, and what was charged to whom each of them names as payer, are the accountant's."""
    rows = await fetch(
        service,
        "select c.key, to_char(t.period, 'YYYY-MM'), t.price_id, t.meter, t.kind, t.quantity, t.measurements"
        " from usage_totals as t join customers as c on c.id = t.customer_id where c.key = any (%s)",
        list(customers),
    )
    stored = {(*row[:2], None if row[2] == NIL else row[2], *row[3:5]): (Fraction(row[5]), row[6]) for row in rows}
    assert stored == {key: (total, accountant.counted[key]) for key, total in accountant.totals.items()}

    used: dict[tuple[str, str], int] = {}
    for (customer, asset), due in accountant.due().items():
        payer = customers[customer]
        used[payer, asset] = used.get((payer, asset), 0) + due
    for (payer, asset), due in used.items():
        standing = await balance(service, payer, ledger=CREDITS if asset == "CREDIT" else DOLLARS)
        assert standing.used == due, f"{payer} used {standing.used} {asset}, not {due}"


async def assert_books_hold(service: Service) -> None:
    """What must be true of any books, whatever happened: ``Verify`` finds nothing, and a pencil comes to the same."""
    async with snapshot(service.pool) as conn:
        verdict = await service.verify.run(conn)
    assert verdict.holds, [check.detail for check in verdict.checks if not check.holds]
    rows = await fetch(
        service,
        "select p.model, p.quantum, t.quantity, sum(m.amount) from usage_totals as t"
        " join prices as p on p.id = t.price_id"
        " join measurements as m on m.customer_id = t.customer_id and m.period = t.period and m.price_id = t.price_id"
        " group by t.customer_id, t.period, t.price_id, p.model, p.quantum, t.quantity",
    )
    for model, quantum, total, amount in rows:
        assert cost(model, quantum, Fraction(total)) == amount, f"F({total}) under {model} is not {amount}"
    assert not await fetch(
        service,
        "select customer_id from ledger_accounts group by customer_id, ledger"
        " having sum(credits_posted - debits_posted - debits_pending) filter (where code = 1) > 0"
        " and sum(credits_posted - debits_posted) filter (where code = 2) < 0",
    ), "a wallet holds credits while arrears are owed"
