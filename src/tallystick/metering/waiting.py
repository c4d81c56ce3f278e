"""Charging usage that waited for a price.

A price notes that it is unsettled until nothing waits for it. Settling goes customer by customer in transactions of
their own, so it can stop anywhere and go on; whoever starts the service next finishes what was left.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.ids import NIL
from tallystick.kernel.money import EXACT
from tallystick.ledger.wallets import Movement, Payer, Wallets, usage_id
from tallystick.metering.quantify import WITHOUT_UNIT_PRICE, in_money
from tallystick.metering.unposted import UnpostedMonth, note_unposted
from tallystick.pricing.functions import Dynamic
from tallystick.pricing.model import Price, PriceList
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_name("queries.sql"))

CUSTOMERS_AT_ONCE = 100
MEASUREMENTS_PER_TRANSACTION = 20_000

Place = tuple[UUID, datetime, UUID]
"""Customer, time and id of a measurement: the order in which waiting usage is charged."""

BEFORE_ALL: Place = (NIL, datetime(1, 1, 2, tzinfo=UTC), NIL)


class Waiting(msgspec.Struct, gc=False, eq=False):
    """A measurement that was stored without a price, and what becomes of it."""

    customer_id: UUID
    payer: Payer
    id: UUID
    at: datetime
    period: str
    raw_quantity: Decimal
    unit_price: Decimal | None
    remark: str | None
    price: Price | None = None
    quantity: Decimal = Decimal(0)
    after: Decimal = Decimal(0)
    amount: int = 0
    movement: UUID | None = None


class Settlement:
    """Charges waiting usage once its price exists."""

    def __init__(self, pool: AsyncConnectionPool, pricing: Pricing, wallets: Wallets) -> None:
        self._pool = pool
        self._pricing = pricing
        self._wallets = wallets

    async def settle(self) -> int:
        """Charges everything that waits for a price that exists by now. Returns how many measurements were charged."""
        async with self._pool.connection() as conn:
            unsettled = await self._pricing.unsettled(conn)
        charged = 0
        for (meter, kind), price_ids in unsettled.items():
            charged += await self._settle_kind(meter, kind)
            async with self._pool.connection() as conn, conn.transaction():
                await self._pricing.settled(conn, price_ids)
        return charged

    async def _settle_kind(self, meter: str, kind: str) -> int:
        last_customer, charged = NIL, 0
        while customers := await self._waiting_customers(meter, kind, last_customer):
            place: Place | None = BEFORE_ALL
            while place is not None:
                newly_charged, place = await self._settle_page(meter, kind, customers, place)
                charged += newly_charged
            last_customer = customers[-1]
        return charged

    async def _waiting_customers(self, meter: str, kind: str, after: UUID) -> list[UUID]:
        parameters = {"meter": meter, "kind": kind, "after": after, "limit": CUSTOMERS_AT_ONCE}
        async with self._pool.connection() as conn:
            return [row[0] for row in await (await conn.execute(_SQL.waiting_customers, parameters)).fetchall()]

    async def _settle_page(
        self, meter: str, kind: str, customers: list[UUID], after: Place
    ) -> tuple[int, Place | None]:
        """Charges some of what waits, in one transaction; answers how many, and the place after which more may wait."""
        async with self._pool.connection() as conn, conn.transaction():
            await conn.execute(_SQL.lock_settlement)
            await self._pricing.enter(conn)
            prices = await self._pricing.price_list(conn)
            cursor = await conn.execute(
                _SQL.waiting,
                {
                    "customer_ids": UuidArray(customers),
                    "meter": meter,
                    "kind": kind,
                    "after_customer": after[0],
                    "after_at": after[1],
                    "after_id": after[2],
                    "limit": MEASUREMENTS_PER_TRANSACTION,
                },
            )
            waiting = [Waiting(row[0], Payer(*row[1:4]), *row[4:]) for row in await cursor.fetchall()]
            charged = await self._charge(conn, meter, kind, waiting, prices)
        full = len(waiting) == MEASUREMENTS_PER_TRANSACTION
        return charged, (waiting[-1].customer_id, waiting[-1].at, waiting[-1].id) if full else None

    async def _charge(
        self, conn: AsyncConnection, meter: str, kind: str, waiting: list[Waiting], prices: PriceList
    ) -> int:
        priced = [item for item in waiting if _priced(item, meter, kind, prices)]
        if not priced:
            return 0
        await self._raise_totals(conn, meter, kind, priced)
        movements = _movements(priced)
        await conn.execute(
            _SQL.charge_waiting,
            {
                "customer_ids": UuidArray(item.customer_id for item in priced),
                "ids": UuidArray(item.id for item in priced),
                "quantities": array(item.quantity for item in priced),
                "remarks": [item.remark for item in priced],
                "price_ids": array(item.price.id for item in priced if item.price),
                "totals": array(item.after for item in priced),
                "amounts": array(item.amount for item in priced),
                "transfer_ids": array(item.movement or "NULL" for item in priced),
            },
        )
        await note_unposted(conn, _unposted(priced))
        await self._wallets.charge(conn, movements)
        return len(priced)

    async def _raise_totals(self, conn: AsyncConnection, meter: str, kind: str, priced: list[Waiting]) -> None:
        """Moves quantity from what waits to the totals of the prices, and charges each measurement its difference."""
        groups: dict[tuple[str, str, str], list[Waiting]] = {}
        changes: dict[tuple[str, str, str], tuple[Decimal, int]] = {}
        for item in priced:
            customer, price_id = str(item.customer_id), str(item.price.id if item.price else NIL)
            groups.setdefault((customer, item.period, price_id), []).append(item)
            for key, quantity, count in (
                ((customer, item.period, price_id), item.quantity, 1),
                ((customer, item.period, str(NIL)), EXACT.minus(item.raw_quantity), -1),
            ):
                total, measurements = changes.get(key, (Decimal(0), 0))
                changes[key] = (EXACT.add(total, quantity), measurements + count)
        keys = sorted(changes)
        cursor = await conn.execute(
            _SQL.raise_totals,
            {
                "customer_ids": array(key[0] for key in keys),
                "periods": array(key[1] for key in keys),
                "price_ids": array(key[2] for key in keys),
                "meters": [meter] * len(keys),
                "kinds": [kind] * len(keys),
                "quantities": array(changes[key][0] for key in keys),
                "measurements": array(changes[key][1] for key in keys),
            },
        )
        totals = {row[:3]: row[5] for row in await cursor.fetchall()}
        for key, group in groups.items():
            charge_in_order(group, EXACT.subtract(totals[key], changes[key][0]))


def charge_in_order(group: list[Waiting], quantity: Decimal) -> None:
    """Charges measurements of one price, one after the other, from the total ``quantity`` on."""
    price = group[0].price
    if price is None:
        return
    cost = price.function(quantity)
    for item in group:
        quantity = item.after = EXACT.add(quantity, item.quantity)
        before, cost = cost, price.function(quantity)
        item.amount = cost - before


def _priced(item: Waiting, meter: str, kind: str, prices: PriceList) -> bool:
    price = prices.at(meter, kind, item.customer_id, item.at).price
    if price is None:
        return False
    item.quantity = item.raw_quantity
    item.remark = None if item.remark == WITHOUT_UNIT_PRICE else item.remark
    if isinstance(price.model, Dynamic):
        if item.unit_price is None:
            return False
        item.quantity, item.remark = in_money(item.raw_quantity, item.unit_price, item.remark)
    item.price = price
    return True


def _unposted(priced: list[Waiting]) -> set[UnpostedMonth]:
    return {
        UnpostedMonth(str(item.customer_id), item.period, str(item.payer.id))
        for item in priced
        if item.payer.posting_policy == "monthly"
    }


def _movements(priced: list[Waiting]) -> list[Movement]:
    groups: dict[tuple[UUID, int], list[Waiting]] = {}
    for item in priced:
        if item.amount and item.price and item.payer.posting_policy == "immediate":
            groups.setdefault((item.payer.id, item.price.ledger), []).append(item)
    movements = []
    for (payer_id, ledger), group in groups.items():
        movement_id = usage_id(payer_id, ledger, group[0].customer_id, group[0].id)
        for item in group:
            item.movement = movement_id
        movements.append(Movement(movement_id, group[0].payer, ledger, sum(item.amount for item in group)))
    return movements
