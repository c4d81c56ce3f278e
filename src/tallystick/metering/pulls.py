"""Pulls: usage that is asked for by the period, recorded piece by piece, and how far that has come.

The place that was reached moves once a piece is recorded, in a transaction of its own. Whoever dies between the two has
that piece asked for again; its measurements have the same ids, and count once. For what came late to the source it is
asked again from a while before the place.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import structlog

from tallystick.database.pool import Connection, Pool
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.metering.model import Receipt
from tallystick.metering.service import IntakeQueue, submit_patiently
from tallystick.metering.sources.prometheus import SOURCE, Reader
from tallystick.metering.sources.prometheus_query import MAX_ATTEMPTS, Pulled, open_prometheus, pull, steps_between

SETTLED: Final = timedelta(minutes=1)
"""So far back Prometheus is taken to have everything: scrapes are under way, and rules have yet to be evaluated."""

MAX_NEW_STEPS: Final = 10_000
"""So far the place moves in one run; the next one goes on. That is more than a year of hours, or two days of 15 s."""

MAX_LISTED: Final = 100
MAX_WARNINGS_LOGGED: Final = 3

_SQL = Queries(Path(__file__).with_suffix(".sql"))
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which Prometheus is asked again and again, and how.

    ``since`` is where it begins; without it, when it is looked at for the first time. ``overlap``: so far behind the
    place it is asked again.
    """

    url: str
    token: str | None
    step: timedelta
    overlap: timedelta
    since: datetime | None = None


class Progress(NamedTuple):
    """How far a source has been pulled: everything from ``since`` to before ``until`` is recorded."""

    source: str
    since: datetime
    until: datetime
    step_seconds: int
    moved_at: datetime


class Recorded(NamedTuple):
    """A window that was pulled, and what intake said of it."""

    pulled: Pulled
    receipts: list[Receipt]


async def record_period(
    intake: IntakeQueue,
    client: httpx.AsyncClient,
    reader: Reader,
    since: datetime,
    until: datetime,
    step: timedelta,
    *,
    attempts: int = MAX_ATTEMPTS,
) -> AsyncGenerator[Recorded, None]:
    """Pulls a period and records it, window by window: each is recorded when it is handed on.

    Raises what ``pull`` raises, ``Overloaded`` and ``Unavailable`` as the intake does. Windows given before stand.
    """
    async with aclosing(pull(client, reader, since, until, step, attempts=attempts)) as windows:
        async for pulled in windows:
            yield Recorded(pulled, [await submit_patiently(intake, batch) for batch in pulled.batches])


class Pulls:
    """Keeps the place up to which Prometheus has been asked, and moves it. Opens transactions of its own."""

    def __init__(self, pool: Pool, clock: Clock, intake: IntakeQueue, reader: Reader, plan: Plan | None) -> None:
        """Without a ``plan`` nobody is asked."""
        self._pool = pool
        self._clock = clock
        self._intake = intake
        self._reader = reader
        self._plan = plan

    async def begin(self) -> None:
        """Notes where the first pull is to begin, if it has not begun."""
        if self._plan is not None:
            await self._place(self._plan)

    async def catch_up(self) -> None:
        """Records what came since the place that was reached, ``MAX_NEW_STEPS`` of it at most.

        Raises what ``record_period`` raises. What was recorded by then stands, and the next call goes on from there.
        """
        if (plan := self._plan) is None:
            return
        place = await self._place(plan)
        settled = self._clock.now() - SETTLED
        since = place.until - min(plan.overlap, place.until - place.since)
        until = place.until + min(settled - place.until, MAX_NEW_STEPS * plan.step)
        left = len(steps_between(since, settled, plan.step))
        async with open_prometheus(plan.url, plan.token) as client:
            # Asked once: the queue of jobs has it tried again, after longer pauses than would fit in here.
            period = record_period(self._intake, client, self._reader, since, until, plan.step, attempts=1)
            async with aclosing(period) as windows:
                async for recorded in windows:
                    await self._move(place.source, recorded.pulled.until)
                    left -= recorded.pulled.steps
                    _tell(place.source, recorded, left)

    async def all(self, conn: Connection) -> list[Progress]:
        """How far each source has come."""
        rows = await (await conn.execute(_SQL.all, {"limit": MAX_LISTED})).fetchall()
        return [Progress(*row) for row in rows]

    async def _place(self, plan: Plan) -> Progress:
        now = self._clock.now()
        parameters = {
            "source": SOURCE,
            "since": plan.since or now,
            "step_seconds": plan.step // timedelta(seconds=1),
            "now": now,
        }
        async with self._pool.connection() as conn:
            (row,) = await (await conn.execute(_SQL.begin, parameters)).fetchall()
        return Progress(*row)

    async def _move(self, source: str, until: datetime) -> None:
        async with self._pool.connection() as conn:
            await conn.execute(_SQL.move, {"source": source, "until": until, "now": self._clock.now()})


def _tell(source: str, recorded: Recorded, left: int) -> None:
    pulled, receipts = recorded
    _log.info(
        "pull.recorded",
        source=source,
        until=pulled.until.isoformat(),
        steps=pulled.steps,
        steps_left=left,
        accepted=sum(receipt.accepted for receipt in receipts),
        duplicates=sum(receipt.duplicates for receipt in receipts),
        rejected=sum(len(receipt.rejected) for receipt in receipts),
        ignored=pulled.ignored,
    )
    for warning in pulled.warnings[:MAX_WARNINGS_LOGGED]:
        _log.warning("pull.warned", source=source, warning=warning)
