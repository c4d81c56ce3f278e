"""Jobs with a diary: what has run, in the order in which it ended, kept where every process can see it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tallystick.database.pool import Pool
from tallystick.jobs.kinds import Kind, Run, Work
from tallystick.jobs.queue import Jobs
from tallystick.jobs.schedule import Entry
from tallystick.jobs.timetable import Timetable
from tallystick.jobs.worker import Worker
from tallystick.kernel.clock import Clock

NEW_YORK = ZoneInfo("America/New_York")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLL_SECONDS = 0.01


async def rows(pool: Pool, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    async with pool.connection() as conn:
        return await (await conn.execute(query.encode(), parameters)).fetchall()


async def run(pool: Pool, statement: str, *parameters: object) -> None:
    async with pool.connection() as conn:
        await conn.execute(statement.encode(), parameters)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Returns when it holds; the net under it is the test's timeout."""
    while True:
        if await holds():
            return
        await asyncio.sleep(POLL_SECONDS)


@dataclass
class Desk:
    """Makes jobs and workers of a test's own."""

    pool: Pool

    def jobs(self, *kinds: Kind, attempts: int = 3, first_pause_seconds: int = 0) -> Jobs:
        return Jobs(self.pool, kinds, attempts=attempts, first_pause_seconds=first_pause_seconds)

    def worker(self, clock: Clock, jobs: Jobs, entries: Iterable[Entry] = (), lost_after_seconds: int = 30) -> Worker:
        timetable = Timetable(entries, NEW_YORK)
        return Worker(self.pool, clock, jobs, timetable, concurrency=2, lost_after_seconds=lost_after_seconds)

    async def defer(self, jobs: Jobs, name: str, args: dict[str, Any] | None = None, **options: Any) -> int | None:
        async with self.pool.connection() as conn:
            return await jobs.defer(conn, name, args, **options)

    async def states(self) -> dict[int, str]:
        """What procrastinate says of each job."""
        return dict(await rows(self.pool, "select id, status::text from procrastinate_jobs order by id"))

    async def has_begun(self) -> bool:
        """Whether the schedule has been looked at for the first time."""
        return bool(await rows(self.pool, "select name from job_schedule"))

    async def waiting(self) -> list[tuple[str, Any]]:
        """Name and arguments of the jobs that wait."""
        query = "select task_name, args from procrastinate_jobs where status = 'todo' order by id"
        return [(name, args) for name, args in await rows(self.pool, query)]

    def diary(self, then: Callable[[Run], Any] | None = None) -> Work:
        """Work that writes its run into the diary."""

        async def work(run_: Run) -> None:
            slot = run_.args.get("slot")
            await run(self.pool, "insert into diary (job_id, slot) values (%s, %s)", run_.job_id, slot)
            if then is not None:
                await then(run_)

        return work

    async def entries(self) -> list[tuple[int, datetime | None]]:
        """Job and slot of each run, in their order."""
        return [(job_id, slot) for job_id, slot in await rows(self.pool, "select job_id, slot from diary order by id")]


@pytest.fixture
async def desk(pool: Pool) -> Desk:
    await run(pool, "create table diary (id serial, job_id bigint, slot timestamptz)")
    return Desk(pool)
