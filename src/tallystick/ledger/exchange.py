"""Exchange between a customer's wallets: out of one asset and into another, at a rate that the caller states.

    wallet --> exchanged     in the asset that is given: linked to the next one
    exchanged --> wallet     in the asset that is received: both happen, or neither
    wallet --> arrears       what came in repays arrears first

The rate is always the caller's own. Rates for display move no money, so nobody exchanges at one he has not seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.kernel.ids import derived_id
from tallystick.kernel.money import MAX_AMOUNT, MICROUNITS, format_amount, format_quantity
from tallystick.kernel.paging import Page, newest_first, read_newest_first
from tallystick.ledger.assets import Asset
from tallystick.ledger.contract import Ledger, LedgerRefusal, Result, Status, Transfer, TransferFlags
from tallystick.ledger.desk import Answer, Desk, fingerprint
from tallystick.ledger.orders import Asked, of_customers
from tallystick.ledger.rates import converted
from tallystick.ledger.wallets import (
    AccountCode,
    FindPayers,
    InsufficientCredits,
    Movement,
    Payer,
    TransferCode,
    Wallets,
    account_id,
    repayments,
    transfer_of,
)

_SQL = Queries(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class ExchangeOrder:
    """To exchange ``amount`` microunits of ``source`` for ``target``, in the wallets of whoever pays for ``customer``.

    ``customer`` is a key. ``rate`` is how many units of ``target`` one unit of ``source`` gives.
    """

    type: ClassVar[str] = "exchange"

    id: UUID
    customer: str
    source: Asset
    target: Asset
    amount: int
    rate: Decimal
    idempotency_key: str | None = None

    @property
    def fingerprint(self) -> bytes:
        """What must be the same when a key comes again."""
        rate = format_quantity(self.rate)  # 0.02 and 0.020 are one
        return fingerprint(self.type, self.customer, self.source.code, self.target.code, self.amount, rate)

    @property
    def received(self) -> int:
        """Microunits of ``target``: the amount at the rate, rounded half to even."""
        return converted(self.amount, self.rate)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was exchanged: ``amount`` microunits of ``source`` for ``received`` microunits of ``target`` at ``rate``.

    ``id`` is that of the transfer that took the amount, and the cause of the one that gave what was received.
    """

    id: UUID
    source: str
    target: str
    amount: int
    rate: Decimal
    received: int
    created_at: datetime


class Exchanges:
    """Exchanges, and remembers at which rate. Orders go through the desk."""

    def __init__(self, clock: Clock, desk: Desk, ledger: Ledger, wallets: Wallets, find_payers: FindPayers) -> None:
        self._clock = clock
        self._desk = desk
        self._ledger = ledger
        self._wallets = wallets
        desk.register((ExchangeOrder.type,), of_customers(find_payers, self._handle))

    async def carry_out(self, order: ExchangeOrder) -> Exchange:
        """Exchanges, all or nothing.

        Raises ``InvalidInput`` for an order that comes to nothing, ``NotFound`` without such a customer,
        ``InsufficientCredits`` if a prepaid wallet holds less than the amount, and what ``Desk.carry_out`` raises.
        """
        _check(order)
        return msgspec.convert(await self._desk.carry_out(order), Exchange)

    async def get(self, conn: AsyncConnection, payer_id: UUID, exchange_id: UUID) -> Exchange:
        """One exchange in a customer's own wallets. Raises ``NotFound``."""
        row = await (await conn.execute(_SQL.get, {"customer_id": payer_id, "id": exchange_id})).fetchone()
        if row is None:
            raise NotFound(f"there is no exchange {exchange_id}", field="id")
        return _read(row)

    async def page(self, conn: AsyncConnection, payer_id: UUID, cursor: str | None, limit: int) -> Page[Exchange]:
        """Exchanges in a customer's own wallets, newest first."""
        before_at, before_id = read_newest_first(cursor)
        parameters = {"customer_id": payer_id, "before_at": before_at, "before_id": before_id, "limit": limit + 1}
        rows = await (await conn.execute(_SQL.page, parameters)).fetchall()
        return newest_first([_read(row) for row in rows], limit, lambda done: (done.created_at, done.id))

    async def _handle(self, conn: AsyncConnection, asked: Sequence[Asked[ExchangeOrder]]) -> dict[UUID, Answer]:
        """Carries out orders one after the other, in one batch; each stands or falls by itself."""
        orders = [order for order, _, _ in asked]
        payers = {order.id: payer for order, _, payer in asked}
        results = dict(zip(payers, await self._post(conn, orders, payers), strict=True))
        now = self._clock.now()
        await self._record(conn, [order for order in orders if results[order.id].stands], payers, now)
        lacking = [order for order in orders if results[order.id].status is Status.EXCEEDS_CREDITS]
        available = await self._available(conn, lacking, payers)
        return {order.id: _answer(order, results[order.id], available.get(order.id), now) for order in orders}

    async def _post(
        self, conn: AsyncConnection, orders: Sequence[ExchangeOrder], payers: dict[UUID, Payer]
    ) -> list[Result]:
        """What came of the first transfer of each pair. Of a pair that was posted before, that one exists."""
        pairs = [_movements(order, payers[order.id]) for order in orders]
        return await self._wallets.post(
            conn, [_transfers(*pair) for pair in pairs], [movement for pair in pairs for movement in pair]
        )

    async def _record(
        self, conn: AsyncConnection, orders: Sequence[ExchangeOrder], payers: dict[UUID, Payer], now: datetime
    ) -> None:
        if orders:
            await conn.execute(
                _SQL.record,
                {
                    "customer_ids": UuidArray(payers[order.id].id for order in orders),
                    "ids": UuidArray(order.id for order in orders),
                    "sources": array(order.source.ledger for order in orders),
                    "targets": array(order.target.ledger for order in orders),
                    "amounts": array(order.amount for order in orders),
                    "rates": array(order.rate for order in orders),
                    "received": array(order.received for order in orders),
                    "now": now,
                },
            )

    async def _available(
        self, conn: AsyncConnection, orders: Collection[ExchangeOrder], payers: dict[UUID, Payer]
    ) -> dict[UUID, int]:
        """What can still be spent of the wallets that these orders are to take from, by order."""
        wallets = {
            order.id: account_id(payers[order.id].id, order.source.ledger, AccountCode.WALLET) for order in orders
        }
        if not wallets:
            return {}
        wanted = [(payers[order_id].id, wallet_id) for order_id, wallet_id in wallets.items()]
        accounts = await self._ledger.accounts(conn, wanted, serialised=True)
        return {order_id: accounts[wallet_id].available for order_id, wallet_id in wallets.items()}


