"""Customers below customers: who stands above whom, and moving a customer with all below it.

A customer's place is its parent; its path is read from there and stored nowhere, so moving one customer moves all below
it. Who pays for whom is another matter, and is not changed by a move.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key

_SQL = Queries(Path(__file__).with_suffix(".sql"))

MAX_LEVELS = 32
"""The most customers that stand one below the other; it bounds every walk through the hierarchy."""


@dataclass(frozen=True, slots=True)
class Place:
    """A customer in the hierarchy: the keys on the way down to it, its own last."""

    key: str
    name: str | None
    keys: tuple[str, ...]

    @property
    def level(self) -> int:
        """1 for a customer without a parent."""
        return len(self.keys)

    @property
    def parent(self) -> str | None:
        return self.keys[-2] if len(self.keys) > 1 else None


@dataclass(frozen=True, slots=True)
class _Row:
    id: UUID
    key: str
    name: str | None


class Hierarchy:
    """Who stands above and below whom. Works in the caller's transaction."""

    async def place(self, conn: AsyncConnection, key: str) -> Place:
        """Where a customer stands. Raises ``NotFound``."""
        own = await self._named(conn, key)
        return _places(await self._above(conn, own.id), own)[-1]

    async def ancestors(self, conn: AsyncConnection, key: str, cursor: str | None, limit: int) -> Page[Place]:
        """Whoever stands above a customer, its parent first. Raises ``NotFound``."""
        own = await self._named(conn, key)
        *above, _ = _places(await self._above(conn, own.id), own)
        above.reverse()
        skip = _number(cursor)
        more = len(above) > skip + limit
        return Page(above[skip : skip + limit], next_cursor(str(skip + limit)) if more else None)

    async def descendants(self, conn: AsyncConnection, key: str, cursor: str | None, limit: int) -> Page[Place]:
        """Whoever stands below a customer, in the order of their keys. Raises ``NotFound``.

        Each page walks all that stands below: a page of a hundred thousand takes about a second.
        """
        own = await self._named(conn, key)
        top = _places(await self._above(conn, own.id), own)[-1].keys
        (after,) = read_cursor(cursor, 1) or ("",)
        parameters = {"id": own.id, "after": after, "limit": limit + 1, "max_levels": MAX_LEVELS}
        rows = await (await conn.execute(_SQL.below, parameters)).fetchall()
        found = [Place(key, name, (*top, *keys)) for key, name, keys in rows[:limit]]
        return Page(found, next_cursor(found[-1].key) if len(rows) > limit else None)

    async def branch(self, conn: AsyncConnection, customer_id: UUID, limit: int) -> list[UUID]:
        """The ids of a customer and of whoever stands below it, ``limit`` at most."""
        parameters = {"id": customer_id, "limit": limit, "max_levels": MAX_LEVELS}
        return [row[0] for row in await (await conn.execute(_SQL.branch, parameters)).fetchall()]

    async def move(self, conn: AsyncConnection, key: str, parent: str | None) -> Place:
        """Puts a customer, with all below it, below ``parent``, or at the top. Moving it there again changes nothing.

        Moves take turns, so two at once cannot make a circle of what neither of them alone would. Raises ``NotFound``
        without such a customer, ``InvalidInput`` for a parent that does not exist or would make more than
        ``MAX_LEVELS`` levels, ``Conflict`` for one that stands below the customer, or is the customer itself.
        """
        await conn.execute(_SQL.serialise)
        own = await self._named(conn, key)
        above = [] if parent is None else await self._way_to(conn, parent)
        if own.id in {row.id for row in above}:
            where = "itself" if parent == key else f"{parent!r}, which stands below it"
            raise Conflict(
                f"parent must not be below the customer: {key!r} cannot be moved under {where}", field="parent"
            )
        _check_room(len(above) + 1 + await self._height(conn, own.id))
        await conn.execute(_SQL.move, {"id": own.id, "parent_id": above[-1].id if above else None})
        return _places(above[::-1], own)[-1]

    async def _way_to(self, conn: AsyncConnection, parent: str) -> list[_Row]:
        """From the top down to the customer ``parent``."""
        check_key(parent, "parent")
        row = await (await conn.execute(_SQL.named, {"key": parent})).fetchone()
        if row is None:
            raise InvalidInput(f"parent names no customer: {parent!r}", field="parent")
        own = _Row(*row)
        return [*reversed(await self._above(conn, own.id)), own]

    async def _named(self, conn: AsyncConnection, key: str) -> _Row:
        check_key(key, "key")
        row = await (await conn.execute(_SQL.named, {"key": key})).fetchone()
        if row is None:
            raise NotFound(f"there is no customer {key!r}", field="key")
        return _Row(*row)

    async def _above(self, conn: AsyncConnection, customer_id: UUID) -> list[_Row]:
        parameters = {"id": customer_id, "max_levels": MAX_LEVELS}
        return [_Row(*row) for row in await (await conn.execute(_SQL.above, parameters)).fetchall()]

    async def _height(self, conn: AsyncConnection, customer_id: UUID) -> int:
        cursor = await conn.execute(_SQL.height, {"id": customer_id, "max_levels": MAX_LEVELS})
        (levels,) = await cursor.fetchone() or (0,)
        return int(levels)


async def check_room_below(conn: AsyncConnection, parent_id: UUID) -> None:
    """Whether a new customer may stand below this one. Taken before it is created, and held until that is done.

    Raises ``InvalidInput`` if it would make more than ``MAX_LEVELS`` levels.
    """
    await conn.execute(_SQL.serialise)
    rows = await (await conn.execute(_SQL.above, {"id": parent_id, "max_levels": MAX_LEVELS})).fetchall()
    _check_room(len(rows) + 2)


def _check_room(levels: int) -> None:
    if levels > MAX_LEVELS:
        raise InvalidInput(f"parent must leave at most {MAX_LEVELS} customers one below the other", field="parent")


def _places(above: list[_Row], own: _Row) -> list[Place]:
    """The places from the top down to a customer; ``above`` goes up."""
    way = [*reversed(above), own]
    keys = tuple(row.key for row in way)
    return [Place(row.key, row.name, keys[: number + 1]) for number, row in enumerate(way)]


def _number(cursor: str | None) -> int:
    (text,) = read_cursor(cursor, 1) or ("0",)
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LEVELS))):
        raise InvalidInput("cursor must be one that a page of this list gave", field="cursor")
    return int(text)
