"""Whether the service can do its work, for load balancers and people."""

from __future__ import annotations

import asyncio
import time
from typing import Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import psycopg

from tallystick.database.pool import Connection, Pool
from tallystick.ledger.contract import Ledger
from tallystick.ledger.tigerbeetle.promises import Lag
from tallystick.metering.service import IntakeQueue

PATIENCE_SECONDS = 2
"""A database that does not answer within this time counts as out of reach."""

BEHIND_SECONDS = 60
"""A ledger outside of the database is late if a promise has waited longer than this."""

Status = Literal["healthy", "degraded", "unhealthy"]
"""``degraded``: usage is taken in, but a ledger outside of the database is away or has refused something, or the broker
is away, and events wait for it."""


class DatabaseHealth(TypedDict, total=False):
    """``version`` is PostgreSQL's; ``latency_ms`` is how long an answer took. Both are missing where there was none."""

    status: Status
    version: str
    latency_ms: int


class IntakeHealth(TypedDict):
    """``queued`` measurements are neither durable nor answered yet."""

    queued: int


class LedgerHealth(TypedDict):
    """Transfers that ``waiting`` for a ledger outside of the database have been promised, and the oldest of them
    ``oldest_seconds`` ago; promises that it has ``refused`` are a defect, and kept.
    """

    status: Status
    waiting: int
    oldest_seconds: int
    refused: int


class EventsHealth(TypedDict):
    """``degraded`` while the broker does not answer this process."""

    status: Status


class Condition(TypedDict):
    """What ``GET /api/v1/health`` answers.

    ``ledger`` is missing where the database itself is the ledger, ``events`` where there is no broker.
    """

    status: Status
    database: DatabaseHealth
    intake: IntakeHealth
    ledger: NotRequired[LedgerHealth]
    events: NotRequired[EventsHealth]


@runtime_checkable
class Lagging(Protocol):
    """A ledger outside of the database."""

    @property
    def away(self) -> bool: ...
    async def lag(self, conn: Connection) -> Lag: ...


class Reached(Protocol):
    """Something outside that may be away."""

    @property
    def away(self) -> bool: ...


class Health:
    """Looks after what the service cannot do without."""

    def __init__(
        self, intake: IntakeQueue, ledger: Ledger | Lagging | None = None, broker: Reached | None = None
    ) -> None:
        self._intake = intake
        self._broker = broker
        self._ledger = ledger if isinstance(ledger, Lagging) else None

    async def check(self, pool: Pool) -> Condition:
        """The condition now, at the latest after ``PATIENCE_SECONDS``. Never raises because of the database."""
        database = await _ask(pool)
        condition: Condition = {
            "status": database["status"],
            "database": database,
            "intake": {"queued": self._intake.queued},
        }
        if self._ledger is not None and database["status"] == "healthy":
            condition["ledger"] = await _look_at(self._ledger, pool)
            condition["status"] = condition["ledger"]["status"]
        if self._broker is not None:
            condition["events"] = {"status": "degraded" if self._broker.away else "healthy"}
            if condition["status"] == "healthy":
                condition["status"] = condition["events"]["status"]
        return condition


async def _look_at(ledger: Lagging, pool: Pool) -> LedgerHealth:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), pool.connection() as conn:
            lag = await ledger.lag(conn)
    except (TimeoutError, psycopg.OperationalError, psycopg.InterfaceError):
        return {"status": "degraded", "waiting": 0, "oldest_seconds": 0, "refused": 0}
    behind = ledger.away or lag.refused > 0 or lag.oldest_seconds > BEHIND_SECONDS
    return {
        "status": "degraded" if behind else "healthy",
        "waiting": lag.waiting,
        "oldest_seconds": lag.oldest_seconds,
        "refused": lag.refused,
    }


async def _ask(pool: Pool) -> DatabaseHealth:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), pool.connection() as conn:
            row = await (await conn.execute("show server_version")).fetchone()
    except (TimeoutError, psycopg.OperationalError, psycopg.InterfaceError):
        return {"status": "unhealthy"}
    version = row[0].split()[0] if row else ""
    return {"status": "healthy", "version": version, "latency_ms": round((time.monotonic() - began) * 1000)}
