"""What is left of the grants of wallets, read from the books: the fold of ``burndown``.

It reads the transfers of a wallet since its checkpoint, added up by interval in the database. Transfers never change,
so what was folded once holds for good: whoever had to read many keeps how far he has got.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.ledger.burndown import BurnDown, Grant, Interrupted, Remaining
from tallystick.ledger.contract import TransferFlags
from tallystick.ledger.wallets import AccountCode, TransferCode, account_id

_SQL = Queries(Path(__file__).with_suffix(".sql"))

Wallet = tuple[UUID, int]
"""A payer and an asset's ledger."""

_WORDS: dict[str, object] = {
    "incomes": [int(code) for code in (TransferCode.GRANT, TransferCode.TOP_UP, TransferCode.EXCHANGE)],
    "moves_nothing": int(TransferFlags.PENDING | TransferFlags.VOID_PENDING),
}
MANY_TRANSFERS = 10_000
"""What nobody should have to read twice: some 10 ms."""

_BEGINNING = 0, Interrupted(Remaining({}, 0))


@dataclass(slots=True)
class Folded:
    """The wallets, folded up to and with the transfer ``sequence`` of the books, by reading so many transfers."""

    wallets: dict[Wallet, BurnDown]
    sequence: int
    read: int = 0


class _Event(NamedTuple):
    """A grant came in or was taken away by the transfer ``sequence``, or was closed after it."""

    sequence: int
    closes: bool
    grant_id: UUID
    came_in: Grant | None = None
    taken: int = 0

    @property
    def place(self) -> tuple[int, bool]:
        """What events are ordered by."""
        return self.sequence, self.closes


async def head(conn: AsyncConnection) -> int:
    """The last transfer in the books."""
    ((sequence,),) = await (await conn.execute(_SQL.head)).fetchall()
    return int(sequence)


async def fold(conn: AsyncConnection, wallets: Collection[Wallet]) -> Folded:
    """Folds wallets as far as the books go now."""
    if not wallets:
        return Folded({}, 0)
    points = await _checkpoints(conn, wallets)
    until = await head(conn)  # read after the checkpoints, so none of them is further
    events = await _events(conn, wallets, 0, until)
    afters = {wallet: points.get(wallet, _BEGINNING)[0] for wallet in wallets}
    folded = Folded({wallet: _resume(*points.get(wallet, _BEGINNING), events[wallet]) for wallet in wallets}, until)
    later = {wallet: [event for event in events[wallet] if event.sequence > afters[wallet]] for wallet in wallets}
    await _tell(conn, folded, later, afters)
    return folded


async def catch_up(conn: AsyncConnection, folded: Folded) -> None:
    """Goes on with what was posted meanwhile."""
    if folded.wallets:
        since, folded.sequence = folded.sequence, await head(conn)
        events = await _events(conn, folded.wallets, since, folded.sequence)
        await _tell(conn, folded, events, dict.fromkeys(folded.wallets, since))


async def keep(conn: AsyncConnection, folded: Folded, *, posts: bool) -> None:
    """Keeps how far wallets are folded: by whoever posts, or if it took long. Locks their checkpoints."""
    if not folded.wallets or not (posts or folded.read > MANY_TRANSFERS):
        return
    states = [down.interrupted() for down in folded.wallets.values()]
    columns = {
        "sequence": folded.sequence,
        "remaining": [_as_json(state.remaining.of) for state in states],
        "unattributed": array(state.remaining.unattributed for state in states),
        "unattributed_used": array(state.remaining.unattributed_used for state in states),
        "moved_out": array(state.moved_out for state in states),
        "income": array(state.income for state in states),
        "posts": posts,
    }
    await conn.execute(_SQL.keep_checkpoints, _places(folded.wallets) | columns)


async def _checkpoints(conn: AsyncConnection, wallets: Collection[Wallet]) -> dict[Wallet, tuple[int, Interrupted]]:
    rows = await (await conn.execute(_SQL.checkpoints, _places(wallets))).fetchall()
    points: dict[Wallet, tuple[int, Interrupted]] = {}
    for payer_id, ledger, sequence, left, *numbers in rows:
        unattributed, used, moved_out, income = map(int, numbers)
        remaining = Remaining({UUID(grant_id): int(amount) for grant_id, amount in left.items()}, unattributed, used)
        points[payer_id, ledger] = sequence, Interrupted(remaining, moved_out, income)
    return points


