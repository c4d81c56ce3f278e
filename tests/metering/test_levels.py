"""Gauges whose gaps are filled, through the one intake: estimates are charged, replaced by late values, and proven."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Unavailable
from tallystick.metering import quarantine, replay
from tallystick.metering.charges import ChargeId
from tallystick.metering.model import Measurement, Meter
from tallystick.metering.readings import Readings
from tallystick.service import Service
from tests.doubles.sweepable import Sweepable, item
from tests.metering.books import (
    assert_books_hold,
    balance,
    create_price,
    fetch,
    fresh,
    measurement,
    put_meter,
    submit,
)
from tests.metering.conftest import NOW, StartService
from tests.metering.levels import expected_levels, interval_at

TEN = datetime(2026, 3, 10, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
HELD = Meter("memory", "gauge", on_gap="held", max_gap_hours=3)
INTERPOLATED = Meter("memory", "gauge", on_gap="interpolated", max_gap_hours=3)
CUSTOMER_RESOURCES = [("ada", "a"), ("ada", "b"), ("bob", "a")]


def value(hour: Decimal | float | int, number: Decimal | int | str, **more: Any) -> Measurement:
    at = TEN + timedelta(minutes=int(hour * 60))
    return measurement(value=number, at=at, meter="memory", resource=more.pop("resource", "vm"), **more)


async def levels(service: Service, meter: Meter, customer: str = "ada") -> dict[datetime, Fraction]:
    """What the measurements of each interval sum to, by its begin; without those that come to nothing."""
    rows = await fetch(
        service,
        "select m.at, m.quantity from measurements as m join customers as c on c.id = m.customer_id"
        " join series as s on s.customer_id = m.customer_id and s.id = m.series_id where c.key = %s and s.meter = %s",
        customer,
        meter.key,
    )
    sums: defaultdict[datetime, Fraction] = defaultdict(Fraction)
    for at, quantity in rows:
        sums[interval_at(meter, at)] += Fraction(quantity)
    return {begin: total for begin, total in sums.items() if total}


async def remarks(service: Service) -> list[tuple[Any, ...]]:
    return await fetch(service, "select at, value, quantity, remark from measurements order by at, recorded_at, remark")


def by_hour(found: dict[datetime, Fraction]) -> dict[int, Fraction]:
    return {(begin - TEN) // HOUR: level for begin, level in found.items()}


# What is charged


async def test_a_gap_is_free_unless_the_meter_says_otherwise(service: Service) -> None:
    await put_meter(service, Meter("memory", "gauge"))
    await submit(service, value(0, 5), value(0.5, 5), value(3, 5))
    assert by_hour(await levels(service, Meter("memory"))) == {0: 10, 3: 5}
    assert await fetch(service, "select 1 from gauge_levels") == []


async def test_estimates_are_measurements_of_their_own_marked_and_charged(service: Service) -> None:
    await put_meter(service, INTERPOLATED)
    await create_price(service, "memory")
    receipt = await submit(service, value(0, 2))
    receipt = await submit(service, value(3, 8))
    assert (receipt.accepted, receipt.duplicates) == (1, 0), "nobody sent the estimates"
    assert await remarks(service) == [
        (TEN, 2, 2, None),
        (TEN + HOUR, 4, 4, "estimated (interpolated)"),
        (TEN + 2 * HOUR, 6, 6, "estimated (interpolated)"),
        (TEN + 3 * HOUR, 8, 8, None),
    ]
    assert (await balance(service, "ada")).used == 40_000_000


async def test_a_late_value_takes_the_place_of_its_estimate_and_the_difference_is_charged(service: Service) -> None:
    await put_meter(service, INTERPOLATED)
    await create_price(service, "memory")
    for sent in (value(0, 2), value(4, 10), value(2, 0)):
        await submit(service, sent)
    assert by_hour(await levels(service, INTERPOLATED)) == {0: 2, 1: 1, 3: 5, 4: 10}
    assert (await remarks(service))[1:6] == [
        (TEN + HOUR, 4, 4, "estimated (interpolated)"),
        (TEN + HOUR, 1, -3, "estimated (interpolated): 1 instead of 4"),
        (TEN + 2 * HOUR, 0, -6, "0 instead of the estimate 6 of its interval"),
        (TEN + 2 * HOUR, 6, 6, "estimated (interpolated)"),
        (TEN + 3 * HOUR, 8, 8, "estimated (interpolated)"),
    ]
    assert (await balance(service, "ada")).used == 36_000_000


async def test_a_correction_is_explained(service: Service) -> None:
    await put_meter(service, HELD)
    await create_price(service, "memory")
    for sent in (value(0, 5), value(2, 5), value(1, 8)):
        await submit(service, sent)
    rows = await fetch(service, "select customer_id, id from measurements where at = %s and value = 8", TEN + HOUR)
    async with service.pool.connection() as conn:
        told = await service.explain.charge(conn, ChargeId(*rows[0]))
    assert "quantity 3: 8 instead of the estimate 5 of its interval" in told.lines
    assert told.amount == 6_000_000


async def test_what_comes_twice_changes_nothing(service: Service, start_service: StartService) -> None:
    await put_meter(service, HELD)
    other = await start_service()
    sent = [value(0, 5), value(3, 8), value(1, 7)]
    for process in (service, other, service):
        await submit(process, *sent)
    assert by_hour(await levels(service, HELD)) == {0: 5, 1: 7, 2: 7, 3: 8}
    assert await fetch(service, "select count(*) from measurements") == [(4,)]


async def test_estimates_wait_for_a_price_like_everything_else(service: Service) -> None:
    await put_meter(service, HELD)
    receipt = await submit(service, value(0, 5), value(2, 5))
    assert receipt.unpriced == 2
    await create_price(service, "memory")
    assert (await balance(service, "ada")).used == 30_000_000


async def test_an_estimate_is_charged_in_the_month_and_at_the_price_of_its_interval(service: Service) -> None:
    """New York's March begins at 5:00 UTC, and a new price in the middle of the gap."""
    await put_meter(service, HELD)
    edge = datetime(2026, 3, 1, 5, tzinfo=UTC)
    await create_price(service, "memory")
    await create_price(service, "memory", {"type": "per_unit", "amount": "10"}, since=edge + HOUR)
    for hours in (-2, 2):
        await submit(service, measurement(value=1, at=edge + HOUR * hours, meter="memory"))
    rows = await fetch(service, "select at, period::text, amount from measurements order by at")
    assert rows == [
        (edge - 2 * HOUR, "2026-02-01", 2_000_000),
        (edge - HOUR, "2026-02-01", 2_000_000),
        (edge, "2026-03-01", 2_000_000),
        (edge + HOUR, "2026-03-01", 10_000_000),
        (edge + 2 * HOUR, "2026-03-01", 10_000_000),
    ]


