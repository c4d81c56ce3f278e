"""Intake on a real database: however usage comes, it is counted and charged once, and to the microcredit."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest

from tallystick.database.pool import Connection
from tallystick.metering.directory import Directories
from tallystick.metering.intake import Intake, Recorded
from tallystick.metering.model import Batch, Measurement, Meter, Receipt, Unreadable
from tallystick.service import Service
from tests.metering.books import (
    DOLLARS,
    DYNAMIC,
    MARCH,
    MODELS,
    QUANTA,
    assert_books_agree,
    balance,
    batch,
    charged,
    create_customer,
    create_price,
    fetch,
    grant,
    measurement,
    put_meter,
    quantity,
    submit,
)
from tests.metering.conftest import StartService
from tests.metering.reference import Accountant


async def record_together(service: Service, *batches: Batch) -> list[Receipt]:
    """Records batches in one transaction of their own, past the queue."""
    async with service.pool.connection() as conn, conn.transaction():
        return (await service.intake._intake.record(conn, list(batches))).receipts


# Once, whatever is sent again


async def test_an_id_counts_once_in_a_batch_and_across_batches(service: Service) -> None:
    await create_price(service)
    first, second = measurement(value=3), measurement(value=4)

    receipt = await submit(service, first, second, first)
    assert (receipt.accepted, receipt.duplicates) == (2, 1)
    receipt = await submit(service, second, first, second)
    assert (receipt.accepted, receipt.duplicates, receipt.unpriced) == (0, 3, 0)
    assert await charged(service, "ada") == 14_000_000


async def test_an_id_counts_once_whatever_else_differs(service: Service) -> None:
    await create_price(service)
    sent = measurement(value=3, sender_id="7")
    other_values = {
        "value": Decimal(9),
        "meter": "pages",
        "at": MARCH + timedelta(days=40),
        "kind": "x",
        "agent": "bot",
    }

    receipt = await submit(service, sent, msgspec.structs.replace(sent, value=Decimal(4)))
    assert (receipt.accepted, receipt.duplicates) == (1, 1)
    for field, value in other_values.items():
        receipt = await submit(service, msgspec.structs.replace(sent, **{field: value}))
        assert (receipt.accepted, receipt.duplicates) == (0, 1), field
    assert await charged(service, "ada") == 6_000_000
    assert await quantity(service, "ada") == 3


@pytest.mark.parametrize("sender_id", ["7", "0198c5a0-7c1d-7000-8000-000000000007"])
async def test_the_same_id_of_another_source_or_customer_is_another_measurement(
    service: Service, sender_id: str
) -> None:
    sent = [
        measurement(customer, sender_id=sender_id, source=source)
        for customer in ("ada", "bob")
        for source in ("events:a", "events:b", "line-protocol")
    ]
    assert (await submit(service, *sent)).accepted == 6
    assert (await submit(service, *sent)).duplicates == 6


async def test_an_id_counts_once_across_a_restart(service: Service, start_service: StartService) -> None:
    sent = [measurement(value=number) for number in range(5)]
    await submit(service, *sent[:3])
    restarted = await start_service()
    receipt = await submit(restarted, *sent)
    assert (receipt.accepted, receipt.duplicates) == (2, 3)
    assert await quantity(restarted, "ada") == 10


async def test_whoever_gives_up_waiting_may_send_again(service: Service) -> None:
    sent = measurement()
    waiting_for = asyncio.create_task(submit(service, sent))
    await asyncio.sleep(0)  # it stands in the queue now
    waiting_for.cancel()
    await asyncio.gather(waiting_for, return_exceptions=True)
    await submit(service, sent)
    assert await quantity(service, "ada") == 1


@pytest.mark.parametrize("seed", range(3))
async def test_two_processes_at_the_same_time_count_every_id_once(
    service: Service, start_service: StartService, seed: int
) -> None:
    """Nobody knows any customer, meter or stream when it begins, so the processes also race to create them."""
    processes, dice = (service, await start_service()), random.Random(seed)
    meters = [Meter("peak", "gauge", "max"), Meter("users", "delta", "unique"), Meter("tokens")]
    accountant = Accountant({meter.key: await put_meter(service, meter) for meter in meters})
    for meter in meters:
        accountant.prices |= await create_price(service, meter.key, MODELS[3], quantum=QUANTA[1])
    events = [
        measurement(f"c{dice.randrange(6)}", dice.randrange(1, 40), meter=dice.choice(meters).key) for _ in range(150)
    ]
    parts = [*(dice.sample(events, dice.randrange(1, 40)) for _ in range(24)), events]

    receipts = await asyncio.gather(*(submit(dice.choice(processes), *part) for part in parts))

    assert sum(receipt.accepted for receipt in receipts) == accountant.record(events)
    await assert_books_agree(service, accountant, {event.customer: event.customer for event in events})


async def test_a_counter_that_many_transactions_read_has_one_baseline_and_loses_nothing(
    service: Service, start_service: StartService
) -> None:
    """Eight at a time, in two processes; whatever overtakes what, each customer's rises lead from its baseline on."""
    processes = (service, await start_service())
    await put_meter(service, Meter("hours", "counter"))
    await create_price(service, "hours")
    readings = [
        measurement(f"c{number % 3}", number, meter="hours", resource="vm", at=MARCH + timedelta(hours=number))
        for number in range(90)
    ]
    random.Random(1).shuffle(readings)
    await asyncio.gather(*(record_together(processes[int(r.value) % 2], batch([r])) for r in readings))

    rows = await fetch(
        service,
        "select count(*) filter (where remark like 'baseline%%'),"
        " sum(quantity) + sum(value) filter (where remark like 'baseline%%'), max(value) from measurements"
        " group by customer_id order by max(value)",
    )
    assert rows == [(1, last, last) for last in (87, 88, 89)]


