"""Whether the service can do its work, for load balancers and people."""

from __future__ import annotations

import asyncio
import time
from typing import Literal, TypedDict

import psycopg

from tallystick.database.pool import Pool
from tallystick.metering.service import IntakeQueue

PATIENCE_SECONDS = 2
"""A database that does not answer within this time counts as out of reach."""

Status = Literal["healthy", "unhealthy"]


class DatabaseHealth(TypedDict, total=False):
    """``version`` is PostgreSQL's; ``latency_ms`` is how long an answer took. Both are missing where there was none."""

    status: Status
    version: str
    latency_ms: int


class IntakeHealth(TypedDict):
    """``queued`` measurements are neither durable nor answered yet."""

    queued: int


class Condition(TypedDict):
    """What ``GET /api/v1/health`` answers."""

    status: Status
    database: DatabaseHealth
    intake: IntakeHealth


class Health:
    """Looks after what the service cannot do without."""

    def __init__(self, intake: IntakeQueue) -> None:
        self._intake = intake

    async def check(self, pool: Pool) -> Condition:
        """The condition now, at the latest after ``PATIENCE_SECONDS``. Never raises because of the database."""
        database = await _ask(pool)
        return {"status": database["status"], "database": database, "intake": {"queued": self._intake.queued}}


async def _ask(pool: Pool) -> DatabaseHealth:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), pool.connection() as conn:
            row = await (await conn.execute("show server_version")).fetchone()
    except (TimeoutError, psycopg.OperationalError, psycopg.InterfaceError):
        return {"status": "unhealthy"}
    version = row[0].split()[0] if row else ""
    return {"status": "healthy", "version": version, "latency_ms": round((time.monotonic() - began) * 1000)}