async def test_another_interval_than_an_hour(service: Service) -> None:
    meter = Meter("memory", "gauge", on_gap="held", max_gap_hours=1, interval_minutes=15)
    await put_meter(service, meter)
    await put_meter(service, Meter("disk", "gauge", interval_minutes=30))
    await submit(service, value(0, 4), value(0.75, 8), measurement(value=6, at=TEN, meter="disk"))
    assert await remarks(service) == [
        (TEN, 4, 1, "4 x 15 minutes"),
        (TEN, 6, 3, "6 x 30 minutes"),
        (TEN + HOUR / 4, 4, 1, "estimated (held); 4 x 15 minutes"),
        (TEN + HOUR / 2, 4, 1, "estimated (held); 4 x 15 minutes"),
        (TEN + HOUR * 3 / 4, 8, 2, "8 x 15 minutes"),
    ]


async def test_a_meter_that_comes_to_fill_its_gaps_does_so_from_then_on(service: Service) -> None:
    await put_meter(service, Meter("memory", "gauge"))
    await submit(service, value(0, 5))
    await put_meter(service, HELD)
    for hour in (2, 4):
        await submit(service, value(hour, 5))
    await put_meter(service, INTERPOLATED)
    await submit(service, value(6, 9))
    assert by_hour(await levels(service, HELD)) == {0: 5, 2: 5, 3: 5, 4: 5, 5: 7, 6: 9}


# Any order

times = st.integers(0, 20 * 60)
sendings = st.lists(
    st.tuples(st.sampled_from(CUSTOMER_RESOURCES), times, st.integers(-5, 20)),
    min_size=2,
    max_size=25,
    unique_by=lambda sent: sent[:2],
)
policies = st.builds(
    lambda policy, gap, minutes: Meter("", "gauge", on_gap=policy, max_gap_hours=gap, interval_minutes=minutes),
    st.sampled_from(["held", "interpolated"]),
    st.integers(1, 4),
    st.sampled_from([30, 60]),
)
few = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@few
@given(policy=policies, sent=sendings, cuts=st.lists(st.integers(1, 24), max_size=6))
async def test_in_any_order_and_any_batches_the_sum_is_what_the_policy_says(
    service: Service, policy: Meter, sent: list[tuple[tuple[str, str], int, int]], cuts: list[int]
) -> None:
    """Of all values, in the end; and every charge is proven meanwhile."""
    key = fresh("memory")
    meter = await put_meter(service, msgspec.structs.replace(policy, key=key))
    await create_price(service, key, {"type": "per_unit", "amount": "0.3", "per": "7", "free": "2"})
    every = [
        measurement(customer, number, at=TEN + timedelta(minutes=minute), meter=key, resource=resource)
        for (customer, resource), minute, number in sent
    ]
    for start, end in _pieces(len(every), cuts):
        await submit(service, *every[start:end])
    for customer in {customer for (customer, _), _, _ in sent}:
        assert await levels(service, meter, customer) == _expected(meter, customer, sent)
    await assert_books_hold(service)


