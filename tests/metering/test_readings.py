"""Readings: each sweep counts once in its interval, whatever fails, dies or comes twice, and loses nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from tallystick.customers.model import NewCustomer
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import InvalidInput, NotFound, Unavailable
from tallystick.kernel.ids import NIL
from tallystick.ledger.wallets import PostingPolicy
from tallystick.metering import quarantine, readings, replay
from tallystick.metering.quarantine import Quarantined
from tallystick.metering.reading_model import MAX_FAULTS, Counts, Reading
from tallystick.metering.readings import Readings
from tallystick.metering.resources import Resources, Wanted
from tallystick.metering.sources.sweep import Failure, Item, Sweep
from tallystick.service import Service
from tests.doubles.sweepable import Sweepable, item
from tests.metering.books import balance, create_customer, create_price, fetch, quantity
from tests.metering.conftest import NOW, readings_of

HOUR = timedelta(hours=1)


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