# Kept before it is understood


async def test_whatever_is_unknown_is_created(service: Service) -> None:
    receipt = await submit(service, measurement("new", 5, meter="brand-new", kind="large"))
    assert (receipt.accepted, receipt.unpriced, receipt.rejected) == (1, 1, [])
    async with service.pool.connection() as conn:
        customer = await service.customers.get(conn, "new")
        meter = await service.meters.get(conn, "brand-new")
    assert (customer.credit_policy, customer.payer) == ("postpaid", None)
    assert (meter.kind, meter.aggregation) == ("delta", "sum")
    assert await fetch(service, "select key from resource_kinds where meter = 'brand-new'") == [("large",)]
    assert await quantity(service, "new") == 5


async def test_usage_that_a_dynamic_price_finds_without_unit_price_waits(service: Service) -> None:
    await create_price(service, "calls", DYNAMIC)
    receipt = await submit(
        service, measurement(value=3, meter="calls", unit_price="0.25"), measurement(value=3, meter="calls")
    )
    assert (receipt.accepted, receipt.unpriced) == (2, 1)
    assert await charged(service, "ada") == 750_000


async def test_usage_before_the_first_price_waits_and_its_neighbours_do_not(service: Service) -> None:
    await create_price(service, since=MARCH)
    receipt = await submit(
        service, measurement(value=1, at=MARCH - timedelta(microseconds=1)), measurement(value=10, at=MARCH)
    )
    assert (receipt.accepted, receipt.unpriced) == (2, 1)
    assert await charged(service, "ada") == 20_000_000


@pytest.mark.parametrize("order", [1, -1])
async def test_a_price_ends_where_the_next_one_or_the_customer_s_own_begins(service: Service, order: int) -> None:
    """All of it within one stream and month, whose price is remembered from one measurement to the next."""
    await create_customer(service, "ada")
    for day, (customer, amount) in enumerate([(None, 1), (None, 10), ("ada", 100), (None, 1000), ("ada", 10000)]):
        model = {"type": "per_unit", "amount": str(amount)}
        await create_price(service, model=model, customer=customer, since=MARCH + timedelta(days=day))
    edges = [MARCH + timedelta(days=day, microseconds=before) for day in range(5) for before in (-1, 0)]
    await submit(service, *(measurement(at=at) for at in edges[::order]))
    amounts = await fetch(service, "select amount from measurements order by at")
    millions = [None, 1, 1, 10, 10, 100, 100, 100, 100, 10000]
    assert [amount for (amount,) in amounts] == [each and each * 1_000_000 for each in millions]


