"""Readings: each sweep counts once in its interval, whoever dies, comes twice, or comes at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import psycopg
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, Overloaded, Unavailable
from tallystick.kernel.ids import new_id
from tallystick.metering import readings
from tallystick.metering.model import Batch, Receipt
from tallystick.metering.reading_model import Reading
from tallystick.metering.readings import Readings
from tallystick.metering.service import SUBMIT_ATTEMPTS, IntakeQueue
from tallystick.service import Service
from tests.doubles.sweepable import Sweepable, item
from tests.metering.books import create_price, fetch, quantity
from tests.metering.conftest import NOW, StartService, readings_of
from tests.metering.test_readings import HOUR, kept, measured


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
