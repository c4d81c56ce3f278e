"""The price catalogue: creating prices, listing them, and keeping every process's memory of them current."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.customers.service import Customers
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput
from tallystick.kernel.ids import NIL, new_id
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key, check_text
from tallystick.pricing.functions import parse_model
from tallystick.pricing.model import NewPrice, Price, PriceList

_SQL = Queries(Path(__file__).with_name("queries.sql"))


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """A price as people see it: its customer by key, its model as JSON."""

    id: UUID
    meter: str
    kind: str
    customer: str | None
    effective_from: datetime
    asset: str
    quantum: str
    model: dict[str, object]
    created_at: datetime


class Pricing:
    """The catalogue. Works in the caller's transaction."""

    def __init__(self, clock: Clock, customers: Customers) -> None:
        self._clock = clock
        self._customers = customers

    async def enter(self, conn: AsyncConnection) -> int:
        """The catalogue's version, which cannot change until this transaction ends."""
        async with conn.pipeline():  # two statements, so that the version is read once the lock is held; one trip
            await conn.execute(_SQL.enter)
            (version,) = await (await conn.execute(_SQL.version)).fetchone() or (0,)
        return int(version)

    async def change(self, conn: AsyncConnection) -> None:
        """Waits for every transaction that entered, keeps new ones out until this one ends, and raises the version."""
        await conn.execute(_SQL.change)
        await conn.execute(_SQL.raise_version)

    async def price_list(self, conn: AsyncConnection) -> PriceList:
        """All prices as they stand."""
        rows = await (await conn.execute(_SQL.prices)).fetchall()
        return PriceList([Price(*(*row[:8], parse_model(row[8]), row[9])) for row in rows])

    async def create(self, conn: AsyncConnection, new: NewPrice) -> ListedPrice:
        """Adds a price. It ends the one before it where it starts. Usage that waits for it is charged by metering.

        Raises ``InvalidInput`` for an unknown meter, customer or asset, ``Conflict`` if a price starts at that instant
        already.
        """
        check_key(new.meter, "meter")
        check_text(new.kind, "kind")
        check_key(new.asset, "asset")
        if not await (await conn.execute(_SQL.meter_exists, {"meter": new.meter})).fetchone():
            raise InvalidInput(f"meter names no meter: {new.meter!r}", field="meter")
        if not await (await conn.execute(_SQL.asset_ledger, {"asset": new.asset})).fetchone():
            raise InvalidInput(f"asset names no asset: {new.asset!r}", field="asset")
        customer_id = await self._customer_id(conn, new.customer)
        await self.change(conn)
        now = self._clock.now()
        price = ListedPrice(
            id=new_id(now),
            meter=new.meter,
            kind=new.kind,
            customer=new.customer,
            effective_from=new.effective_from,
            asset=new.asset,
            quantum=format(new.quantum, "f"),
            model=new.model.as_json(),
            created_at=now,
        )
        await conn.execute(_SQL.ensure_kind, {"meter": new.meter, "kind": new.kind, "now": now})
        cursor = await conn.execute(
            _SQL.insert,
            {
                "id": price.id,
                "meter": price.meter,
                "kind": price.kind,
                "customer_id": customer_id,
                "effective_from": price.effective_from,
                "asset": price.asset,
                "quantum": new.quantum,
                "model": json.dumps(price.model),
                "now": now,
            },
        )
        if cursor.rowcount == 0:
            raise Conflict(
                f"a price of meter {new.meter!r}, kind {new.kind!r} starts at {new.effective_from.isoformat()} already",
                field="effective_from",
            )
        return price

    async def page(self, conn: AsyncConnection, meter: str | None, cursor: str | None, limit: int) -> Page[ListedPrice]:
        """Prices by meter, kind and age, of all meters or one."""
        after_meter, after_kind, after_id = read_cursor(cursor, 3) or ("", "", str(NIL))
        try:
            after = UUID(after_id)
        except ValueError:
            raise InvalidInput("cursor must be one that a page of this list gave", field="cursor") from None
        parameters = {
            "meter": meter,
            "after_meter": after_meter,
            "after_kind": after_kind,
            "after_id": after,
            "limit": limit + 1,
        }
        rows = await (await conn.execute(_SQL.page, parameters)).fetchall()
        prices = [ListedPrice(*(*row[:6], format(row[6], "f"), *row[7:])) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(prices, next_cursor(prices[-1].meter, prices[-1].kind, str(prices[-1].id)) if more else None)

    async def unsettled(self, conn: AsyncConnection) -> dict[tuple[str, str], list[UUID]]:
        """Prices whose waiting usage may still have to be charged, by meter and kind."""
        waiting: dict[tuple[str, str], list[UUID]] = {}
        for price_id, meter, kind in await (await conn.execute(_SQL.unsettled)).fetchall():
            waiting.setdefault((meter, kind), []).append(price_id)
        return waiting

    async def settled(self, conn: AsyncConnection, price_ids: list[UUID]) -> None:
        """Notes that nothing waits for these prices any more."""
        await conn.execute(_SQL.settled, {"ids": price_ids, "now": self._clock.now()})

    async def _customer_id(self, conn: AsyncConnection, key: str | None) -> UUID | None:
        if key is None:
            return None
        check_key(key, "customer")
        if found := await self._customers.find(conn, [key]):
            return found[key][0]
        raise InvalidInput(f"customer names no customer: {key!r}", field="customer")
