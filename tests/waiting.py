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
