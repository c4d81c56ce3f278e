"""Readings: each sweep counts once in its interval, whatever fails, dies or comes twice, and loses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tallystick.customers.model import NewCustomer
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, Overloaded, Unavailable
from tallystick.kernel.ids import NIL, new_id
from tallystick.ledger.wallets import PostingPolicy
from tallystick.metering import quarantine, readings, replay
from tallystick.metering.model import Batch, Receipt
from tallystick.metering.quarantine import Quarantined
from tallystick.metering.reading_model import MAX_FAULTS, Counts, Reading
from tallystick.metering.readings import Readings
from tallystick.metering.resources import Resources, Wanted
from tallystick.metering.service import SUBMIT_ATTEMPTS, IntakeQueue
from tallystick.metering.sources.sweep import Failure, Item, Sweep
from tallystick.service import Service
from tests.doubles.sweepable import Sweepable, item
from tests.metering.books import balance, create_customer, create_price, fetch, quantity
from tests.metering.conftest import NOW, StartService

HOUR = timedelta(hours=1)


def readings_of(service: Service, *sources: Sweepable, intake: Any = None) -> Readings:
    resources = Resources(service.clock, service.customers)
    return Readings(service.pool, service.clock, intake or service.intake, resources, service.customers, sources)


@pytest.fixture
def taken(service: Service) -> Readings:
    return readings_of(service)


async def kept(service: Service) -> list[Quarantined]:
    async with service.pool.connection() as conn:
        return (await quarantine.page(conn, None, 100, replayed=False)).items


async def measured(service: Service) -> list[tuple[Any, ...]]:
    return await fetch(
        service,
        "select c.key, s.meter, s.kind, s.resource, m.value, m.at from measurements as m"
        " join series as s on s.customer_id = m.customer_id and s.id = m.series_id"
        " join customers as c on c.id = m.customer_id order by 1, 2, 3, 4, 6",
    )


# One reading


async def test_a_reading_measures_and_charges_what_the_source_says(service: Service, taken: Readings) -> None:
    await create_price(service, "cfapps")
    source = Sweepable(items=[item("a", 512), item("b", 256, "bob"), item("db", meter="cfservices", kind="plan-1")])
    reading = await taken.take(source, periodic=True)
    assert (reading.source, reading.state, reading.attempts, reading.failures) == ("platform", "complete", 1, [])
    assert (reading.interval_start, reading.at, reading.ended_at) == (NOW, NOW, NOW)
    assert reading.counts == {
        "cfapps": Counts(items=2, recorded=2),
        "cfservices": Counts(items=1, recorded=1, unpriced=1),
    }
    assert reading.total == Counts(items=3, recorded=3, unpriced=1)
    assert await measured(service) == [
        ("ada", "cfapps", "", "a", 512, NOW),
        ("ada", "cfservices", "plan-1", "db", 1, NOW),
        ("bob", "cfapps", "", "b", 256, NOW),
    ]
    assert (await balance(service, "ada")).used == 1024 * 1_000_000


async def test_an_unknown_kind_is_created_and_charged_once_it_has_a_price(service: Service, taken: Readings) -> None:
    await taken.take(Sweepable(items=[item("db", meter="cfservices", kind="plan-1")]), periodic=True)
    assert await fetch(service, "select key from resource_kinds where meter = 'cfservices'") == [("plan-1",)]
    await create_price(service, "cfservices", kind="plan-1")
    assert (await balance(service, "ada")).used == 2_000_000


async def test_negative_values_count(service: Service, taken: Readings) -> None:
    reading = await taken.take(Sweepable(items=[item("a", -3), item("b", 5)]), periodic=True)
    assert reading.total == Counts(items=2, recorded=2, unpriced=2)
    assert await quantity(service, "ada") == 2


async def test_fixed_values_beyond_32_bits_do_not_wrap(service: Service, taken: Readings) -> None:
    """[B] theirs counted in 32 bits."""
    await taken.take(Sweepable(items=[item("a", 2**31), item("b", 10**17)]), periodic=True)
    assert await quantity(service, "ada") == 2**31 + 10**17


async def test_fixed_a_resource_counts_once_in_a_reading(service: Service, taken: Readings) -> None:
    """[B] theirs had no key against it. What was said first counts."""
    items = [item("a", 1), item("a", 7), item("a", 9, "bob"), item("a", 1, meter="other")]
    reading = await taken.take(Sweepable(items=items), periodic=True)
    assert reading.counts == {
        "cfapps": Counts(items=3, recorded=1, repeated=2, unpriced=1),
        "other": Counts(items=1, recorded=1, unpriced=1),
    }
    assert [row[:5] for row in await measured(service)] == [
        ("ada", "cfapps", "", "a", 1),
        ("ada", "other", "", "a", 1),
    ]


async def test_usage_without_a_resource_is_told_apart_by_customer_and_kind(service: Service, taken: Readings) -> None:
    items = [item(""), item("", customer="bob"), item("", kind="k"), item("", 5, kind="k")]
    reading = await taken.take(Sweepable(items=items), periodic=True)
    assert reading.total == Counts(items=4, recorded=3, repeated=1, unpriced=3)


async def test_fixed_a_resource_that_moves_or_changes_its_plan_is_measured_as_what_it_is(
    service: Service, taken: Readings, clock: TestClock
) -> None:
    """[B] theirs kept its first organization and plan for ever."""
    await taken.take(Sweepable(items=[item("db", kind="small")]), periodic=True)
    clock.advance(HOUR)
    await taken.take(Sweepable(items=[item("db", customer="bob", kind="large")]), periodic=True)
    assert [row[:3] for row in await measured(service)] == [("ada", "cfapps", "small"), ("bob", "cfapps", "large")]


async def test_an_empty_sweep_is_a_complete_reading(service: Service, taken: Readings) -> None:
    class Empty:
        key = "empty"
        posting_policy: PostingPolicy = "immediate"

        async def sweep(self) -> Sweep:
            return Sweep([], [])

    assert ((await taken.take(Empty(), periodic=True)).state, await measured(service)) == ("complete", [])


# What cannot be measured as it is


async def test_fixed_what_has_no_customer_is_kept_repaired_and_charged(service: Service, taken: Readings) -> None:
    """[B] theirs lost the whole reading for one resource without an organization."""
    await create_price(service, "cfapps")
    items = [item("a", 2), item("lost", 5, None, fault="its space is gone", path="orphan.app_lost")]
    reading = await taken.take(Sweepable(items=items), periodic=True)
    assert (reading.state, reading.total) == (
        "complete",
        Counts(items=2, recorded=1, quarantined=1, without_customer=1, faults=1),
    )
    assert [(fault.resource, fault.detail) for fault in reading.faults] == [("lost", "its space is gone")]
    (piece,) = await kept(service)
    assert (piece.source, piece.code) == ("measurement", "no_customer")
    assert "its space is gone" in piece.detail

    mended = json.loads(piece.raw) | {"customer": "bob"}
    async with service.pool.connection() as conn, conn.transaction():
        await quarantine.repair(conn, piece.id, json.dumps(mended).encode())
    for accepted in (1, 0):
        done = await replay.replay(service.pool, service.clock, service.intake, [piece.id])
        assert (done.pieces[0].recorded, done.pieces[0].accepted) == (True, accepted)
    assert (await balance(service, "bob")).used == 10_000_000


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        (item("b", "1e18"), "invalid_value"),
        (item("b", "NaN"), "invalid_value"),
        (item("b", "Infinity", None), "invalid_value"),
        (item("b" * 257), "text_too_long"),
        (item("b\0"), "text_not_storable"),
        (item("\ud800"), "text_not_storable"),
        (item("b", meter="\ud800"), "text_not_storable"),
        (item("b", meter="a\0"), "text_not_storable"),
        (item("b", kind="\0", fault="\0\ud800"), "text_not_storable"),
        (item("b", customer=" "), "text_empty"),
        (item("b", customer="\ud800"), "text_not_storable"),
        (item("", meter=""), "text_empty"),
    ],
)
async def test_what_cannot_be_kept_as_usage_is_quarantined_beside_its_neighbours(
    service: Service, taken: Readings, odd: Item, code: str
) -> None:
    reading = await taken.take(Sweepable(items=[item("a"), odd, item("c")]), periodic=True)
    total = reading.total
    assert (reading.state, total.items, total.recorded, total.quarantined) == ("complete", 3, 2, 1)
    (piece,) = await kept(service)
    assert (piece.source, piece.code) == ("measurement", code)
    assert [row[3] for row in await measured(service)] == ["a", "c"]


async def test_of_very_many_faults_the_first_are_kept_and_all_counted(service: Service, taken: Readings) -> None:
    items = [item(f"app {number}", fault="it has no space") for number in range(MAX_FAULTS + 20)]
    reading = await taken.take(Sweepable(items=items), periodic=True)
    assert (len(reading.faults), reading.total.faults, reading.total.recorded) == (MAX_FAULTS, 120, 120)


# Where resources stand


async def test_resources_are_placed_where_the_source_says(service: Service, taken: Readings) -> None:
    items = [item("a", path="apps.usage.x"), item("b"), item("c", path="not a path"), item("d", "1e18", path="a.d")]
    reading = await taken.take(Sweepable(items=items), periodic=True)
    assert [(fault.resource, fault.detail[:4]) for fault in reading.faults] == [("c", "path")]
    async with service.pool.connection() as conn:
        page = await Resources(service.clock, service.customers).page(conn, "ada", Wanted(), None, 10)
    assert [(found.meter, found.resource, found.path) for found in page.items] == [("cfapps", "a", "apps.usage.x")]


async def test_resources_have_the_names_that_the_source_gives_them(
    service: Service, taken: Readings, clock: TestClock
) -> None:
    async def named(*items: Item) -> list[tuple[str | None, str]]:
        clock.advance(HOUR)
        await taken.take(Sweepable(items=list(items)), periodic=True)
        async with service.pool.connection() as conn:
            page = await Resources(service.clock, service.customers).page(conn, "ada", Wanted(), None, 10)
        return [(found.name, found.path) for found in page.items]

    one, other = item("a", path="apps.a", name="Shop №1"), item("b", path="apps.b")
    assert await named(one, other) == [("Shop №1", "apps.a"), (None, "apps.b")]
    renamed = item("a", path="apps.a", name="Shop №2")
    assert await named(renamed, other) == [("Shop №2", "apps.a"), (None, "apps.b")]
    odd = item("a", path="apps.a", name="N\0\ud800" + "o" * 300), item("b", path="apps.b", name="")
    assert await named(*odd) == [("N?" + "o" * 254, "apps.a"), (None, "apps.b")]


async def test_customers_without_a_name_get_the_sources_one(service: Service, taken: Readings) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        await service.customers.create(conn, NewCustomer("bob", name="Robert"))
    names = {"ada": "Ada L.\0", "bob": "bobby", "eve": "", "nobody": "N.N.", "\0": "?"}
    items = [item("a"), item("b", customer="bob"), item("c", customer="eve")]
    await taken.take(Sweepable(items=items, customers=names), periodic=True)
    await taken.take(Sweepable(items=items, customers={"ada": "Ada K."}), periodic=False)
    stands = await fetch(service, "select key, name from customers order by key")
    assert stands == [("ada", "Ada L."), ("bob", "Robert"), ("eve", None)]


# Failures


async def test_fixed_a_part_that_fails_leaves_the_others_standing(service: Service, taken: Readings) -> None:
    """[B] one list that could not be read cost theirs the whole reading."""
    source = Sweepable(items=[item("a"), item("db", meter="cfservices")], broken={"cfservices": "500 from the API"})
    reading = await taken.take(source, periodic=True)
    assert (reading.state, reading.failures) == ("partial", [Failure("cfservices", "500 from the API")])
    assert reading.counts == {"cfapps": Counts(items=1, recorded=1, unpriced=1)}


async def test_what_failed_is_taken_again_within_the_hour_and_what_stood_stays(
    service: Service, taken: Readings, clock: TestClock
) -> None:
    source = Sweepable(items=[item("a", 1), item("db", meter="cfservices")], broken={"cfservices": "?", "routes": "?"})
    await taken.take(source, periodic=True)
    clock.advance(timedelta(minutes=20))
    source.items, source.broken = [item("a", 5), item("b", 3), item("db", meter="cfservices")], {"routes": "again"}
    second = await taken.take(source, periodic=True)
    assert (second.state, second.attempts, second.failures) == ("partial", 2, [Failure("routes", "again")])
    assert second.counts == {
        "cfapps": Counts(items=2, recorded=2, unpriced=2),
        "cfservices": Counts(items=1, recorded=1, unpriced=1),
    }
    assert (second.at, second.ended_at) == (NOW, clock.now())
    source.broken = {"cfapps": "now this one"}
    third = await taken.take(source, periodic=True)
    assert (third.state, third.failures, third.total.recorded) == ("complete", [], 3), "each part was read once"
    assert [(row[3], row[4], row[5]) for row in await measured(service)] == [
        ("a", 1, NOW),
        ("b", 3, NOW),
        ("db", 1, NOW),
    ]


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (Unavailable("the platform does not answer"), "the platform does not answer"),
        (ValueError("the token is swordfish"), "reading it failed with ValueError"),
        (TimeoutError(), "reading it failed with TimeoutError"),
    ],
)
async def test_a_sweep_that_fails_wholly_is_recorded_and_may_be_taken_again(
    service: Service, taken: Readings, error: Exception, detail: str
) -> None:
    source = Sweepable(items=[item("a")], error=error)
    failed = await taken.take(source, periodic=True)
    assert (failed.state, failed.failures, failed.counts) == ("failed", [Failure("platform", detail)], {})
    source.error = None
    again = await taken.take(source, periodic=True)
    assert (again.id, again.state, again.attempts, again.failures) == (failed.id, "complete", 2, [])
    assert await quantity(service, "ada") == 1


async def test_a_worse_outcome_never_replaces_a_better_one(service: Service, taken: Readings) -> None:
    source = Sweepable(items=[item("a")], broken={"cfservices": "?"})
    partial = await taken.take(source, periodic=True)
    source.error = Unavailable("gone")
    assert (await taken.take(source, periodic=True)).outcome == partial.outcome
    source.error, source.broken = None, {"cfservices": "?", "cfapps": "?"}
    assert (await taken.take(source, periodic=True)).outcome == partial.outcome


async def test_all_parts_failing_is_failing_wholly(service: Service, taken: Readings) -> None:
    source = Sweepable(items=[item("a")], broken={"cfapps": "500\0\ud800"})
    reading = await taken.take(source, periodic=True)
    assert (reading.state, reading.failures) == ("failed", [Failure("cfapps", "500?")])


async def test_a_source_that_never_ends_fails(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "SWEEP_TIMEOUT_SECONDS", 0)
    source = Sweepable(items=[item("a")])
    source.goes_on.clear()
    reading = await readings_of(service).take(source, periodic=True)
    assert (reading.state, reading.failures[0].detail) == ("failed", "it was not read within 0 seconds")


# Once


async def test_an_hour_is_read_once(service: Service, taken: Readings, clock: TestClock) -> None:
    source = Sweepable(items=[item("a")])
    first = await taken.take(source, periodic=True)
    clock.advance(timedelta(minutes=59, seconds=59))
    assert await taken.take(source, periodic=True) == first
    assert source.sweeps == 1
    clock.advance(timedelta(seconds=1))
    second = await taken.take(source, periodic=True)
    assert (second.interval_start, second.id == first.id, source.sweeps) == (NOW + HOUR, False, 2)
    assert await quantity(service, "ada") == 2


async def test_the_database_itself_keeps_readings_of_one_interval_apart(service: Service, taken: Readings) -> None:
    await taken.take(Sweepable(), periodic=True)
    with pytest.raises(psycopg.errors.UniqueViolation, match="readings_source_interval_start_key"):
        await fetch(
            service,
            "insert into readings select gen_random_uuid(), source, interval_start, at, state, 1, ended_at, counts,"
            " failures, faults from readings returning 1",
        )


async def test_fixed_a_manual_reading_does_not_consume_the_hour(service: Service, taken: Readings) -> None:
    """[B] after a one-off, the platform-wide reading of that hour was skipped, and the second one-off refused."""
    await create_price(service, "oneoff")
    source, one_off = Sweepable(items=[item("a", 4)]), Sweepable(items=[item("a", 1, meter="oneoff")])
    manual = [await taken.take(one_off, periodic=False) for _ in range(2)]
    periodic = await taken.take(source, periodic=True)
    assert [reading.interval_start for reading in (*manual, periodic)] == [None, None, NOW]
    assert {reading.state for reading in (*manual, periodic)} == {"complete"}
    assert await quantity(service, "ada") == 6


async def test_a_manual_reading_that_is_named_counts_once(service: Service, taken: Readings) -> None:
    source, name = Sweepable(items=[item("a")], error=Unavailable("gone")), new_id(NOW)
    assert (await taken.take(source, periodic=False, reading_id=name)).state == "failed"
    source.error = None
    first = await taken.take(source, periodic=False, reading_id=name)
    assert (first.id, first.state) == (name, "complete")
    assert await taken.take(source, periodic=False, reading_id=name) == first
    assert source.sweeps == 2
    assert await quantity(service, "ada") == 1


class Dying:
    """An intake whose process dies once so many batches have committed."""

    def __init__(self, intake: IntakeQueue, after: int) -> None:
        self._intake = intake
        self._left = after

    async def submit(self, batch: Batch) -> Receipt:
        receipt = await self._intake.submit(batch)
        self._left -= 1
        if self._left <= 0:
            raise ConnectionAbortedError
        return receipt


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_a_process_that_dies_in_between_leaves_what_the_next_one_completes(
    service: Service, start_service: StartService, clock: TestClock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Dies after its first, second and last portion, but before the reading is marked."""
    monkeypatch.setattr(readings, "ITEMS_AT_ONCE", 2)
    source = Sweepable(items=[item(f"app {number}", number, path=f"a.app_{number}") for number in range(5)])
    source.items.append(item("lost", customer=None))
    with pytest.raises(ConnectionAbortedError):
        await readings_of(service, intake=Dying(service.intake, after)).take(source, periodic=True)
    ((state, ended_at),) = await fetch(service, "select state, ended_at from readings")
    assert (state, ended_at) == ("running", None)

    clock.advance(timedelta(minutes=10))
    reading = await readings_of(await start_service()).take(source, periodic=True)
    assert (reading.state, reading.attempts, reading.at) == ("complete", 2, NOW)
    total = reading.total
    assert (total.items, total.recorded, total.quarantined, total.repeated) == (6, 5, 1, 0)
    assert {row[5] for row in await measured(service)} == {NOW}
    assert await quantity(service, "ada") == 10
    assert len(await kept(service)) == 1
    assert await fetch(service, "select count(*) from resources") == [(5,)]


