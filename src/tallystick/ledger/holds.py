"""Holds: credits reserved for something whose cost is not known yet, until it is settled, released, or its time is up.

Whoever changes holds takes the ledger's lock first and reads them then, so none is closed by two at once. No row of a
hold is ever locked before the ledger is, and a transfer and the row of its hold are written in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, TallyError
from tallystick.kernel.paging import Page, newest_first, read_newest_first
from tallystick.ledger.contract import Ledger, LedgerRefusal, LedgerUnavailable, Result, Status
from tallystick.ledger.desk import Answer, Desk
from tallystick.ledger.hold_model import (
    STATES,
    Closings,
    Hold,
    HoldExpired,
    HoldOrder,
    HoldState,
    Place,
    PlaceHold,
    ReleaseHold,
    Resolution,
    SettleHold,
    closing_transfers,
    excess_id,
    insufficient,
    placed,
    placing_transfer,
    unknown_hold,
)
from tallystick.ledger.orders import Asked, of_customers
from tallystick.ledger.wallets import AccountCode, FindPayers, Movement, Payer, Wallets, account_id

_SQL = Queries(Path(__file__).with_suffix(".sql"))

UNHEARD_SECONDS = 900
"""How long whoever asked for a hold, and was not answered, may still come back for it."""

_EXISTS_OTHERWISE = frozenset(status for status in Status if status.value.startswith("exists_with_different"))
_CLOSED_ELSEWHERE = _EXISTS_OTHERWISE | {
    Status.PENDING_TRANSFER_ALREADY_POSTED,
    Status.PENDING_TRANSFER_ALREADY_VOIDED,
}


class Holds:
    """Places, settles, releases and expires holds. Orders go through the desk."""

    def __init__(self, clock: Clock, desk: Desk, ledger: Ledger, wallets: Wallets, find_payers: FindPayers) -> None:
        self._clock = clock
        self._desk = desk
        self._ledger = ledger
        self._wallets = wallets
        types = PlaceHold.type, SettleHold.type, ReleaseHold.type
        desk.register(types, of_customers(find_payers, self._handle))

    async def carry_out(self, order: HoldOrder) -> Hold:
        """Carries out one order and returns the hold as it stands then.

        Raises ``NotFound`` without such a customer, ``InsufficientCredits`` when placing on a prepaid wallet,
        ``UnknownHold``, ``ExceedsHold``; ``HoldSettled``, ``HoldReleased`` or ``HoldExpired`` if it was closed
        otherwise before; and what ``Desk.carry_out`` raises. To do again what was done answers the same.
        """
        return msgspec.convert(await self._desk.carry_out(order), Hold)

    async def get(self, conn: AsyncConnection, customer_id: UUID, hold_id: UUID) -> Hold:
        """One hold of a customer. Raises ``UnknownHold``."""
        row = await (await conn.execute(_SQL.get, {"customer_id": customer_id, "id": hold_id})).fetchone()
        if row is None:
            raise unknown_hold(hold_id)
        return _read(row)

    async def page(
        self, conn: AsyncConnection, customer_id: UUID, state: HoldState | None, cursor: str | None, limit: int
    ) -> Page[Hold]:
        """Holds of a customer, all or those in one state, newest first."""
        before_at, before_id = read_newest_first(cursor)
        parameters = {
            "customer_id": customer_id,
            "states": list(STATES) if state is None else [state],
            "before_at": before_at,
            "before_id": before_id,
            "limit": limit + 1,
        }
        rows = await (await conn.execute(_SQL.page, parameters)).fetchall()
        return newest_first([_read(row) for row in rows], limit, lambda hold: (hold.created_at, hold.id))

    async def run_due(self, conn: AsyncConnection, now: datetime, limit: int) -> int:
        """Expires at most ``limit`` holds whose time is up by ``now``, and returns how many.

        Lets go, too, of what is reserved for nobody: on a ledger elsewhere, for somebody who died before the hold was
        written down. The ledger is locked only if there is something to do.
        """
        expired = await self._expire(conn, now, limit)
        return expired + await self._let_go_of_unheard(conn, now, limit - expired)

    async def next_due(self, conn: AsyncConnection, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which a hold expires, as things stand."""
        row = await (await conn.execute(_SQL.next_due, {"after": after})).fetchone()
        return row[0] if row else None

    async def _expire(self, conn: AsyncConnection, now: datetime, limit: int) -> int:
        places = await (await conn.execute(_SQL.due, {"now": now, "limit": limit})).fetchall()
        if not places:
            return 0
        closings = await self._look(conn, places, now)  # whoever waited for the lock may find nothing left to do
        await self._post(conn, closings.closed, [])
        await self._note(conn, closings.closed, [])
        return len(closings.closed)

    async def _let_go_of_unheard(self, conn: AsyncConnection, now: datetime, limit: int) -> int:
        unheard, checked = await self._unheard(conn, now, limit)
        if unheard:  # somebody may be asking for it again just now
            await self._ledger.serialise(conn)
            unheard, checked = await self._unheard(conn, now, limit)
            await self._post(conn, unheard, [])
        if checked:
            await conn.execute(_SQL.checked, {"sequence": checked})
        return len(unheard)

    async def _unheard(self, conn: AsyncConnection, now: datetime, limit: int) -> tuple[list[Hold], int]:
        """Holds that nobody was told of, as they are to be closed, and up to which transfer all have been found."""
        parameters = {"before": now - timedelta(seconds=UNHEARD_SECONDS), "limit": limit}
        rows = await (await conn.execute(_SQL.unchecked, parameters)).fetchall()
        unheard = [
            Hold(payer_id, hold_id, Payer(payer_id, policy), ledger, int(amount), None, placed_at, now, "expired")
            for _, payer_id, hold_id, ledger, amount, policy, placed_at, is_unheard in rows
            if is_unheard
        ]
        return unheard, rows[-1][0] if rows else 0

    async def _handle(self, conn: AsyncConnection, asked: Sequence[Asked[HoldOrder]]) -> dict[UUID, Answer]:
        """Closes what is to be closed, and then places: orders that arrive together have no order of their own."""
        now = self._clock.now()
        places = {(customer_id, order.hold_id) for order, customer_id, _ in asked}
        closings = await self._look(conn, sorted(places), now)
        outcomes: dict[UUID, Hold | TallyError] = {}
        new: list[Hold] = []
        for order, customer_id, payer in asked:
            place = customer_id, order.hold_id
            if not isinstance(order, PlaceHold):
                outcomes[order.id] = closings.carry_out(order, place)
            elif standing := closings.holds.get(place):  # it was placed before, and the answer was lost
                outcomes[order.id] = standing
            else:
                new.append(placed(order, customer_id, payer, now))
        results = await self._post(conn, closings.closed, new)
        outcomes |= await self._outcomes(conn, new, results)
        await self._note(conn, closings.closed, [hold for hold in new if outcomes[hold.id] is hold])
        return {order_id: _answer(outcome) for order_id, outcome in outcomes.items()}

    async def _look(self, conn: AsyncConnection, places: Collection[Place], now: datetime) -> Closings:
        """Takes the ledger's lock, and then reads these holds: nobody else can change them any more."""
        async with conn.pipeline():
            await self._ledger.serialise(conn)
            cursor = await conn.execute(_SQL.standing, _places(places))
            return Closings([_read_standing(row) for row in await cursor.fetchall()], now)

    async def _post(self, conn: AsyncConnection, closed: Sequence[Hold], new: Sequence[Hold]) -> list[Result]:
        """Posts what closes these holds, and then what places those; the results of the latter.

        Raises ``LedgerUnavailable`` if one turns out to have been closed by somebody who died on the way, and of whom
        the database is about to hear.
        """
        transfers = [closing_transfers(hold) for hold in closed] + [[placing_transfer(hold)] for hold in new]
        movements = [Movement(hold.id, hold.payer, hold.ledger, hold.amount) for hold in (*closed, *new)]
        results = await self._wallets.post(conn, transfers, movements)
        for hold, result in zip(closed, results, strict=False):
            if result.status in _CLOSED_ELSEWHERE:
                raise LedgerUnavailable(f"the hold {hold.id} is just being closed; send it again")
            if not result.stands:
                raise LedgerRefusal(f"the ledger refused to close the hold {hold.id}: {result.status.value}")
        return results[len(closed) :]

    async def _outcomes(
        self, conn: AsyncConnection, new: Sequence[Hold], results: Sequence[Result]
    ) -> dict[UUID, Hold | TallyError]:
        """What came of placing holds, given the results of their transfers.

        Some may stand from an attempt that died before the database heard of it; so does the one under another's key.
        """
        asked = list(zip(new, results, strict=True))
        gone = await self._gone(conn, [hold for hold, result in asked if result.status is Status.EXISTS])
        lacking = [hold for hold, result in asked if result.status is Status.EXCEEDS_CREDITS]
        available = await self._available(conn, lacking)
        outcomes: dict[UUID, Hold | TallyError] = {}
        for hold, result in asked:
            if hold.id in gone:
                outcomes[hold.id] = HoldExpired(f"the hold {hold.id} expired before it was answered", field="id")
            elif result.stands:
                outcomes[hold.id] = hold
            elif result.status is Status.EXCEEDS_CREDITS:
                outcomes[hold.id] = insufficient(hold, available[hold.payer.id, hold.ledger])
            elif result.status is Status.ID_ALREADY_FAILED:  # for the only reason there is, and the answer was lost
                outcomes[hold.id] = insufficient(hold, None)
            elif result.status in _EXISTS_OTHERWISE:
                outcomes[hold.id] = Conflict(
                    "Idempotency-Key was used for another request before", field="Idempotency-Key"
                )
            else:
                raise LedgerRefusal(f"the ledger refused the hold: {result.status.value}")
        return outcomes

    async def _gone(self, conn: AsyncConnection, holds: Sequence[Hold]) -> set[UUID]:
        """Those that stand from an attempt of which the database did not hear, and that were voided since."""
        if not holds:
            return set()
        parameters = {
            "payer_ids": UuidArray(hold.payer.id for hold in holds),
            "ids": UuidArray(hold.id for hold in holds),
        }
        return {hold_id for (hold_id,) in await (await conn.execute(_SQL.resolved, parameters)).fetchall()}

    async def _available(self, conn: AsyncConnection, holds: Sequence[Hold]) -> dict[tuple[UUID, int], int]:
        """What can still be spent of these holds' wallets."""
        left = {(hold.payer.id, hold.ledger): 0 for hold in holds}
        wanted = [
            (payer_id, account_id(payer_id, ledger, code))
            for payer_id, ledger in left
            for code in (AccountCode.WALLET, AccountCode.ARREARS)
        ]
        if wanted:
            for account in (await self._ledger.accounts(conn, wanted, serialised=True)).values():
                left[account.customer_id, account.ledger] += account.available
        return left

    async def _note(self, conn: AsyncConnection, closed: Sequence[Hold], new: Sequence[Hold]) -> None:
        """Writes down what has been posted."""
        async with conn.pipeline():
            if new:
                await conn.execute(_SQL.place, _columns(new))
            if closed:
                await conn.execute(_SQL.close, _columns(closed))
            transfers = [(hold, hold.id) for hold in new]
            transfers += [(hold, excess_id(hold.id)) for hold in closed if hold.excess]
            if described := [(hold, transfer_id) for hold, transfer_id in transfers if hold.description is not None]:
                await conn.execute(
                    _SQL.describe,
                    {
                        "payer_ids": UuidArray(hold.payer.id for hold, _ in described),
                        "transfer_ids": UuidArray(transfer_id for _, transfer_id in described),
                        "descriptions": [hold.description for hold, _ in described],
                    },
                )


