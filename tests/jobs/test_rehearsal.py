"""The test clock moved: everything in between happens, once, in the order of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from tallystick.database.pool import Connection, Pool
from tallystick.jobs import rehearsal as module
from tallystick.jobs.books_clock import moving_clock
from tallystick.jobs.due import Due, Dues
from tallystick.jobs.kinds import Kind, Run
from tallystick.jobs.queue import Jobs
from tallystick.jobs.rehearsal import MAX_MOVE, Rehearsal
from tallystick.jobs.schedule import Entry
from tallystick.jobs.timetable import Timetable
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, Unavailable
from tests.jobs.conftest import NEW_YORK, Desk, rows, run

BEGIN = datetime(2026, 1, 1, 5, tzinfo=UTC)
"""New Year in New York."""
HOURLY = Entry("hourly", "1 * * * *", "UTC", missed="every")
SIX_HOURLY = Entry("six-hourly", "1 */6 * * *", "UTC", missed="every")
POST = Entry("post", "1 6 1 * *", "business", missed="every")
SPRING = Entry("spring", "30 2 * * *", "business", missed="every")
AUTUMN = Entry("autumn", "30 1 * * *", "business", missed="last")


@dataclass
class Story:
    """A rehearsal whose jobs and chores tell what time it was."""

    clock: TestClock
    told: list[tuple[str, datetime]]
    jobs: Jobs
    rehearsal: Rehearsal

    def of(self, name: str) -> list[datetime]:
        return [at for told, at in self.told if told == name]


class Chores:
    """Things with a time of their own, kept in a table."""

    def __init__(self, told: list[tuple[str, datetime]]) -> None:
        self._told = told
        self.broken = False

    async def run_due(self, conn: Connection, now: datetime, limit: int) -> int:
        if self.broken:
            raise RuntimeError("the power went out")
        cursor = await conn.execute("delete from chores where due_at <= %s returning name", (now,))
        for (name,) in await cursor.fetchall():
            self._told.append((name, now))
        return cursor.rowcount

    async def next_due(self, conn: Connection, after: datetime) -> datetime | None:
        cursor = await conn.execute("select min(due_at) from chores where due_at > %s", (after,))
        ((soonest,),) = await cursor.fetchall()
        return soonest  # type: ignore[no-any-return]


@pytest.fixture
async def chores(pool: Pool) -> None:
    await run(pool, "create table chores (name text, due_at timestamptz)")


@asynccontextmanager
async def story(
    desk: Desk,
    url: str,
    entries: Iterable[Entry] = (),
    kinds: Iterable[Kind] = (),
    due: Mapping[str, Due] | None = None,
    told: list[tuple[str, datetime]] | None = None,
) -> AsyncIterator[Story]:
    told = [] if told is None else told
    async with moving_clock(url, BEGIN) as clock:

        async def tell(name: str) -> None:
            told.append((name, clock.now()))

        def teller(name: str) -> Kind:
            return Kind(name, lambda _: tell(name))

        jobs = desk.jobs(*(teller(entry.job) for entry in entries), *kinds)
        timetable = Timetable(entries, NEW_YORK)
        rehearsal = Rehearsal(desk.pool, clock, Dues(desk.pool, clock, due or {}), jobs, timetable)
        async with rehearsal.running():
            yield Story(clock, told, jobs, rehearsal)


async def test_a_year_with_both_changes_of_the_clock(desk: Desk, pool: Pool, database_url: str) -> None:
    async with story(desk, database_url, [SIX_HOURLY, POST, SPRING, AUTUMN]) as year:
        moved = await year.rehearsal.move(datetime(2027, 1, 1, 5, tzinfo=UTC))
        first = datetime(2026, 1, 1, 6, 1, tzinfo=UTC)
        assert year.of("six-hourly") == [first + timedelta(hours=6 * number) for number in range(4 * 365)]
        assert year.of("post") == [
            *(datetime(2026, month, 1, 11, 1, tzinfo=UTC) for month in (1, 2, 3)),
            *(datetime(2026, month, 1, 10, 1, tzinfo=UTC) for month in range(4, 11)),
            *(datetime(2026, month, 1, 11, 1, tzinfo=UTC) for month in (11, 12)),
        ]
        for name in ("spring", "autumn"):
            days = [at.astimezone(NEW_YORK).date() for at in year.of(name)]
            assert len(days) == len(set(days)) == 365
        assert datetime(2026, 3, 8, 7, tzinfo=UTC) in year.of("spring")  # 02:30 was skipped: 03:00, at the change
        assert datetime(2026, 11, 1, 5, 30, tzinfo=UTC) in year.of("autumn")  # the first 01:30 of two
        times = [at for _, at in year.told]
        assert times == sorted(times)
        assert moved.jobs == len(year.told) == 4 * 365 + 12 + 2 * 365
        assert await rows(pool, "select count(*) from job_slots") == [(len(year.told),)]
        assert await rows(pool, "select distinct status::text from procrastinate_jobs") == [("succeeded",)]


async def test_what_falls_due_is_done_at_its_time_and_before_jobs(
    desk: Desk, pool: Pool, database_url: str, chores: None
) -> None:
    told: list[tuple[str, datetime]] = []
    at = {minutes: BEGIN + timedelta(minutes=minutes) for minutes in (0, 1, 30, 61, 90)}
    for minutes, instant in at.items():
        await run(pool, "insert into chores values (%s, %s)", f"chore {minutes}", instant)
    async with story(desk, database_url, [HOURLY], due={"chores": Chores(told)}, told=told) as tale:
        moved = await tale.rehearsal.move(BEGIN + timedelta(hours=2))
        assert told == [
            ("chore 0", at[0]),
            ("chore 1", at[1]),
            ("hourly", at[1]),
            ("chore 30", at[30]),
            ("chore 61", at[61]),
            ("hourly", at[61]),
            ("chore 90", at[90]),
        ]
        assert (moved.since, moved.now) == (BEGIN, BEGIN + timedelta(hours=2))
        assert (moved.instants, moved.jobs) == (5, 2)


async def test_what_a_job_makes_happens_before_time_goes_on(
    desk: Desk, pool: Pool, database_url: str, chores: None
) -> None:
    told: list[tuple[str, datetime]] = []

    async def make(_: Run) -> None:
        await run(pool, "insert into chores values ('chore', %s)", BEGIN)
        await desk.defer(tale.jobs, "made")

    async def tell(_: Run) -> None:
        told.append(("made", tale.clock.now()))

    kinds = [Kind("maker", make), Kind("made", tell)]
    async with story(desk, database_url, [HOURLY], kinds, {"chores": Chores(told)}, told) as tale:
        await desk.defer(tale.jobs, "maker")
        await tale.rehearsal.move(BEGIN + timedelta(minutes=1))
        assert told[-1] == ("hourly", BEGIN + timedelta(minutes=1))
        assert sorted(told[:-1]) == [("chore", BEGIN), ("made", BEGIN)]


async def test_failures_are_tried_again_at_once_and_stop_nothing(
    desk: Desk, pool: Pool, database_url: str, chores: None
) -> None:
    attempts: list[int] = []

    async def fail(run_: Run) -> None:
        attempts.append(run_.attempt)
        raise RuntimeError("never")

    told: list[tuple[str, datetime]] = []
    broken = Chores(told)
    broken.broken = True
    await run(pool, "insert into chores values ('chore', %s)", BEGIN + timedelta(minutes=5))
    failing = Entry("failing", "30 5 * * *", "UTC", missed="every")
    async with moving_clock(database_url, BEGIN) as clock:
        jobs = desk.jobs(Kind("failing", fail), attempts=3, first_pause_seconds=3600)
        dues = Dues(pool, clock, {"chores": broken})
        rehearsal = Rehearsal(pool, clock, dues, jobs, Timetable([failing], NEW_YORK))
        async with rehearsal.running():
            moved = await rehearsal.move(BEGIN + timedelta(hours=1))
            assert attempts == [1, 2, 3]
            assert moved.jobs == 3
            assert list((await desk.states()).values()) == ["failed"]
            assert await rows(pool, "select name from chores") == [("chore",)]
            broken.broken = False
            await rehearsal.settle()
            assert told == [("chore", BEGIN + timedelta(hours=1))]


async def test_moves_that_are_refused(desk: Desk, database_url: str) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Run) -> None:
        entered.set()
        await go_on.wait()

    async with story(desk, database_url, kinds=[Kind("waiting", wait)]) as tale:
        rehearsal = tale.rehearsal
        with pytest.raises(Conflict, match="does not run backwards"):
            await rehearsal.move(BEGIN - timedelta(microseconds=1))
        with pytest.raises(InvalidInput, match="must not be more than"):
            await rehearsal.move(BEGIN + MAX_MOVE + timedelta(microseconds=1))
        assert (await rehearsal.move(BEGIN)).instants == 0
        await desk.defer(tale.jobs, "waiting")
        moving = asyncio.create_task(rehearsal.move(BEGIN + timedelta(days=1)))
        await entered.wait()
        assert rehearsal.moving_to == BEGIN + timedelta(days=1)
        with pytest.raises(Conflict, match=r"on its way to 2026-01-02T05:00:00"):
            await rehearsal.move(BEGIN + timedelta(days=2))
        go_on.set()
        assert (await moving).now == BEGIN + timedelta(days=1)
        assert rehearsal.moving_to is None


async def test_requests_may_make_something_due_while_the_clock_stands(desk: Desk, database_url: str) -> None:
    done: asyncio.Queue[int] = asyncio.Queue()
    async with story(desk, database_url, kinds=[Kind("mail", lambda run_: done.put(run_.job_id))]) as tale:
        job_id = await desk.defer(tale.jobs, "mail")
        assert await done.get() == job_id


async def test_who_is_stopped_on_the_way_goes_on_from_there(desk: Desk, pool: Pool, database_url: str) -> None:
    """Stopped in the middle of a job: it is done again, at its time, and nothing before it is."""
    told: list[tuple[str, datetime]] = []
    entered = asyncio.Event()
    noon = Entry("noon", "0 12 * * *", "UTC", missed="every")

    async with moving_clock(database_url, BEGIN) as clock:

        async def hang(_: Run) -> None:
            entered.set()
            await asyncio.Event().wait()

        async def hourly(_: Run) -> None:
            told.append(("hourly", clock.now()))

        jobs = desk.jobs(Kind("hourly", hourly), Kind("noon", hang))
        rehearsal = Rehearsal(pool, clock, Dues(pool, clock, {}), jobs, Timetable([HOURLY, noon], NEW_YORK))
        async with rehearsal.running():
            moving = asyncio.create_task(rehearsal.move(BEGIN + timedelta(hours=10)))
            await entered.wait()
            moving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await moving
    assert len(told) == 7

    async with story(desk, database_url, [HOURLY, noon], told=told) as tale:
        assert tale.clock.now() == datetime(2026, 1, 1, 12, tzinfo=UTC)
        await tale.rehearsal.move(BEGIN + timedelta(hours=10))
        assert tale.of("noon") == [datetime(2026, 1, 1, 12, tzinfo=UTC)]
        assert tale.of("hourly") == [BEGIN + timedelta(hours=hour, minutes=1) for hour in range(10)]


async def test_a_service_that_stops_does_not_wait_for_the_end_of_a_year(desk: Desk, database_url: str) -> None:
    async def stop(_: Run) -> None:
        tale.rehearsal.stop()

    async with story(desk, database_url, [HOURLY], [Kind("stop", stop)]) as tale:
        await desk.defer(tale.jobs, "stop")
        with pytest.raises(Unavailable, match="the clock stands at 2026-01-01T05:01:00"):
            await tale.rehearsal.move(BEGIN + timedelta(days=365))
        assert tale.of("hourly") == [BEGIN + timedelta(minutes=1)]
        assert tale.rehearsal.moving_to is None


async def test_progress_is_told(desk: Desk, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 0)
    async with story(desk, database_url, [HOURLY]) as tale:
        with structlog.testing.capture_logs() as logs:
            await tale.rehearsal.move(BEGIN + timedelta(hours=2))
    told = [(log["event"], log.get("at")) for log in logs if log["event"].startswith("test_clock.mov")]
    assert told == [
        ("test_clock.moving", "2026-01-01T05:01:00+00:00"),
        ("test_clock.moving", "2026-01-01T06:01:00+00:00"),
        ("test_clock.moving", "2026-01-01T07:00:00+00:00"),
        ("test_clock.moved", None),
    ]


async def test_jobs_that_make_jobs_for_ever_do_not_stop_time(
    desk: Desk, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_JOBS_AT_AN_INSTANT", 5)

    async def echo(_: Run) -> None:
        await desk.defer(tale.jobs, "echo")

    async with story(desk, database_url, kinds=[Kind("echo", echo)]) as tale:
        await desk.defer(tale.jobs, "echo")
        moved = await tale.rehearsal.move(BEGIN + timedelta(days=1))
        assert moved.now == BEGIN + timedelta(days=1)
