"""Slots: each is entered once, whoever looks, and what was missed is caught up with."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tallystick.database.pool import Pool
from tallystick.jobs import timetable as module
from tallystick.jobs.cron import Cron
from tallystick.jobs.schedule import SCHEDULE, Entry
from tallystick.jobs.timetable import Timetable
from tests.jobs.conftest import NEW_YORK, NOON, Desk, rows, run

UTC_ZONE = ZoneInfo("UTC")
HOURLY = Entry("hourly", "1 * * * *", "UTC", missed="every")
LATEST = Entry("latest", "1 * * * *", "UTC", missed="last")


async def carry_out(pool: Pool, timetable: Timetable, now: datetime) -> int:
    async with pool.connection() as conn:
        return await timetable.carry_out(conn, now)


async def slots(desk: Desk, name: str = "hourly") -> list[str]:
    return [args["slot"] for job, args in await desk.waiting() if job == name]


def hours(*numbers: int) -> list[str]:
    return [f"2026-03-01T{number:02}:01:00+00:00" for number in numbers]


def test_our_own_schedule_can_be_read() -> None:
    assert Timetable(SCHEDULE, NEW_YORK).jobs == {entry.job for entry in SCHEDULE}
    assert len({entry.job for entry in SCHEDULE}) == len(SCHEDULE)


def test_usage_is_measured_and_posted_when_the_platforms_system_did() -> None:
    """At minute 1 of every hour, also of the one that comes twice; at 06:01 in New York on the first of each month."""
    slots = {entry.job: Cron(entry.cron, NEW_YORK if entry.zone == "business" else UTC_ZONE) for entry in SCHEDULE}
    november = datetime(2026, 11, 1, 4, tzinfo=UTC)
    hours = list(islice(slots["measure-usage"].after(november), 721))
    assert hours == [november + timedelta(hours=hour, minutes=1) for hour in range(721)]
    assert list(islice(slots["post-usage"].after(november), 6)) == [
        datetime(year, month, 1, 6, 1, tzinfo=NEW_YORK).astimezone(UTC)
        for year, month in ((2026, 11), (2026, 12), (2027, 1), (2027, 2), (2027, 3), (2027, 4))
    ]


async def test_a_new_entry_begins_now(desk: Desk, pool: Pool) -> None:
    timetable = Timetable([HOURLY], NEW_YORK)
    assert timetable.is_due(NOON)
    assert await carry_out(pool, timetable, NOON) == 0
    assert timetable.next_slot == NOON + timedelta(minutes=1)
    assert not timetable.is_due(NOON + timedelta(seconds=59))
    assert timetable.is_due(NOON + timedelta(minutes=1))
    assert await carry_out(pool, timetable, NOON + timedelta(minutes=1)) == 1
    assert await desk.waiting() == [("hourly", {"slot": "2026-03-01T12:01:00+00:00"})]
    assert await carry_out(pool, timetable, NOON + timedelta(minutes=1)) == 0
    assert len(await desk.waiting()) == 1


async def test_what_was_missed_is_caught_up_with_by_the_policy_of_the_entry(desk: Desk, pool: Pool) -> None:
    await carry_out(pool, Timetable([HOURLY, LATEST], NEW_YORK), NOON)
    up_again = Timetable([HOURLY, LATEST], NEW_YORK)
    await carry_out(pool, up_again, NOON + timedelta(hours=4))
    assert await slots(desk, "hourly") == hours(12, 13, 14, 15)
    assert await slots(desk, "latest") == hours(15)
    await carry_out(pool, up_again, NOON + timedelta(hours=5))
    assert await slots(desk, "latest") == hours(15, 16)


async def test_a_long_absence_is_made_up_for_in_portions(
    desk: Desk, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SLOTS_AT_ONCE", 3)
    timetable = Timetable([HOURLY], NEW_YORK)
    await carry_out(pool, timetable, NOON)
    now = NOON + timedelta(hours=7)
    assert [await carry_out(pool, timetable, now) for _ in range(4)] == [3, 3, 1, 0]
    assert await slots(desk) == hours(*range(12, 19))


async def test_one_run_per_slot_however_many_look(desk: Desk, pool: Pool) -> None:
    workers = [Timetable([HOURLY], NEW_YORK) for _ in range(4)]
    for worker in workers:
        await carry_out(pool, worker, NOON)
    for hour in range(1, 6):
        # their clocks differ a little, and one of them was asleep for two hours
        awake = workers if hour not in (2, 3) else workers[1:]
        await asyncio.gather(
            *(carry_out(pool, worker, NOON + timedelta(hours=hour, seconds=n)) for n, worker in enumerate(awake))
        )
    assert await slots(desk) == hours(12, 13, 14, 15, 16)


async def test_slots_that_have_been_pruned_do_not_come_again(desk: Desk, pool: Pool) -> None:
    asleep, awake = Timetable([HOURLY], NEW_YORK), Timetable([HOURLY], NEW_YORK)
    for timetable in (asleep, awake):
        await carry_out(pool, timetable, NOON)
    later = NOON + timedelta(hours=2)
    await carry_out(pool, awake, later)
    await run(pool, "delete from job_slots")
    await carry_out(pool, asleep, later)
    assert await slots(desk) == hours(12, 13)


async def test_a_statement_that_fails_loses_no_slot(desk: Desk, pool: Pool) -> None:
    timetable = Timetable([HOURLY], NEW_YORK)
    await carry_out(pool, timetable, NOON)
    await run(pool, "alter table job_slots rename to away")
    with pytest.raises(psycopg.errors.UndefinedTable):
        await carry_out(pool, timetable, NOON + timedelta(hours=2))
    await run(pool, "alter table away rename to job_slots")
    assert await carry_out(pool, timetable, NOON + timedelta(hours=2)) == 2
    assert await slots(desk) == hours(12, 13)


async def test_jobs_of_an_entry_run_one_after_the_other_in_order(desk: Desk, pool: Pool) -> None:
    timetable = Timetable([HOURLY], NEW_YORK)
    await carry_out(pool, timetable, NOON)
    await carry_out(pool, timetable, NOON + timedelta(hours=3))
    taken = [
        await rows(pool, "select id, args ->> 'slot' from procrastinate_fetch_job_v2(null, null)") for _ in range(2)
    ]
    assert taken[0][0][1] == hours(12)[0]
    assert taken[1] == [(None, None)]  # the second waits for the first


async def test_business_entries_read_the_clocks_of_the_business_zone(desk: Desk, pool: Pool) -> None:
    post = Entry("post", "1 6 1 * *", "business", missed="every")
    timetable = Timetable([post], NEW_YORK)
    await carry_out(pool, timetable, NOON)
    await carry_out(pool, timetable, NOON + timedelta(days=62))
    assert await slots(desk, "post") == ["2026-04-01T10:01:00+00:00", "2026-05-01T10:01:00+00:00"]


async def test_a_schedule_without_entries_or_with_days_that_never_come(desk: Desk, pool: Pool) -> None:
    for entries in ([], [Entry("never", "0 0 30 2 *", "UTC", missed="last")]):
        timetable = Timetable(entries, NEW_YORK)
        assert await carry_out(pool, timetable, NOON) == 0
        assert timetable.next_slot is None
        assert await carry_out(pool, timetable, datetime(2030, 1, 1, tzinfo=UTC)) == 0
    assert await desk.waiting() == []