# Rows and answers


def _answer(outcome: Hold | TallyError) -> Answer:
    return outcome if isinstance(outcome, TallyError) else msgspec.to_builtins(outcome)


def _read(row: tuple[Any, ...]) -> Hold:
    customer_id, hold_id, payer_id, policy, ledger, amount, description, created_at, expires_at = row[:9]
    state, settled_amount, excess, closed_at = row[9:]
    return Hold(
        customer_id,
        hold_id,
        Payer(payer_id, policy),
        ledger,
        int(amount),
        description,
        created_at,
        expires_at,
        state,
        int(settled_amount),
        int(excess),
        closed_at,
    )


def _read_standing(row: tuple[Any, ...]) -> tuple[Hold, Resolution | None]:
    flags, amount, excess, at = row[13:]
    return _read(row[:13]), Resolution(flags, int(amount), int(excess or 0), at) if at is not None else None


def _places(places: Collection[Place]) -> dict[str, object]:
    return {
        "customer_ids": UuidArray(customer_id for customer_id, _ in places),
        "ids": UuidArray(hold_id for _, hold_id in places),
    }


def _columns(holds: Sequence[Hold]) -> dict[str, object]:
    return {
        **_places([(hold.customer_id, hold.id) for hold in holds]),
        "payer_ids": UuidArray(hold.payer.id for hold in holds),
        "policies": [hold.payer.credit_policy for hold in holds],
        "ledgers": array(hold.ledger for hold in holds),
        "amounts": array(hold.amount for hold in holds),
        "descriptions": [hold.description for hold in holds],
        "created": [hold.created_at for hold in holds],
        "expire": [hold.expires_at for hold in holds],
        "states": [hold.state for hold in holds],
        "settled_amounts": array(hold.settled_amount for hold in holds),
        "excesses": array(hold.excess for hold in holds),
        "closed": [hold.closed_at for hold in holds],
    }