def _check(order: ExchangeOrder) -> None:
    source, target = order.source.code, order.target.code
    if source == target:
        raise InvalidInput(f"to must be another asset than {source}", field="to")
    if order.amount <= 0:
        raise InvalidInput("amount must be greater than 0", field="amount")
    rate = f"{format_quantity(order.rate)} {target} for one {source}"
    if order.received == 0:
        raise InvalidInput(f"amount is too small: at {rate} it comes to less than 0.000001 {target}", field="amount")
    if order.received > MAX_AMOUNT:
        raise InvalidInput(
            f"amount is too large: at {rate} it comes to more than {MAX_AMOUNT // MICROUNITS} {target}", field="amount"
        )


def _movements(order: ExchangeOrder, payer: Payer) -> tuple[Movement, Movement]:
    given = Movement(order.id, payer, order.source.ledger, order.amount)
    received_id = derived_id("exchanged", order.id)
    return given, Movement(received_id, payer, order.target.ledger, order.received, cause_id=order.id)


def _transfers(given: Movement, received: Movement) -> list[Transfer]:
    return [
        transfer_of(given, AccountCode.WALLET, AccountCode.EXCHANGED, TransferCode.EXCHANGE, TransferFlags.LINKED),
        transfer_of(received, AccountCode.EXCHANGED, AccountCode.WALLET, TransferCode.EXCHANGE),
        *repayments(received),
    ]


def _answer(order: ExchangeOrder, result: Result, available: int | None, now: datetime) -> Answer:
    if result.stands:
        done = Exchange(
            order.id, order.source.code, order.target.code, order.amount, order.rate, order.received, created_at=now
        )
        answer: dict[str, Any] = msgspec.to_builtins(done)
        return answer
    if result.status in (Status.EXCEEDS_CREDITS, Status.ID_ALREADY_FAILED):
        # The latter: it was refused before, for the one reason there is, and the answer was lost.
        wanted = f"Insufficient balance: {format_amount(order.amount, places=2)} {order.source.code}"
        if available is None:
            return InsufficientCredits(f"{wanted} was needed", field="amount")
        return InsufficientCredits(
            f"{wanted} is needed, {format_amount(available, places=2)} is available", field="amount"
        )
    return LedgerRefusal(f"the ledger refused the exchange: {result.status.value}")


def _read(row: tuple[Any, ...]) -> Exchange:
    id_, source, target, amount, rate, received, created_at = row
    return Exchange(id_, source, target, int(amount), rate, int(received), created_at)
