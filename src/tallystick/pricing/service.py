"""The price catalogue: creating prices, listing them, and keeping every process's memory of them current."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.customers.service import Customers
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.ids import NIL, new_id
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key, check_text
from tallystick.pricing.functions import Model, parse_model
from tallystick.pricing.model import NewPrice, Price, PriceList

_SQL = Queries(Path(__file__).with_name("queries.sql"))


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """A price as people see it: its customer by key, its model as JSON, with its meter's unit.

    ``effective_until`` is where the next one begins, ``None`` if there is none yet.
    """

    id: UUID
    meter: str
    kind: str
    customer: str | None
    effective_from: datetime
    asset: str
    quantum: str
    model: dict[str, object]
    created_at: datetime
    unit: str
    effective_until: datetime | None


class Listener(Protocol):
    """Who hears of new prices, in the transaction that adds them; ``customer_id`` is whose alone it is."""

    async def price_changed(self, conn: AsyncConnection, customer_id: UUID | None, price: ListedPrice) -> None: ...


class Pricing:
    """The catalogue. Works in the caller's transaction."""

    def __init__(self, clock: Clock, customers: Customers, listener: Listener | None = None) -> None:
        self._clock = clock
        self._customers = customers
        self._listener = listener

    async def enter(self, conn: AsyncConnection) -> int:
        """The catalogue's version, which cannot change until this transaction ends."""
        async with conn.pipeline():  # two statements, so that the version is read once the lock is held; one trip
            await conn.execute(_SQL.enter)
            (version,) = await (await conn.execute(_SQL.version)).fetchone() or (0,)
        return int(version)

    async def change(self, conn: AsyncConnection) -> int:
        """Waits for every transaction that entered, keeps new ones out until this one ends, and raises the version.

        Returns the version, which names this change.
        """
        await conn.execute(_SQL.change)
        ((version,),) = await (await conn.execute(_SQL.raise_version)).fetchall()
        return int(version)

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
        price_id = new_id(now)
        await conn.execute(_SQL.ensure_kind, {"meter": new.meter, "kind": new.kind, "now": now})
        cursor = await conn.execute(
            _SQL.insert,
            {
                "id": price_id,
                "meter": new.meter,
                "kind": new.kind,
                "customer_id": customer_id,
                "effective_from": new.effective_from,
                "asset": new.asset,
                "quantum": new.quantum,
                "model": json.dumps(new.model.as_json()),
                "now": now,
            },
        )
        if cursor.rowcount == 0:
            raise Conflict(
                f"a price of meter {new.meter!r}, kind {new.kind!r} starts at {new.effective_from.isoformat()} already",
                field="effective_from",
            )
        price = await self.get(conn, price_id)
        if self._listener is not None:
            await self._listener.price_changed(conn, customer_id, price)
        return price

    async def create_version(self, conn: AsyncConnection, new: NewPrice) -> ListedPrice:
        """As ``create``, for who must not price the past anew; asked for what stands already, it answers that.

        Raises also ``Conflict`` if it would start before now, and other prices have charged usage since then.
        """
        await self.change(conn)  # first, so that what is found stays so
        return await self._create_version(conn, new, self._clock.now())

    async def revise(
        self,
        conn: AsyncConnection,
        price_id: UUID,
        asset: str,
        quantum: Decimal,
        model: Model,
        effective_from: datetime | None,
    ) -> ListedPrice:
        """Gives a price other terms from an instant on, from now if that is ``None``: a new version of it.

        Raises ``NotFound``, and what ``create_version`` raises.
        """
        old = await self.get(conn, price_id)
        await self.change(conn)
        now = self._clock.now()  # no earlier: while others held the catalogue, usage was charged
        new = NewPrice(old.meter, old.kind, old.customer, effective_from or now, asset, quantum, model)
        return await self._create_version(conn, new, now)

    async def _create_version(self, conn: AsyncConnection, new: NewPrice, now: datetime) -> ListedPrice:
        """The caller has the catalogue alone since before ``now``."""
        customer_id = await self._customer_id(conn, new.customer)
        prices = await self.price_list(conn)
        in_force = prices.at(new.meter, new.kind, customer_id or NIL, new.effective_from).price
        if in_force is not None and in_force.customer_id == customer_id and _stands(in_force, new, now):
            return await self.get(conn, in_force.id)
        if prices.has_charged(new.meter, new.kind, customer_id, new.effective_from, now):
            raise Conflict(
                f"usage of meter {new.meter!r}, kind {new.kind!r} has been charged since"
                f" {new.effective_from.isoformat()} by the price in force, and stays charged: let the new price start"
                " now or later",
                field="effective_from",
            )
        return await self.create(conn, new)

    async def get(self, conn: AsyncConnection, price_id: UUID) -> ListedPrice:
        """One price. Raises ``NotFound``."""
        found = await self._listed(conn, id=price_id, limit=1)
        if not found:
            raise NotFound(f"there is no price {price_id}", field="id")
        return found[0]

    async def page(
        self,
        conn: AsyncConnection,
        meter: str | None,
        cursor: str | None,
        limit: int,
        *,
        kind: str | None = None,
        customer: str | None = None,
    ) -> Page[ListedPrice]:
        """Prices by meter, kind and age: all, or those of one meter, of one kind, or of one customer's own."""
        after_meter, after_kind, after_id = read_cursor(cursor, 3) or ("", "", str(NIL))
        try:
            after = UUID(after_id)
        except ValueError:
            raise InvalidInput("cursor must be one that a page of this list gave", field="cursor") from None
        prices = await self._listed(
            conn,
            meter=meter,
            kind=kind,
            customer=customer,
            after_meter=after_meter,
            after_kind=after_kind,
            after_id=after,
            limit=limit + 1,
        )
        shown, more = prices[:limit], len(prices) > limit
        return Page(shown, next_cursor(shown[-1].meter, shown[-1].kind, str(shown[-1].id)) if more else None)

    async def in_force(
        self, conn: AsyncConnection, customer_id: UUID, cursor: str | None, limit: int
    ) -> Page[ListedPrice]:
        """What a customer pays now, by meter and kind."""
        after_meter, after_kind = read_cursor(cursor, 2) or ("", "")
        parameters = {
            "customer_id": customer_id,
            "at": self._clock.now(),
            "after_meter": after_meter,
            "after_kind": after_kind,
            "limit": limit + 1,
        }
        prices = [_listed(row) for row in await (await conn.execute(_SQL.in_force, parameters)).fetchall()]
        shown, more = prices[:limit], len(prices) > limit
        return Page(shown, next_cursor(shown[-1].meter, shown[-1].kind) if more else None)

    async def _listed(self, conn: AsyncConnection, **chosen: object) -> list[ListedPrice]:
        rows = await (await conn.execute(_SQL.listed, {**_ALL, **chosen})).fetchall()
        return [_listed(row) for row in rows]

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


_ALL: dict[str, object] = {
    **dict.fromkeys(("id", "meter", "kind", "customer")),
    **dict.fromkeys(("after_meter", "after_kind"), ""),
    "after_id": NIL,
}


def _listed(row: Sequence[Any]) -> ListedPrice:
    return ListedPrice(*(*row[:6], format(row[6], "f"), *row[7:]))


def _stands(price: Price, new: NewPrice, now: datetime) -> bool:
    """Whether a new price would change nothing, as ``price`` is in force when it would start.

    What is to start later is no repetition: another one may still come between.
    """
    same_terms = (price.asset, price.quantum, price.model) == (new.asset, new.quantum, new.model)
    return same_terms and (price.effective_from == new.effective_from or new.effective_from <= now)