async def test_lines_of_an_unknown_meter_wait_in_quarantine_beside_their_neighbours(service: Service) -> None:
    lines = [measurement(meter=meter, source="line-protocol") for meter in ("unknown", "project_vcpu_usage", "unknown")]
    receipt = await service.intake.submit(batch(lines, source="line-protocol", creates_meters=False))

    assert receipt.accepted == 1
    assert [(rejection.index, rejection.code) for rejection in receipt.rejected] == [
        (0, "unknown_meter"),
        (2, "unknown_meter"),
    ]
    kept = await fetch(service, "select source, code, raw from quarantine")
    assert {(source, code) for source, code, _ in kept} == {("measurement", "unknown_meter")}
    assert {msgspec.json.decode(raw, type=Measurement) for *_, raw in kept} == {lines[0], lines[2]}
    async with service.pool.connection() as conn:
        assert await service.meters.find(conn, "unknown") is None

    await put_meter(service, Meter("unknown"))
    receipt = await service.intake.submit(batch(lines, source="line-protocol", creates_meters=False))
    assert (receipt.accepted, receipt.duplicates, receipt.rejected) == (2, 1, [])


async def test_of_one_instant_the_value_that_was_sent_first_counts(service: Service) -> None:
    await put_meter(service, Meter("seats", "gauge", "latest"))
    first, second = (measurement(value=value, meter="seats") for value in (5, 9))
    await submit(service, first, second, first)
    assert await quantity(service, "ada") == 5


@pytest.mark.parametrize("creating_first", [True, False])
async def test_a_batch_that_may_not_create_meters_takes_nothing_from_one_that_may(
    service: Service, creating_first: bool
) -> None:
    """Both are recorded in one transaction, and all that they share is a stream nobody knew."""
    creating, other = measurement(meter="new"), measurement(meter="new")
    batches = [batch([creating]), batch([other], creates_meters=False)]
    if not creating_first:
        batches.reverse()
    receipts = await record_together(service, *batches)
    for receipt in receipts:
        assert receipt.accepted + len(receipt.rejected) == 1
    assert receipts[0 if creating_first else 1].accepted == 1


async def test_what_cannot_be_read_stops_nothing_else(service: Service) -> None:
    rubbish = [
        Unreadable(3, b"not json", "not_json", "an event must be JSON"),
        Unreadable(1, b"\x00\xff", "text_not_storable", "an event must be UTF-8"),
    ]
    receipt = await service.intake.submit(batch([measurement()], unreadable=rubbish))
    assert receipt.accepted == 1
    assert [(r.index, r.code) for r in receipt.rejected] == [(1, "text_not_storable"), (3, "not_json")]
    receipt = await service.intake.submit(batch([], unreadable=rubbish))
    assert (receipt.accepted, len(receipt.rejected)) == (0, 2)
    assert await fetch(service, "select raw from quarantine order by raw") == [(b"\x00\xff",), (b"not json",)]


