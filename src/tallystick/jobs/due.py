"""What falls due by a time of its own: holds that expire, grants that begin and end, agreements that start.

Every server looks after it; whatever is due is taken by whoever locks it first, so several servers share the work and
none does a thing twice. What a server that was down has missed is due as soon as one is up again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Protocol

import structlog

from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import Clock

PAUSE_SECONDS = 1
"""How long after it is due a thing may lie, at most, while there is nothing else to do."""

AT_ONCE = 500
"""Things done in one transaction."""

_log = structlog.get_logger()


class Due(Protocol):
    """Something with things to do at their time."""

    async def run_due(self, conn: Connection, now: datetime, limit: int) -> int:
        """Does at most ``limit`` of what is due by ``now``, in the caller's transaction; returns how many.

        Takes only what no other transaction has locked.
        """

    async def next_due(self, conn: Connection, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which something will be due, as things stand."""


class Dues:
    """Does what is due, again and again."""

    def __init__(self, pool: Pool, clock: Clock, due: Mapping[str, Due]) -> None:
        self._pool = pool
        self._clock = clock
        self._due = due

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs in the background meanwhile. What is under way at the end is taken back, and due again."""
        task = asyncio.create_task(self._run(), name="due")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def run_due(self) -> dict[str, int]:
        """Does all that is due now; how many things of each name. What fails is logged, and due again next time."""
        return {name: await self._run_all(name, due) for name, due in self._due.items()}

    async def next_due(self, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which something will be due, as things stand."""
        async with self._pool.connection() as conn:
            instants = [await due.next_due(conn, after) for due in self._due.values()]
        return min((instant for instant in instants if instant is not None), default=None)

    async def _run(self) -> None:
        while True:
            await self.run_due()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _run_all(self, name: str, due: Due) -> int:
        total = 0
        try:
            while True:
                async with self._pool.connection() as conn, conn.transaction():
                    done = await due.run_due(conn, self._clock.now(), AT_ONCE)
                total += done
                if done < AT_ONCE:
                    break
        except Exception as error:
            _log.exception("due.failed", name=name, error=type(error).__name__)
        if total:
            _log.info("due.ran", name=name, done=total)
        return total
