"""Waiting for the database instead of for a while."""

from __future__ import annotations

import asyncio

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