async def test_what_one_transaction_knows_another_may_not_make_it_forget(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory starts again empty while a transaction that relied on it waits for the database."""
    await create_price(service)
    await submit(service, measurement("known"))
    create_streams = Directories.create_streams

    async def forgetful(directories: Directories, *arguments: Any) -> Any:
        directories._current.streams.clear()
        return await create_streams(directories, *arguments)

    monkeypatch.setattr(Directories, "create_streams", forgetful)
    (receipt,) = await record_together(service, batch([measurement("known"), measurement("new")]))
    assert (receipt.accepted, receipt.duplicates) == (2, 0)


async def test_a_batch_without_anything_is_nothing(service: Service) -> None:
    receipt = await submit(service)
    assert (receipt.accepted, receipt.duplicates, receipt.unpriced, receipt.rejected) == (0, 0, 0, [])


async def test_a_commit_that_is_lost_with_its_connection_is_repeated(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the transaction created is gone with it, and must not be remembered."""
    record = Intake.record
    lost: list[Recorded] = []

    async def lose_once(intake: Intake, conn: Connection, batches: list[Batch]) -> Recorded:
        recorded = await record(intake, conn, batches)
        if not lost:
            lost.append(recorded)
            with psycopg.connect(database_url) as other:
                other.execute("select pg_terminate_backend(%s, 10000)", [conn.info.backend_pid])
        return recorded

    monkeypatch.setattr(Intake, "record", lose_once)
    await create_price(service)
    receipt = await submit(service, measurement(kind="new"), measurement(value=3))
    assert (receipt.accepted, receipt.duplicates) == (2, 0)
    assert (len(lost), await charged(service, "ada")) == (1, 6_000_000)


# Whose money


async def test_the_payer_pays_for_its_customers_and_never_anybody_else(service: Service) -> None:
    await create_price(service)
    await create_customer(service, "org", credit_policy="prepaid")
    for key in ("left", "right"):
        await create_customer(service, key, payer="org")
    await grant(service, "org", 5_000_000)

    await submit(
        service, measurement("left", 1), measurement("right", 2), measurement("org", 3), measurement("other", 7)
    )

    standing = await balance(service, "org")
    assert (standing.wallet, standing.arrears, standing.used) == (0, 7_000_000, 12_000_000)
    assert (await balance(service, "left")).used == (await balance(service, "right")).used == 0
    assert (await balance(service, "other")).balance == -14_000_000
    assert await charged(service, "left") == 2_000_000


async def test_money_that_comes_in_repays_arrears_first(service: Service) -> None:
    await create_price(service)
    await create_customer(service, "org", credit_policy="prepaid")
    await submit(service, measurement("org", 4))
    await grant(service, "org", 3_000_000)
    standing = await balance(service, "org")
    assert (standing.wallet, standing.arrears) == (0, 5_000_000)
    await submit(service, measurement("org", -1))  # a correction gives money back
    assert (await balance(service, "org")).arrears == 3_000_000
    await grant(service, "org", 10_000_000)
    standing = await balance(service, "org")
    assert (standing.wallet, standing.arrears, standing.used) == (7_000_000, 0, 6_000_000)


async def test_a_volume_step_gives_money_back(service: Service) -> None:
    await create_price(
        service, model={"type": "volume", "tiers": [{"up_to": "10", "amount": "1"}, {"up_to": None, "amount": "0.1"}]}
    )
    for value in (10, 1):
        await submit(service, measurement(value=value))
    amounts = await fetch(service, "select amount from measurements order by amount")
    assert amounts == [(-8_900_000,), (10_000_000,)]
    assert (await balance(service, "ada")).used == 1_100_000


async def test_charges_that_cancel_out_are_still_found_by_their_transfer(service: Service) -> None:
    await create_price(service)
    await submit(service, measurement(value=2), measurement(value=-2))
    rows = await fetch(
        service, "select count(*), count(distinct transfer_id) from measurements where transfer_id is not null"
    )
    assert rows == [(2, 1)]
    assert (await balance(service, "ada")).balance == 0


async def test_each_asset_has_a_wallet_of_its_own(service: Service) -> None:
    await create_price(service, "tokens")
    await create_price(service, "disk", {"type": "per_unit", "amount": "0.5"}, asset="USD")
    await submit(service, measurement(value=1), measurement(value=3, meter="disk"))
    assert (await balance(service, "ada")).used == 2_000_000
    assert (await balance(service, "ada", ledger=DOLLARS)).used == 1_500_000


# Months


@pytest.mark.parametrize(
    ("at", "month"),
    [
        ("2026-03-01T04:59:59.999999", "2026-02"),
        ("2026-03-01T05:00:00", "2026-03"),  # winter time: UTC-5
        ("2026-04-01T03:59:59.999999", "2026-03"),
        ("2026-04-01T04:00:00", "2026-04"),  # summer time: UTC-4
        ("2026-11-01T03:59:59.999999", "2026-10"),
        ("2026-11-01T04:00:00", "2026-11"),
        ("2026-12-01T04:59:59.999999", "2026-11"),
        ("2026-12-01T05:00:00", "2026-12"),
    ],
)
async def test_a_month_begins_at_midnight_in_new_york(service: Service, at: str, month: str) -> None:
    await submit(service, measurement(at=datetime.fromisoformat(at).replace(tzinfo=UTC)))
    assert await fetch(service, "select to_char(period, 'YYYY-MM') from measurements") == [(month,)]


async def test_a_month_of_hourly_readings_costs_exactly_its_price(service: Service) -> None:
    """March has 743 hours in New York; an hour costs 1369.86 credits and a little, which no rounding may add up."""
    await create_price(service, "memory", MODELS[0], quantum=Decimal("0.01"))
    begin = datetime(2026, 3, 1, 5, tzinfo=UTC)
    hours = [measurement(meter="memory", at=begin + timedelta(hours=hour)) for hour in range(743)]
    for start in range(0, len(hours), 200):
        await submit(service, *hours[start : start + 200])
    assert await fetch(service, "select distinct to_char(period, 'YYYY-MM') from measurements") == [("2026-03",)]
    assert await charged(service, "ada") == 1_017_808_220_000  # 743 * 1,000,000 / 730 = 1,017,808.219...
    assert (await balance(service, "ada")).used == 1_017_808_220_000
