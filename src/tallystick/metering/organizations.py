"""Organizations: the customers that a Cloud Foundry platform has named in its readings, and who pays for each.

They appear by being measured, before anybody has said who pays for them: until then they pay for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg import AsyncConnection

from tallystick.database.queries import Queries
from tallystick.kernel.errors import NotFound
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key

_SQL = Queries(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization by its guid. ``payer`` is the key of whoever else pays for it.

    ``name`` is its customer's or, without one, as the paths of its resources spell it.
    """

    guid: str
    name: str | None
    payer: str | None
    created_at: datetime


class Organizations:
    """Read only. Works on the caller's connection."""

    async def page(
        self, conn: AsyncConnection, cursor: str | None, limit: int, *, mapped: bool | None = None
    ) -> Page[Organization]:
        """Organizations in the order of their guids: all, or those that somebody else pays for, or that nobody does."""
        (after,) = read_cursor(cursor, 1) or ("",)
        found = await self._find(conn, after=after, mapped=mapped, limit=limit + 1)
        shown, more = found[:limit], len(found) > limit
        return Page(shown, next_cursor(shown[-1].guid) if more else None)

    async def get(self, conn: AsyncConnection, guid: str) -> Organization:
        """One organization. Raises ``NotFound``, also for a customer that is none."""
        found = await self._find(conn, key=check_key(guid, "guid"), limit=1)
        if not found:
            raise NotFound(f"there is no organization {guid!r}", field="guid")
        return found[0]

    async def _find(self, conn: AsyncConnection, **chosen: object) -> list[Organization]:
        parameters = {"after": "", "key": None, "mapped": None, **chosen}
        return [Organization(*row) for row in await (await conn.execute(_SQL.page, parameters)).fetchall()]