async def test_two_processes_that_take_the_same_hour_count_it_once(
    service: Service, start_service: StartService
) -> None:
    """Both are in their sweeps at the same time, and are told different values."""
    others = [Sweepable(items=[item("a", 3), item("b", 5)]), Sweepable(items=[item("b", 7), item("a", 2)])]
    for source in others:
        source.goes_on.clear()
    processes = [service, await start_service()]
    tasks = [
        asyncio.create_task(readings_of(process).take(source, periodic=True))
        for process, source in zip(processes, others, strict=True)
    ]
    for source in others:
        await source.began.wait()
    for source in others:
        source.goes_on.set()
    first, second = await asyncio.gather(*tasks)
    assert first.id == second.id
    assert {first.state, second.state} == {"complete"}
    rows = await measured(service)
    assert sorted(row[3] for row in rows) == ["a", "b"]
    assert len(await fetch(service, "select 1 from readings")) == 1


async def test_in_one_process_a_source_is_swept_once_at_a_time(service: Service, taken: Readings) -> None:
    source = Sweepable(items=[item("a")])
    source.goes_on.clear()
    first: Awaitable[Reading] = asyncio.create_task(taken.take(source, periodic=True))
    await source.began.wait()
    with pytest.raises(Conflict, match="under way"):
        await taken.take(source, periodic=False)
    second = asyncio.create_task(taken.take(source, periodic=True))
    source.goes_on.set()
    assert await first == await second
    assert source.sweeps == 1


