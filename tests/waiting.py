"""Waiting for what must come, instead of for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tallystick.database.pool import Connection


async def until_waiting(watching: Connection, waiting: Connection) -> None:
    """Returns once ``waiting`` waits for a lock that somebody else holds."""
    query = "select count(*) from pg_locks where pid = %s and not granted"
    while True:
        (number,) = await (await watching.execute(query, [waiting.info.backend_pid])).fetchone() or (0,)
        if number:
            return
        await asyncio.sleep(0)


async def until_anybody_waits(watching: Connection) -> None:
    """Returns once somebody waits for a lock that somebody else holds. For tests that have the server to themselves."""
    while True:
        if await (await watching.execute("select from pg_locks where not granted")).fetchone() is not None:
            return
        await asyncio.sleep(0)


async def lock_waiters(watching: Connection) -> list[int]:
    """Processes of the server that wait for a lock in the database of ``watching``."""
    query = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return [pid for (pid,) in await (await watching.execute(query)).fetchall()]


async def until(look: Callable[[], Awaitable[object]], *, patience_seconds: float = 90) -> None:
    """Returns once ``look`` finds what it looks for; fails after a while that is long enough for anything."""
    async with asyncio.timeout(patience_seconds):
        while True:
            if await look():
                return
            await asyncio.sleep(0.02)  # between two looks
