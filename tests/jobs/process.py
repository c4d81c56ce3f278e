"""A worker in a process of its own, to be killed: ``python -m tests.jobs.process URL``.

Its one kind of job, ``long``, tells the channel ``diary`` that it has begun, waits until it gets the advisory lock 1,
writes its line, and tells that it has ended.
"""

from __future__ import annotations

import asyncio
import sys

import psycopg

from tallystick.database.pool import open_pool
from tallystick.jobs.kinds import Kind, Run
from tallystick.jobs.queue import Jobs
from tallystick.jobs.timetable import Timetable
from tallystick.jobs.worker import Worker
from tallystick.kernel.clock import SystemClock
from tests.jobs.conftest import NEW_YORK

LOST_AFTER_SECONDS = 1


async def main(url: str) -> None:
    async with await open_pool(url, size=4) as pool:

        async def long(run: Run) -> None:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
                await conn.execute("select pg_notify('diary', %s)", (f"begun {run.attempt}",))
                await conn.execute("select pg_advisory_lock_shared(1)")
                await conn.execute("insert into diary (job_id) values (%s)", (run.job_id,))
                await conn.execute("select pg_notify('diary', %s)", (f"ended {run.attempt}",))

        jobs = Jobs(pool, [Kind("long", long)], attempts=5, first_pause_seconds=0)
        worker = Worker(
            pool,
            SystemClock(),
            jobs,
            Timetable([], NEW_YORK),
            concurrency=1,
            lost_after_seconds=LOST_AFTER_SECONDS,
        )
        async with worker.running():
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