def _pieces(length: int, cuts: list[int]) -> Iterable[tuple[int, int]]:
    places = sorted({0, length, *(cut for cut in cuts if cut < length)})
    return pairwise(places)


def _expected(meter: Meter, customer: str, sent: list[tuple[tuple[str, str], int, int]]) -> dict[datetime, Fraction]:
    sums: defaultdict[datetime, Fraction] = defaultdict(Fraction)
    for place in {place for place, _, _ in sent if place[0] == customer}:
        found = [(TEN + timedelta(minutes=minute), Fraction(number)) for at, minute, number in sent if at == place]
        for begin, level in expected_levels(meter, found).items():
            sums[begin] += level * meter.interval_minutes / 60
    return {begin: total for begin, total in sums.items() if total}


async def test_two_processes_at_once_come_to_the_same(service: Service, start_service: StartService) -> None:
    await put_meter(service, INTERPOLATED)
    await create_price(service, "memory")
    other = await start_service()
    hours = [(number * 7) % 23 for number in range(23)]
    sent = [value(hour, hour * hour % 11) for hour in hours if hour % 5]
    await asyncio.gather(
        *(submit(process, each) for place, each in enumerate(sent) for process in ((service, other)[place % 2],))
    )
    found = [(each.at, Fraction(each.value)) for each in sent]
    expected = {begin: level for begin, level in expected_levels(INTERPOLATED, found).items() if level}
    assert await levels(service, INTERPOLATED) == expected


# With readings


async def test_a_missed_reading_is_filled_and_an_app_that_was_stopped_is_not(
    service: Service, clock: TestClock
) -> None:
    """``stops`` is missing from a reading that took place, ``stays`` only because nothing could be read."""
    await put_meter(service, Meter("cfapps", "gauge", on_gap="held"))
    source = Sweepable(items=[item("stays", 4), item("stops", 16)])
    readings = Readings(service.pool, clock, service.intake, service.resources, service.customers)

    async def hourly(*items: str, error: Exception | None = None) -> None:
        source.items = [each for each in (item("stays", 4), item("stops", 16)) if each.resource in items]
        source.error = error
        await readings.take(source, periodic=True)
        clock.advance(HOUR)

    await hourly("stays", "stops")
    await hourly(error=Unavailable("gone"))  # its hour is a gap
    await hourly("stays", "stops")
    await hourly("stays")  # ``stops`` was not there
    clock.advance(HOUR)  # nobody even tried: a gap, but what was not there before it is not there in it
    await hourly("stays", "stops")
    found = await levels(service, Meter("cfapps"))
    assert {(begin - NOW) // HOUR: level for begin, level in found.items()} == {0: 20, 1: 20, 2: 20, 3: 4, 4: 4, 5: 20}


async def test_a_meter_that_failed_in_a_partial_reading_was_not_read(service: Service, clock: TestClock) -> None:
    for key in ("cfapps", "cfservices"):
        await put_meter(service, Meter(key, "gauge", on_gap="held"))
    everything = [item("a", 3), item("db", 1, meter="cfservices")]
    readings = Readings(service.pool, clock, service.intake, service.resources, service.customers)
    for items, broken in ((everything, {}), (everything[1:], {"cfapps": "500"}), (everything, {})):
        await readings.take(Sweepable(items=items, broken=broken), periodic=True)
        clock.advance(HOUR)
    assert await levels(service, Meter("cfapps")) == {NOW + HOUR * hour: 3 for hour in range(3)}
    assert await fetch(service, "select count(*) from measurements where remark is not null") == [(1,)]


async def test_a_piece_that_is_repaired_days_later_replaces_the_estimate(service: Service, clock: TestClock) -> None:
    await put_meter(service, Meter("cfapps", "gauge", on_gap="held"))
    await create_price(service, "cfapps")
    readings = Readings(service.pool, clock, service.intake, service.resources, service.customers)
    for error in (None, Unavailable("gone"), None):
        await readings.take(Sweepable(items=[item("a", 3)], error=error), periodic=True)
        clock.advance(HOUR)
    assert (await balance(service, "ada")).used == 18_000_000

    late = json.dumps(
        {
            "source": "reading:platform",
            "sender_id": "late",
            "customer": "ada",
            "meter": "cfapps",
            "resource": "a",
            "at": (NOW + HOUR).isoformat(),
            "value": "7",
        }
    )
    await readings.take(Sweepable(items=[item("a", 1, None)]), periodic=False)
    clock.advance(timedelta(days=3))
    async with service.pool.connection() as conn, conn.transaction():
        (waiting,) = (await quarantine.page(conn, None, 10, replayed=False)).items
        await quarantine.repair(conn, waiting.id, late.encode())
    done = await replay.replay(service.pool, clock, service.intake, [waiting.id])
    assert done.pieces[0].recorded
    found = await levels(service, Meter("cfapps"))
    assert found == {NOW: 3, NOW + HOUR: 7, NOW + 2 * HOUR: 3}
    assert (await balance(service, "ada")).used == 26_000_000
