"""Carries out jobs by the machine's clock: puts those of the schedule into the queue, and runs what is in it.

procrastinate's worker takes jobs and runs them. Around it, this one makes up for what it leaves open: it lives on when
the database goes away for a while, keeps giving signs of life, and takes jobs back from workers that give none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from procrastinate.worker import Worker as ProcrastinateWorker

from tallystick.database.pool import Pool
from tallystick.jobs.queue import Jobs
from tallystick.jobs.timetable import Timetable
from tallystick.kernel.clock import Clock

PAUSE_SECONDS = 1
"""How long a job may lie in the queue, and a slot may have passed, while there is nothing else to do."""

STOP_SECONDS = 10
"""How long a job under way may take once the worker is told to stop; then it is cancelled and given back."""

SIGNS_OF_LIFE = 3
"""A worker is taken for lost when this many did not come."""

_NEVER_SECONDS = 24 * 3600.0
_log = structlog.get_logger()


class Worker:
    """Works in the background of a process."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        jobs: Jobs,
        timetable: Timetable,
        *,
        concurrency: int,
        lost_after_seconds: int,
    ) -> None:
        """``concurrency`` jobs at a time. A worker without a sign of life for ``lost_after_seconds`` has died."""
        self._pool = pool
        self._clock = clock
        self._jobs = jobs
        self._timetable = timetable
        self._concurrency = concurrency
        self._lost_after_seconds = lost_after_seconds
        self._running: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works meanwhile. At the end jobs under way are finished, or given back if they take too long."""
        await self._jobs.app.open_async(self._pool)
        duties = (
            ("schedule", self._keep_schedule, PAUSE_SECONDS),
            ("jobs", self._take_jobs, PAUSE_SECONDS),
            ("signs-of-life", self._show_life, self._lost_after_seconds / SIGNS_OF_LIFE),
        )
        tasks = [asyncio.create_task(_again_and_again(*duty), name=f"worker {duty[0]}") for duty in duties]
        try:
            yield
        finally:
            for task in tasks:  # the signs of life last: they go on until the last job has ended
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _keep_schedule(self) -> None:
        now = self._clock.now()
        if self._timetable.is_due(now):
            async with self._pool.connection() as conn:
                await self._timetable.carry_out(conn, now)

    async def _show_life(self) -> None:
        worker_id = getattr(self._running, "worker_id", None)
        if worker_id is not None:
            await self._jobs.manager.update_heartbeat(worker_id)
        if self._jobs.manager.gave_up:  # a job hangs on this worker: the next one has another id, and it is taken back
            self._jobs.manager.gave_up = False
            self._running.stop()
        async with self._pool.connection() as conn:
            await self._jobs.rescue(conn, lost_after_seconds=self._lost_after_seconds)

    async def _take_jobs(self) -> None:
        """Until it is cancelled, or the database is lost."""
        self._running = ProcrastinateWorker(
            self._jobs.app,
            queues=self._jobs.names,
            name="tally",
            concurrency=self._concurrency,
            fetch_job_polling_interval=PAUSE_SECONDS,
            # Jobs are not aborted from outside; and its signs of life end with the first that fails: see _show_life.
            abort_job_polling_interval=_NEVER_SECONDS,
            update_heartbeat_interval=_NEVER_SECONDS,
            stalled_worker_timeout=self._lost_after_seconds,
            shutdown_graceful_timeout=STOP_SECONDS,
            listen_notify=False,
            install_signal_handlers=False,
        )
        await self._running.run()


async def _again_and_again(name: str, duty: Callable[[], Awaitable[None]], pause_seconds: float) -> None:
    while True:
        try:
            await duty()
        except Exception as error:
            _log.exception("worker.failed", duty=name, error=type(error).__name__)
        await asyncio.sleep(pause_seconds)
