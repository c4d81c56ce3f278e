"""Grants begin and end at their time; what was used before an end is posted first, so that the grant pays for it."""

from __future__ import annotations

from datetime import UTC, datetime

from psycopg import AsyncConnection

from tallystick.billing.posting import Postings
from tallystick.ledger.grants import Grants

_BEGINNING = datetime.min.replace(tzinfo=UTC)


class GrantEnds:
    """Grants as something that falls due: see ``jobs/due.py``."""

    def __init__(self, grants: Grants, postings: Postings) -> None:
        self._grants = grants
        self._postings = postings

    async def run_due(self, conn: AsyncConnection, now: datetime, limit: int) -> int:
        """Begins and ends at most ``limit`` grants, in the caller's transaction; returns how many."""
        soonest = await self._grants.next_due(conn, _BEGINNING)
        if soonest is None or soonest > now:
            return 0
        await self._postings.post_ending(conn, now, limit)
        return await self._grants.run_due(conn, now, limit)

    async def next_due(self, conn: AsyncConnection, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which a grant begins or ends, as things stand."""
        return await self._grants.next_due(conn, after)