class Full:
    """An intake that is full for so long."""

    def __init__(self, intake: IntakeQueue, times: int) -> None:
        self._intake = intake
        self.left = times

    async def submit(self, batch: Batch) -> Receipt:
        if self.left:
            self.left -= 1
            raise Overloaded("full", retry_after_seconds=0)
        return await self._intake.submit(batch)


async def test_an_intake_that_is_full_is_waited_for_but_not_for_ever(service: Service) -> None:
    source = Sweepable(items=[item("a")])
    with pytest.raises(Overloaded):
        await readings_of(service, intake=Full(service.intake, SUBMIT_ATTEMPTS)).take(source, periodic=True)
    full = Full(service.intake, SUBMIT_ATTEMPTS - 1)
    assert (await readings_of(service, intake=full).take(source, periodic=True)).total.recorded == 1


# Sources and lists


async def test_sources_are_found_by_their_keys(service: Service) -> None:
    source = Sweepable("one")
    known = readings_of(service, source)
    assert (known.sources, known.source("one")) == ([source], source)
    with pytest.raises(NotFound) as refused:
        known.source("two")
    assert refused.value.field == "source"
    with pytest.raises(InvalidInput):
        readings_of(service, Sweepable(" "))


async def test_readings_are_listed_newest_first(service: Service, taken: Readings, clock: TestClock) -> None:
    expected = []
    for hour in range(4):
        for key in ("one", "two"):
            broken = {"cfapps": "?"} if hour == 2 else {}
            expected.append(await taken.take(Sweepable(key, items=[item("a")], broken=broken), periodic=True))
        clock.advance(HOUR)
    expected.sort(key=lambda reading: (reading.at, reading.id), reverse=True)

    async def pages(**wanted: Any) -> list[Reading]:
        found: list[Reading] = []
        cursor = None
        async with service.pool.connection() as conn:
            while True:
                page = await taken.page(conn, cursor, 3, **wanted)
                found += page.items
                if (cursor := page.next) is None:
                    return found

    assert await pages() == expected
    assert await pages(source="one") == [reading for reading in expected if reading.source == "one"]
    assert await pages(state="failed") == [reading for reading in expected if reading.state == "failed"]
    assert await pages(source="two", state="failed") == [
        reading for reading in expected[2:4] if reading.source == "two"
    ]
    async with service.pool.connection() as conn:
        assert await taken.get(conn, expected[0].id) == expected[0]
        with pytest.raises(NotFound):
            await taken.get(conn, NIL)


async def test_a_customer_that_exists_keeps_its_payer(service: Service, taken: Readings) -> None:
    await create_customer(service, "boss")
    await create_customer(service, "ada", payer="boss")
    await create_price(service, "cfapps")
    await taken.take(Sweepable(items=[item("a", 3)]), periodic=True)
    assert (await balance(service, "boss")).used == 6_000_000
