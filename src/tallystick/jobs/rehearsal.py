"""The test clock moved: everything that is due in between happens, in the order of time.

For each instant at which something is due the clock is set there, what falls due is done, then the jobs of the
schedule run until none is left, and only then time goes on. One thing happens after the other, so a rehearsal has the
same result each time. Nothing waits here: a job that fails is tried again at once, until it is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from procrastinate.jobs import Job, Status

from tallystick.database.pool import Pool
from tallystick.jobs.due import Dues
from tallystick.jobs.queue import Jobs
from tallystick.jobs.timetable import Timetable
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, Unavailable

MAX_MOVE = timedelta(days=3 * 366)
MAX_JOBS_AT_AN_INSTANT = 10_000
"""Jobs that make jobs may do so for ever; the rest of them runs later."""

PAUSE_SECONDS = 1
"""How long what requests have made due may lie while the clock stands."""

PROGRESS_SECONDS = 5

_RESOLUTION = timedelta(microseconds=1)
_AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.get_logger()


@dataclass(slots=True)
class Moved:
    """What happened on the way."""

    since: datetime
    now: datetime
    instants: int = 0
    """At which something was due."""
    due: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    """Attempts at jobs."""


class Rehearsal:
    """Owns the test clock of a service, and all that happens by time in it: no worker runs beside it."""

    def __init__(self, pool: Pool, clock: TestClock, dues: Dues, jobs: Jobs, timetable: Timetable) -> None:
        self._pool = pool
        self._clock = clock
        self._dues = dues
        self._jobs = jobs
        self._timetable = timetable
        self._turn = asyncio.Lock()
        self._worker_id = 0
        self._stopping = False
        self.moving_to: datetime | None = None
        """Where the clock is going, while it moves."""

    @property
    def now(self) -> datetime:
        """Where the clock stands, or has got to."""
        return self._clock.now()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Does what is due where the clock stands, meanwhile: requests may make something due at once."""
        await self._jobs.app.open_async(self._pool)
        manager = self._jobs.manager
        await manager.prune_stalled_workers(0)
        self._worker_id = await manager.register_worker()
        await self._begin()
        task = asyncio.create_task(self._stand(), name="rehearsal")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await manager.unregister_worker(self._worker_id)

    async def move(self, to: datetime) -> Moved:
        """Moves the clock forward to ``to``, and returns when all that was due by then is done.

        Raises ``Conflict`` if it is moving already or stands later than that, ``InvalidInput`` if that is too far,
        ``Unavailable`` if it is stopped on the way.
        """
        if self.moving_to is not None:
            raise Conflict(f"the clock is on its way to {self.moving_to.isoformat()}", field="now")
        if to < self.now:
            raise Conflict(f"the clock stands at {self.now.isoformat()}, and does not run backwards", field="now")
        if to - self.now > MAX_MOVE:
            raise InvalidInput(f"now must not be more than {MAX_MOVE.days} days after the clock's", field="now")
        self.moving_to = to
        try:
            async with self._turn:
                return await self._walk(to)
        finally:
            self.moving_to = None

    def stop(self) -> None:
        """Has a clock that moves stand still at the next instant: its service is told to stop."""
        self._stopping = True

    async def settle(self) -> Moved:
        """Does what is due where the clock stands, jobs that wait included."""
        moved = Moved(self.now, self.now)
        async with self._turn:
            await self._do_all(moved)
        return moved

    async def _begin(self) -> None:
        """Goes on where the service before was stopped, or killed."""
        async with self._pool.connection() as conn:
            await self._timetable.open(conn, self.now)
            while self._timetable.is_due(self.now):
                await self._timetable.carry_out(conn, self.now)
            # Nobody else runs jobs here, so whoever was at one is gone.
            await self._jobs.rescue(conn, lost_after_seconds=0)

    async def _stand(self) -> None:
        while True:
            try:
                await self.settle()
            except Exception as error:
                _log.exception("test_clock.failed", error=type(error).__name__)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _walk(self, to: datetime) -> Moved:
        moved = Moved(self.now, self.now)
        await self._do_all(moved)
        told = time.monotonic()
        while self.now < to:
            soonest = await self._dues.next_due(self.now)
            at = min(instant for instant in (soonest, self._timetable.next_slot, to) if instant is not None)
            await self._stand_at(at)
            moved.instants += 1
            await self._do_all(moved, falls_due=at == soonest)
            if self._stopping:
                raise Unavailable(f"the service is stopping: the clock stands at {at.isoformat()}")
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                _log.info("test_clock.moving", at=at.isoformat(), to=to.isoformat(), jobs=moved.jobs)
        await self._do_all(moved)
        moved.now = self.now
        _log.info("test_clock.moved", since=moved.since.isoformat(), now=to.isoformat(), jobs=moved.jobs)
        return moved

    async def _stand_at(self, instant: datetime) -> None:
        """Sets the clock, in the database first: whatever is killed, it stands no earlier than anything happened."""
        async with self._pool.connection() as conn:
            await self._timetable.carry_out(conn, instant)
        self._clock.set(instant)

    async def _do_all(self, moved: Moved, *, falls_due: bool = True) -> None:
        """What falls due comes first, then jobs, and then what these have made due."""
        if falls_due:
            moved.due.update(await self._dues.run_due())
        if ran := await self._drain():
            moved.jobs += ran
            if await self._dues.next_due(self.now - _RESOLUTION) == self.now:
                moved.due.update(await self._dues.run_due())
                moved.jobs += await self._drain()

    async def _drain(self) -> int:
        """Runs what is in the queue, one job after the other; how many attempts there were."""
        for ran in range(MAX_JOBS_AT_AN_INSTANT):
            job = await self._jobs.manager.fetch_job(self._jobs.names, self._worker_id)
            if job is None:
                return ran
            await self._attempt(job)
        _log.warning("test_clock.jobs_left", jobs=MAX_JOBS_AT_AN_INSTANT)
        return MAX_JOBS_AT_AN_INSTANT

    async def _attempt(self, job: Job) -> None:
        manager = self._jobs.manager
        try:
            await self._jobs.carry_out(job)
        except Exception as error:
            if self._jobs.backoff.get_retry_decision(exception=error, job=job) is not None:
                await manager.retry_job(job, retry_at=_AT_ONCE)
            else:
                await manager.finish_job(job, Status.FAILED, delete_job=False)
        else:
            await manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
