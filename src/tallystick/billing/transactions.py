"""The history of a wallet: what moved its balance, with the balance after it, and its standing at any past instant.

All of it is computed from the transfers themselves, in the order in which they were posted, whatever engine keeps the
ledger. To be as fast at the end of a long history as at its beginning, a reader sets milestones: what the wallet held
after every few hundred transfers. Transfers never change, so a milestone holds for good.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.ledger.wallets import Balance, TransferCode

_SQL = Queries(Path(__file__).with_suffix(".sql"))

MILESTONE_EVERY = 250
"""Transfers from one milestone to the next: what a reader has to add up at most."""

MILESTONES_AT_ONCE = 200
"""Milestones that one statement sets: a fraction of a second."""

STRETCHES_AT_ONCE = 64
"""Stretches between milestones that one query reads transactions from, at most."""

MAX_CAUSED = 10_000
"""Transfers of one cause that are found: the newest. None comes near."""

END = 2**63 - 1
"""After every transfer there will be."""

_ALL = -1  # every bit
_INSTANT = timedelta(microseconds=1)


class TransactionType(StrEnum):
    """Why the balance moved."""

    GRANT = "grant"
    TOP_UP = "top_up"
    BILL = "bill"
    USAGE = "usage"
    USAGE_RETURNED = "usage_returned"
    HOLD = "hold"
    """What was taken when a hold was settled; holding alone moves nothing."""
    EXPIRY = "expiry"
    GRANT_VOIDED = "grant_voided"
    EXCHANGE = "exchange"
    TAKEOVER = "takeover"
    """What a customer owed, when somebody else began to pay for it: came in there, and left the payer's wallet."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transfer as its wallet sees it: ``amount`` microunits came in, or went out if it is negative."""

    sequence: int
    id: UUID
    created_at: datetime
    type: TransactionType
    ledger: int
    amount: int
    balance_after: int
    cause_id: UUID | None
    """The transfer that this one completes, or the hold that it settles."""
    description: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which transactions of a wallet: dated in [``since``, ``until``), of these types, of this cause.

    ``cause`` is the id of a transfer: it is found itself, and so is whatever completes or settles it. What is left out
    does not matter; no ``types`` means all of them.
    """

    since: datetime | None = None
    until: datetime | None = None
    types: Collection[TransactionType] = ()
    cause: UUID | None = None


class Place(NamedTuple):
    """A wallet in one asset."""

    customer_id: UUID
    ledger: int


class _Range(NamedTuple):
    """Transfers after one and before another, by sequence."""

    after: int
    before: int


class Transactions:
    """Read only but for milestones. Works on the caller's connection, best outside of a transaction."""

    def __init__(self, clock: Clock, *, milestone_every: int = MILESTONE_EVERY) -> None:
        self._clock = clock
        self._milestone_every = milestone_every

    async def page(
        self,
        conn: AsyncConnection,
        customer_id: UUID,
        ledgers: Collection[int] | None,
        wanted: Wanted,
        cursor: str | None,
        limit: int,
    ) -> Page[Transaction]:
        """Transactions in a customer's own wallets in these assets (all of them by default), newest first.

        What is posted meanwhile shifts no page. Raises ``InvalidInput`` for a cursor that is none.
        """
        before = _sequence(cursor)
        found = await self._read(conn, customer_id, ledgers, wanted, _Range(0, before), limit + 1, newest_first=True)
        more = len(found) > limit
        return Page(found[:limit], next_cursor(str(found[limit - 1].sequence)) if more else None)

    async def following(
        self,
        conn: AsyncConnection,
        customer_id: UUID,
        ledgers: Collection[int] | None,
        wanted: Wanted,
        after: int,
        limit: int,
    ) -> list[Transaction]:
        """The oldest transactions after the one with sequence ``after``, oldest first."""
        return await self._read(conn, customer_id, ledgers, wanted, _Range(after, END), limit, newest_first=False)

    async def numbered(
        self, conn: AsyncConnection, place: Place, skip: int, limit: int
    ) -> tuple[list[Transaction], int]:
        """Transactions of a wallet in one asset without the ``skip`` newest, newest first; and how many there are."""
        await self._mark(conn, place)
        total, _ = await self._standing(conn, place, END)
        if skip >= total:
            return [], total
        cursor = await conn.execute(_SQL.numbered, {**_parameters(place), "number": total - skip})
        (newest,) = await cursor.fetchone() or (0,)
        found = await self._read_place(conn, place, Wanted(), _Range(0, newest + 1), limit, newest_first=True)
        return found, total

    async def standings(self, conn: AsyncConnection, customer_id: UUID, at: datetime) -> list[Balance]:
        """What a customer's own wallets held at an instant, by asset; zeros where nothing had moved yet.

        Raises ``InvalidInput`` if the instant has not come.
        """
        if at > self._clock.now():
            raise InvalidInput("at must not be in the future", field="at")
        standings = []
        for ledger in await self.ledgers(conn, customer_id):
            place = Place(customer_id, ledger)
            await self._mark(conn, place)
            _, balance = await self._standing(conn, place, await self._first_since(conn, place, at + _INSTANT))
            standings.append(balance)
        return standings

    async def ledgers(self, conn: AsyncConnection, customer_id: UUID) -> list[int]:
        """The assets in which a customer has accounts."""
        return [
            ledger for (ledger,) in await (await conn.execute(_SQL.ledgers, {"customer_id": customer_id})).fetchall()
        ]

    async def opened(self, conn: AsyncConnection, customers: Collection[UUID]) -> set[UUID]:
        """Those of the customers whose wallet somebody opened, even if nothing has moved in it yet."""
        cursor = await conn.execute(_SQL.opened, {"customers": list(customers)})
        return {customer_id for (customer_id,) in await cursor.fetchall()}

    async def _read(
        self,
        conn: AsyncConnection,
        customer_id: UUID,
        ledgers: Collection[int] | None,
        wanted: Wanted,
        within: _Range,
        limit: int,
        *,
        newest_first: bool,
    ) -> list[Transaction]:
        """At most ``limit`` transactions of all these assets, in the order of posting."""
        found: list[Transaction] = []
        for ledger in await self.ledgers(conn, customer_id) if ledgers is None else ledgers:
            place = Place(customer_id, ledger)
            await self._mark(conn, place)
            bounds = await self._bounds(conn, place, wanted, within)
            found += await self._read_place(conn, place, wanted, bounds, limit, newest_first=newest_first)
        return sorted(found, key=lambda transaction: transaction.sequence, reverse=newest_first)[:limit]

    async def _read_place(
        self,
        conn: AsyncConnection,
        place: Place,
        wanted: Wanted,
        within: _Range,
        limit: int,
        *,
        newest_first: bool,
    ) -> list[Transaction]:
        """Reads stretch by stretch, more of them at once the fewer there is in them, until there is enough."""
        after, before = within
        parameters = {
            **_parameters(place),
            "kinds": _kinds(wanted.types),
            "causes": await self._caused(conn, place.customer_id, wanted.cause),
        }
        found: list[Transaction] = []
        stretches_at_once = min(2 + limit // self._milestone_every, STRETCHES_AT_ONCE)
        while len(found) < limit and after + 1 < before:
            query = _SQL.stretches_down if newest_first else _SQL.stretches_up
            bounds = {"after": after, "before": before, "limit": stretches_at_once}
            stretches = await (await conn.execute(query, {**parameters, **bounds})).fetchall()
            if not stretches:
                break
            starts, ends, openings = (list(column) for column in zip(*stretches, strict=True))
            rows = await (
                await conn.execute(
                    _SQL.transactions,
                    {
                        **parameters,
                        "starts": starts,
                        "ends": ends,
                        "openings": openings,
                        "after": after,
                        "before": before,
                        "direction": -1 if newest_first else 1,
                        "limit": limit - len(found),
                    },
                )
            ).fetchall()
            found += [_transaction(place.ledger, *row) for row in rows]
            after, before = (after, starts[-1] + 1) if newest_first else (ends[-1], before)
            stretches_at_once = min(2 * stretches_at_once, STRETCHES_AT_ONCE)
        return found

    async def _mark(self, conn: AsyncConnection, place: Place) -> None:
        """Sets the milestones that are missing. A statement of its own for each part, so that none is lost later."""
        every = self._milestone_every
        parameters = {**_parameters(place), "every": every, "rows": every * MILESTONES_AT_ONCE}
        while True:
            (missing,) = await (await conn.execute(_SQL.mark, parameters)).fetchone() or (0,)
            if missing < MILESTONES_AT_ONCE:
                return

    async def _bounds(self, conn: AsyncConnection, place: Place, wanted: Wanted, within: _Range) -> _Range:
        after, before = within
        if wanted.since is not None:
            after = max(after, await self._first_since(conn, place, wanted.since) - 1)
        if wanted.until is not None:
            before = min(before, await self._first_since(conn, place, wanted.until))
        return _Range(after, before)

    async def _first_since(self, conn: AsyncConnection, place: Place, instant: datetime) -> int:
        """The sequence of the first transfer at ``instant`` or later; ``END`` if there is none."""
        row = await (await conn.execute(_SQL.first_since, {**_parameters(place), "instant": instant})).fetchone()
        return row[0] if row else END

    async def _standing(self, conn: AsyncConnection, place: Place, before: int) -> tuple[int, Balance]:
        """Transactions before the transfer ``before``, and the balance they left."""
        row = await (await conn.execute(_SQL.standing, {**_parameters(place), "before": before})).fetchone()
        listed, *sums = map(int, row or [0] * 8)
        wallet, arrears, used, granted, expired, exchanged, held = sums
        return listed, Balance(
            place.ledger,
            wallet=wallet,
            arrears=arrears,
            used=used,
            granted=granted,
            expired=expired,
            exchanged=exchanged,
            held=held,
        )

    async def _caused(self, conn: AsyncConnection, customer_id: UUID, cause: UUID | None) -> list[int] | None:
        if cause is None:
            return None
        parameters = {"customer_id": customer_id, "cause": cause, "limit": MAX_CAUSED}
        return [sequence for (sequence,) in await (await conn.execute(_SQL.caused, parameters)).fetchall()]


def _parameters(place: Place) -> dict[str, object]:
    return {"customer_id": place.customer_id, "ledger": place.ledger}


def _sequence(cursor: str | None) -> int:
    (text,) = read_cursor(cursor, 1) or (str(END),)
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(END)) and 0 < int(text) <= END):
        raise InvalidInput("cursor must be one that a page of this list gave", field="cursor")
    return int(text)


def _kind(code: int, came_in: bool) -> int:
    """The bit of a kind of transaction, as ``ledger_milestones.kinds`` has it."""
    return 1 << 2 * code + came_in


def _type(code: int, came_in: bool) -> TransactionType:
    if code == TransferCode.USAGE and came_in:
        return TransactionType.USAGE_RETURNED
    return TransactionType(TransferCode(code).name.lower())


_KINDS = dict.fromkeys(TransactionType, 0)
for _code in TransferCode:
    for _came_in in (False, True):
        if _code is not TransferCode.REPAYMENT:  # it stays within the balance
            _KINDS[_type(_code, _came_in)] |= _kind(_code, _came_in)


def _kinds(types: Collection[TransactionType]) -> int:
    return sum(_KINDS[type_] for type_ in set(types)) if types else _ALL


def _transaction(
    ledger: int,
    sequence: int,
    id_: UUID,
    created_at: datetime,
    code: int,
    moved: int,
    balance_after: int,
    cause_id: UUID | None,
    description: str | None,
) -> Transaction:
    amount = int(moved)
    type_ = _type(code, amount > 0)
    return Transaction(sequence, id_, created_at, type_, ledger, amount, int(balance_after), cause_id, description)
