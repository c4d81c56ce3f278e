"""How a job ended is noted, even if the connection is lost just then.

procrastinate tries once. If that fails its worker lives on, and the job stays with it, running for ever in everybody's
eyes. Here the note is tried again; and if it cannot be made, the worker is told, so that it starts anew and the job is
taken from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import psycopg
import structlog
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Status
from procrastinate.manager import JobManager

ATTEMPTS = 10
PAUSE_SECONDS = 1

_log = structlog.get_logger()


class SteadyManager(JobManager):
    """procrastinate's, but for that."""

    refused = 0
    """How many notes have failed so far."""
    gave_up = False
    """Whether the end of a job could not be noted. Whoever acts on it sets it back."""

    async def finish_job_by_id_async(self, job_id: int, status: Status, delete_job: bool) -> None:
        finish = super().finish_job_by_id_async
        await self._insist(job_id, lambda: finish(job_id, status, delete_job))

    async def retry_job_by_id_async(
        self,
        job_id: int,
        retry_at: datetime,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        retry = super().retry_job_by_id_async
        await self._insist(job_id, lambda: retry(job_id, retry_at, priority, queue, lock))

    async def _insist(self, job_id: int, note: Callable[[], Awaitable[None]]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await note()
            except ConnectorException as error:
                if isinstance(error.__cause__, psycopg.errors.RaiseException):
                    _log.warning("job.ended_already", job_id=job_id)  # noted, and the answer lost; or taken from us
                    return None
                self.refused += 1
                _log.warning("job.end_not_noted", job_id=job_id, attempt=attempt, error=type(error.__cause__).__name__)
                if attempt == ATTEMPTS:
                    self.gave_up = True
                    raise
            await asyncio.sleep(PAUSE_SECONDS)
        raise AssertionError("every attempt returns, raises or is followed by another")
