"""The job ``measure-usage``: every source is read once in its hour, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tallystick.jobs.kinds import SLOT, Run
from tallystick.jobs.measuring import Measuring
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Unavailable
from tallystick.metering.readings import Readings
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.doubles.sweepable import Sweepable, item
from tests.jobs.conftest import NOON
from tests.metering.books import assert_books_hold, fetch, quantity

ON_TIME = Run(job_id=1, attempt=1, args={SLOT: "2026-03-01T12:01:00+00:00"})
BY_HAND = Run(job_id=2, attempt=1, args={})


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with open_service(Settings(dev=True, database_pool_size=4), database_url, TestClock(NOON)) as service:
        yield service
        await assert_books_hold(service)


def measuring(service: Service, *sources: Sweepable) -> Measuring:
    return Measuring(
        Readings(service.pool, service.clock, service.intake, service.resources, service.customers, sources)
    )


async def states(service: Service) -> list[tuple[Any, ...]]:
    return await fetch(service, "select source, state from readings order by source, id")


async def test_a_source_that_cannot_be_read_keeps_no_other_from_being_read(service: Service) -> None:
    """The job is tried again, which reads what is missing and leaves alone what stands."""
    away = Sweepable("away", items=[item("a", 7)], error=Unavailable("it is down"))
    there = Sweepable("there", items=[item("b", 50)])
    job = measuring(service, away, there)
    with pytest.raises(Unavailable, match=r"nothing could be read of away$"):
        await job.run(ON_TIME)
    assert await states(service) == [("away", "failed"), ("there", "complete")]
    away.error = None
    await job.run(ON_TIME)
    assert await states(service) == [("away", "complete"), ("there", "complete")]
    assert (away.sweeps, there.sweeps) == (2, 1)
    assert await quantity(service, "ada") == 57


async def test_a_source_that_is_being_read_keeps_no_other_from_being_read(service: Service) -> None:
    busy, there = Sweepable("busy", items=[item("a", 7)]), Sweepable("there", items=[item("b", 50)])
    busy.goes_on.clear()
    job = measuring(service, busy, there)
    on_time = asyncio.create_task(job.run(ON_TIME))
    await busy.began.wait()
    with pytest.raises(Unavailable, match=r"nothing could be read of busy$"):
        await job.run(BY_HAND)
    assert there.sweeps == 1
    busy.goes_on.set()
    await on_time
    await job.run(BY_HAND)
    assert (busy.sweeps, there.sweeps) == (2, 2)
    assert await quantity(service, "ada") == 7 + 7 + 50 + 50


async def test_an_hour_that_has_its_reading_is_done(service: Service) -> None:
    source = Sweepable(items=[item("a", 7)])
    for _ in range(3):
        await measuring(service, source).run(ON_TIME)
    assert (source.sweeps, await states(service)) == (1, [("platform", "complete")])


async def test_a_job_by_hand_that_is_tried_again_adds_nothing_to_what_it_read(service: Service) -> None:
    away, there = Sweepable("away", error=Unavailable("it is down")), Sweepable("there", items=[item("b", 50)])
    job = measuring(service, away, there)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await job.run(BY_HAND)
    assert there.sweeps == 1
    assert await quantity(service, "ada") == 50
    with pytest.raises(Unavailable):
        await job.run(Run(job_id=3, attempt=1, args={}))  # another one
    assert there.sweeps == 2
    assert await quantity(service, "ada") == 100
