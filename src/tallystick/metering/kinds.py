"""Resource kinds: created empty when they are first seen, and completed later, by a name and by a price.

What was measured before a kind had a price waits, and is charged once there is one (``waiting``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import NotFound
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key, check_text

_SQL = Queries(Path(__file__).with_suffix(".sql"))

KindKey = tuple[str, str]
"""A meter and the key of one of its kinds, which is empty where a meter has one kind only."""


@dataclass(frozen=True, slots=True)
class Unpriced:
    """What was measured of a kind without a price: ``quantity`` in the meter's unit, by ``customers`` of them.

    Months are those in which it happened, by their first days.
    """

    customers: int
    measurements: int
    quantity: Decimal
    first_month: date
    last_month: date


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of a meter. ``priced_from`` is when everybody's first price begins; a customer's own does not count."""

    meter: str
    key: str
    name: str | None
    created_at: datetime
    priced_from: datetime | None
    unpriced: Unpriced | None


class Kinds:
    """Lists kinds and names them. Works in the caller's transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def page(
        self, conn: AsyncConnection, cursor: str | None, limit: int, *, meter: str | None = None, unpriced: bool = False
    ) -> Page[Kind]:
        """Kinds by meter and key: all, or those of a meter, or those of which something waits for a price.

        It takes the longer the more customers have something that waits.
        """
        after_meter, after_key = read_cursor(cursor, 2) or ("", "")
        found = await self._find(
            conn, after_meter=after_meter, after_key=after_key, meter=meter, unpriced=unpriced, limit=limit + 1
        )
        kinds, more = found[:limit], len(found) > limit
        return Page(kinds, next_cursor(kinds[-1].meter, kinds[-1].key) if more else None)

    async def get(self, conn: AsyncConnection, meter: str, key: str) -> Kind:
        """One kind. Raises ``NotFound``."""
        check_key(meter, "meter")
        check_text(key, "kind")
        found = await self._find(conn, meter=meter, key=key, limit=1)
        if not found:
            raise NotFound(f"meter {meter!r} has no kind {key!r}", field="kind")
        return found[0]

    async def put(self, conn: AsyncConnection, meter: str, key: str, name: str | None) -> Kind:
        """Names a kind; one that was not seen yet is created. ``None`` takes the name away. Raises ``NotFound``."""
        check_key(meter, "meter")
        check_text(key, "kind")
        if name is not None:
            check_key(name, "name")
        parameters = {"meter": meter, "kind": key, "name": name, "now": self._clock.now()}
        if await (await conn.execute(_SQL.put, parameters)).fetchone() is None:
            raise NotFound(f"there is no meter {meter!r}", field="meter")
        return await self.get(conn, meter, key)

    async def names(self, conn: AsyncConnection, kinds: Collection[KindKey]) -> dict[KindKey, str]:
        """The names of those of these kinds that have one."""
        parameters = {"meters": [meter for meter, _ in kinds], "keys": [key for _, key in kinds]}
        rows = await (await conn.execute(_SQL.names, parameters)).fetchall()
        return {(meter, key): name for meter, key, name in rows}

    async def _find(self, conn: AsyncConnection, **chosen: object) -> list[Kind]:
        parameters = {"after_meter": "", "after_key": "", "meter": None, "key": None, "unpriced": False, **chosen}
        return [_kind(row) for row in await (await conn.execute(_SQL.kinds, parameters)).fetchall()]


def _kind(row: Sequence[Any]) -> Kind:
    *kind, customers, measurements, quantity, first_month, last_month = row
    unpriced = Unpriced(customers, measurements, quantity, first_month, last_month) if customers else None
    return Kind(*(*kind, unpriced))
