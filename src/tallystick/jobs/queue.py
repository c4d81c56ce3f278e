"""The queue of jobs, kept by procrastinate in our database.

A job is deferred in its caller's transaction, so it exists exactly if that commits. It runs at least once: an attempt
that fails is repeated, with pauses that double, and one whose process was killed is repeated by another worker. After
its last attempt a job is dead, and stays in the list of dead jobs until somebody has it tried again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psycopg
import structlog
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.job_context import JobContext
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision

from tallystick.database.pool import Connection, Pool
from tallystick.database.queries import Queries
from tallystick.jobs.kinds import Kind, Run
from tallystick.jobs.manager import SteadyManager
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tallystick.kernel.paging import Page, next_cursor, read_cursor

MAX_ARGS_BYTES = 16 << 10
MAX_ERROR_CHARACTERS = 500
MAX_PAUSE_SECONDS = 3600
"""The pauses between attempts double up to this."""
MAX_ID = 2**63 - 1
ENSURE_ATTEMPTS = 5

State = Literal["waiting", "running", "done", "dead"]

_STATUSES: dict[State, list[str]] = {
    "waiting": ["todo"],
    "running": ["doing"],
    "done": ["succeeded"],
    "dead": ["failed", "aborted", "cancelled"],
}
"""What procrastinate calls them."""

_STATES: dict[str, State] = {status: state for state, statuses in _STATUSES.items() for status in statuses}

_SQL = Queries(Path(__file__).with_name("queries.sql"))
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the list shows it. Its times are the database's, not those of a test clock."""

    id: int
    name: str
    state: State
    args: Mapping[str, Any]
    attempts: int
    deferred_at: datetime
    changed_at: datetime
    next_attempt_at: datetime | None
    error: str | None
    """Why the last attempt failed, if one has."""


class Backoff(BaseRetryStrategy):
    """When a failed attempt is repeated: after pauses that double, until there were ``attempts``."""

    def __init__(self, *, attempts: int, first_pause_seconds: int) -> None:
        self.attempts = attempts
        self._first_pause_seconds = first_pause_seconds

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """``None`` if that was the last attempt."""
        if isinstance(exception, asyncio.CancelledError):  # not the job's fault: its worker is told to stop
            return RetryDecision()
        if job.attempts + 1 >= self.attempts:
            return None
        return RetryDecision(retry_in={"seconds": self.pause_seconds(job.attempts)})

    def pause_seconds(self, failed_before: int) -> int:
        return min(self._first_pause_seconds << min(failed_before, 16), MAX_PAUSE_SECONDS)