async def _events(
    conn: AsyncConnection, wallets: Collection[Wallet], since: int, until: int
) -> dict[Wallet, list[_Event]]:
    """In order, by wallet. What was closed after the transfer ``since`` itself is told again: it may be news."""
    parameters = {**_places(wallets), **_WORDS, "since": since, "until": until}
    events: dict[Wallet, list[_Event]] = defaultdict(list)
    granted = await conn.execute(_SQL.granted, parameters)
    for payer_id, ledger, grant_id, amount, priority, expires_at, sequence, closed_after in await granted.fetchall():
        if sequence > since:
            grant = Grant(grant_id, int(amount), priority, expires_at, sequence)
            events[payer_id, ledger].append(_Event(sequence, False, grant_id, grant))
        if closed_after is not None and since <= closed_after <= until:
            events[payer_id, ledger].append(_Event(closed_after, True, grant_id))
    taken = await conn.execute(_SQL.taken, parameters)
    for payer_id, ledger, grant_id, amount, sequence in await taken.fetchall():
        events[payer_id, ledger].append(_Event(sequence, False, grant_id, taken=int(amount)))
    for of_wallet in events.values():
        of_wallet.sort(key=lambda event: event.place)
    return events


def _resume(sequence: int, state: Interrupted, events: Iterable[_Event]) -> BurnDown:
    """The fold as it was after the transfer ``sequence``, given all events."""
    known = [event for event in events if event.sequence <= sequence]
    taken: dict[UUID, list[int]] = defaultdict(list)
    for event in known:
        if event.came_in is None and not event.closes:
            taken[event.grant_id].append(event.taken)
    grants = {event.grant_id: event.came_in for event in known if event.came_in is not None}
    return BurnDown.resumed(state, grants, {event.grant_id for event in known if event.closes}, taken)


async def _tell(
    conn: AsyncConnection,
    folded: Folded,
    events: Mapping[Wallet, list[_Event]],
    afters: Mapping[Wallet, int],
) -> None:
    """Tells each wallet what happened after its own place in the books, in order: what moved, then the event."""
    story: list[tuple[Wallet, int, int, _Event | None]] = []
    for wallet, after in afters.items():
        of_wallet = events.get(wallet, [])
        firsts = [after, *(event.sequence for event in of_wallet)]
        story += [(wallet, first, event.sequence, event) for first, event in zip(firsts, of_wallet, strict=False)]
        story.append((wallet, firsts[-1], folded.sequence, None))
    moved = await _moved(conn, story, folded)
    for number, (wallet, _, _, told) in enumerate(story):
        _tell_one(folded.wallets[wallet], told, *moved[number])


async def _moved(
    conn: AsyncConnection, story: Sequence[tuple[Wallet, int, int, _Event | None]], folded: Folded
) -> dict[int, tuple[int, int]]:
    """What was used, net, and what came in, by place in the story."""
    accounts = {wallet: account_id(*wallet, AccountCode.WALLET) for wallet in folded.wallets}
    parameters = {
        **_places(wallet for wallet, _, _, _ in story),
        **_WORDS,
        "account_ids": UuidArray(accounts[wallet] for wallet, _, _, _ in story),
        "firsts": array(first for _, first, _, _ in story),
        "lasts": array(last for _, _, last, _ in story),
    }
    moved: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for number, out, back, income, transfers in await (await conn.execute(_SQL.moved, parameters)).fetchall():
        moved[number - 1] = int(out or 0) - int(back or 0), int(income or 0)
        folded.read += transfers
    return moved


def _tell_one(down: BurnDown, event: _Event | None, out: int, income: int) -> None:
    """What moved includes the event's own transfer."""
    if event is None:
        down.moved(out, income)
    elif event.closes:
        down.moved(out, income)
        down.close(event.grant_id)
    elif event.came_in is not None:
        down.moved(out, income - event.came_in.amount)
        down.granted(event.came_in)
    else:
        down.moved(out - event.taken, income)
        down.take(event.grant_id, event.taken)


def _as_json(left: Mapping[UUID, int]) -> str:
    return json.dumps({str(grant_id): str(amount) for grant_id, amount in left.items()})


def _places(wallets: Iterable[Wallet]) -> dict[str, object]:
    listed = list(wallets)
    return {"customer_ids": UuidArray(payer_id for payer_id, _ in listed), "ledgers": array(n for _, n in listed)}