class Jobs:
    """Defers jobs, lists them, has dead ones tried again; and carries out one attempt, for the worker."""

    def __init__(self, pool: Pool, kinds: Iterable[Kind], *, attempts: int, first_pause_seconds: int) -> None:
        self._pool = pool
        self._kinds = {kind.name: kind for kind in kinds}
        self.backoff = Backoff(attempts=attempts, first_pause_seconds=first_pause_seconds)
        _quieten()
        self.app = App(connector=PsycopgConnector())
        self.manager = SteadyManager(self.app.connector)
        self.app.job_manager = self.manager
        for name in self._kinds:
            # A queue of its own for each kind: so an older worker leaves kinds alone that it does not know.
            self.app.task(name=name, queue=name, retry=self.backoff, pass_context=True)(self._attempt)

    @property
    def names(self) -> list[str]:
        """All kinds of jobs, which are queues as well."""
        return list(self._kinds)

    async def defer(
        self, conn: Connection, name: str, args: Mapping[str, Any] | None = None, *, unique: str | None = None
    ) -> int | None:
        """Puts a job into the queue, in the caller's transaction; its id.

        ``args`` are JSON, and may be read by every operator: no secrets. With ``unique``, there is one waiting job of
        this name and text at a time: while one waits, nothing is added, and the answer is ``None``. One that has been
        started is not waiting any more: it may already have looked at what the new one is about.

        It may wait for another transaction that defers the same unique job, so call it before the ledger is locked.
        """
        kind = self._kinds[name]
        text = json.dumps(args or {})
        if len(text) > MAX_ARGS_BYTES:
            raise ValueError(f"the arguments of a job must not be longer than {MAX_ARGS_BYTES} bytes")
        lock = None if unique is None else f"{kind.name}:{unique}"
        task = self.app.tasks[kind.name]
        job = task.configure(queueing_lock=lock, connection=conn, task_kwargs=json.loads(text))
        try:
            async with (
                conn.transaction()
            ):  # a savepoint: finding one that waits must not spoil the caller's transaction
                return await job.defer_async()
        except AlreadyEnqueued:
            return None

    async def ensure(
        self, conn: Connection, name: str, unique: str, args: Mapping[str, Any] | None = None
    ) -> tuple[int, bool]:
        """The id of a unique job that waits, and whether it waited before. Raises ``Conflict`` if others are faster."""
        for _ in range(ENSURE_ATTEMPTS):
            if (job_id := await self.defer(conn, name, args, unique=unique)) is not None:
                return job_id, False
            if row := await (await conn.execute(_SQL.waiting, {"lock": f"{name}:{unique}"})).fetchone():
                return row[0], True  # else it has been started between the two
        raise Conflict(f"jobs {name!r} come and go: try again")

    async def page(self, conn: Connection, state: State | None, cursor: str | None, limit: int) -> Page[JobRecord]:
        """Jobs in one state, or in any, newest first. Raises ``InvalidInput`` for a foreign cursor."""
        statuses = [status for one in ([state] if state else _STATUSES) for status in _STATUSES[one]]
        parameters = {"statuses": statuses, "before": _read_place(cursor), "limit": limit + 1}
        found = [_record(row) for row in await (await conn.execute(_SQL.page, parameters)).fetchall()]
        items = found[:limit]
        return Page(items, next_cursor(str(items[-1].id)) if len(found) > limit else None)

    async def get(self, conn: Connection, job_id: int) -> JobRecord:
        """Raises ``NotFound``."""
        row = await (await conn.execute(_SQL.get, {"id": job_id})).fetchone()
        if row is None:
            raise NotFound(f"there is no job {job_id}", field="id")
        return _record(row)

    async def retry(self, conn: Connection, job_id: int) -> JobRecord:
        """Has a dead job tried again, as often as a new one. Raises ``NotFound``, or ``Conflict`` if it is not dead."""
        waiting = await (await conn.execute(_SQL.again, {"id": job_id, "dead": _STATUSES["dead"]})).fetchone()
        job = await self.get(conn, job_id)
        if waiting is None:
            raise Conflict(f"the job {job_id} is {job.state}: only dead jobs are tried again", field="id")
        _log.info("job.retried", job_id=job_id, job=job.name)
        return job

    async def rescue(self, conn: Connection, *, lost_after_seconds: int) -> int:
        """Takes jobs back from workers that have given no sign of life for so long; how many.

        It counts as an attempt: a job that kills every worker must not do so for ever.
        """
        parameters = {"seconds": lost_after_seconds, "attempts": self.backoff.attempts}
        rows = await (await conn.execute(_SQL.rescue, parameters)).fetchall()
        for job_id, name, status in rows:
            _log.warning("job.worker_lost", job_id=job_id, job=name, state=_STATES[status])
        return len(rows)

    async def carry_out(self, job: Job) -> None:
        """One attempt at a job. Raises what made it fail, after it has been written down."""
        if job.id is None:
            raise ValueError("a job that was never deferred cannot be carried out")
        kind = self._kinds[job.task_name]
        run = Run(job.id, job.attempts + 1, job.task_kwargs)
        began = time.monotonic()
        try:
            async with asyncio.timeout(kind.timeout_seconds):
                await kind.work(run)
        except Exception as error:
            await self._note(run, kind, error)
            raise
        _log.debug(
            "job.done", job_id=run.job_id, job=kind.name, duration_ms=round((time.monotonic() - began) * 1000, 1)
        )

    async def _attempt(self, context: JobContext, /, **_: object) -> None:
        await self.carry_out(context.job)

    async def _note(self, run: Run, kind: Kind, error: Exception) -> None:
        level = logging.WARNING if run.attempt < self.backoff.attempts else logging.ERROR
        _log.log(level, "job.failed", job_id=run.job_id, job=kind.name, attempt=run.attempt, exc_info=error)
        try:
            async with self._pool.connection() as conn:
                await conn.execute(_SQL.failed, {"id": run.job_id, "error": _reason(error, kind)})
        except psycopg.Error as lost:  # the reason is in the log, and the attempt has failed all the same
            _log.warning("job.failure_not_noted", job_id=run.job_id, error=type(lost).__name__)


def _reason(error: Exception, kind: Kind) -> str:
    """Why an attempt failed, in a line: PostgreSQL's errors quote rows from the second on."""
    if isinstance(error, TallyError):
        return f"{error.code}: {error.detail}"[:MAX_ERROR_CHARACTERS]
    if isinstance(error, TimeoutError) and not str(error):
        return f"TimeoutError: it took longer than {kind.timeout_seconds} seconds"
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}".removesuffix(": ").replace("\0", "")[:MAX_ERROR_CHARACTERS]


def _read_place(cursor: str | None) -> int:
    """The id before which the next page starts."""
    place = read_cursor(cursor, 1)
    if place is None:
        return MAX_ID
    if not (place[0].isascii() and place[0].isdecimal() and len(place[0]) < len(str(MAX_ID))):
        raise InvalidInput("cursor must be one that a page of this list gave", field="cursor")
    return int(place[0])


def _record(row: tuple[Any, ...]) -> JobRecord:
    job_id, name, status, *rest = row
    return JobRecord(job_id, name, _STATES[status], *rest)


def _quieten() -> None:
    """procrastinate tells of each job with its arguments. We tell of it too, without."""
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    outcomes = logging.getLogger("procrastinate.worker")
    if _tells_of_no_job not in outcomes.filters:
        outcomes.addFilter(_tells_of_no_job)


def _tells_of_no_job(record: logging.LogRecord) -> bool:
    return not hasattr(record, "job")
