"""Grants: credits given to a wallet, with a category, a priority in the burn-down, and a time at which they end.

    scheduled --(its time comes)--> granted --(expires_at)--> expired: what is left goes from wallet to expired
                                            --(voided)------> voided:  what is left goes back to granted

How much is left of a grant follows from the wallet's transfers (``burndown``); charging knows nothing of grants. What
cannot be taken away at once, because holds have reserved it, is taken when it is free again, unless it is used before.
Rows of grants change only while their transaction holds the ledger's lock, so no row is locked before the ledger is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from uuid import UUID

import msgspec
import structlog
from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, NotFound, TallyError
from tallystick.kernel.ids import derived_id
from tallystick.kernel.paging import Page, newest_first, read_newest_first
from tallystick.ledger import remaining
from tallystick.ledger.burndown import BurnDown
from tallystick.ledger.contract import Ledger, LedgerRefusal, Result, Status, Transfer, TransferFlags
from tallystick.ledger.desk import Answer, Desk
from tallystick.ledger.grant_model import CreditGrant, GrantCredits, GrantState, Standing, VoidGrant, planned
from tallystick.ledger.orders import Asked, of_customers
from tallystick.ledger.remaining import Folded, Wallet
from tallystick.ledger.wallets import (
    AccountCode,
    FindPayers,
    Movement,
    Payer,
    TransferCode,
    Wallets,
    account_id,
    transfer_of,
)

_SQL = Queries(Path(__file__).with_suffix(".sql"))

RETRY_AFTER = timedelta(minutes=1)
"""When to try again to take away what is held, or to post what was refused."""

_log = structlog.get_logger()


GrantOrder: TypeAlias = GrantCredits | VoidGrant
Place = tuple[UUID, UUID]
"""A payer and the id of a grant."""


class Listener(Protocol):
    """Who hears of grants, in the transaction in which it happens."""

    async def grants_made(self, conn: AsyncConnection, places: Collection[Place]) -> None:
        """Their credits have come in."""

    async def grants_ended(self, conn: AsyncConnection, ended: Sequence[tuple[CreditGrant, int]]) -> None:
        """They have expired or were voided, with so many microunits left."""


@dataclass(slots=True)
class _Closings:
    """Grants to be looked at while nobody else can post: their wallets' state, and what can be taken out of those."""

    grants: dict[Place, CreditGrant]
    folded: Folded
    available: dict[Wallet, int]

    def of(self, grant: CreditGrant) -> CreditGrant:
        """The grant as it was found."""
        return self.grants[grant.payer.id, grant.id]


class Grants:
    """Gives, expires and voids. Orders go through the desk."""

    def __init__(
        self,
        clock: Clock,
        desk: Desk,
        ledger: Ledger,
        wallets: Wallets,
        find_payers: FindPayers,
        listener: Listener | None = None,
    ) -> None:
        self._clock = clock
        self._desk = desk
        self._ledger = ledger
        self._wallets = wallets
        self._listener = listener
        desk.register((GrantCredits.type, VoidGrant.type), of_customers(find_payers, self._handle))

    async def give(self, order: GrantCredits) -> tuple[CreditGrant, int]:
        """Carries out the order; returns the grant and the balance after it, in microunits.

        Raises ``NotFound`` without such a customer, ``InvalidInput`` for times that have passed, and what
        ``Desk.carry_out`` raises.
        """
        answer = await self._desk.carry_out(order)
        return msgspec.convert(answer["grant"], CreditGrant), int(answer["balance"])

    async def void(self, order: VoidGrant) -> Standing:
        """Takes back what is left, once; to do it again answers how the grant stands.

        Raises ``NotFound``, ``Conflict`` if it has expired, and what ``Desk.carry_out`` raises.
        """
        return msgspec.convert(await self._desk.carry_out(order), Standing)

    async def get(self, conn: AsyncConnection, payer_id: UUID, grant_id: UUID) -> Standing:
        """One grant of a payer. Raises ``NotFound``."""
        found = await self._named(conn, [(payer_id, grant_id)])
        if not found:
            raise _unknown(grant_id)
        (standing,) = await self._standings(conn, list(found.values()))
        return standing

    async def page(
        self, conn: AsyncConnection, payer_id: UUID, state: GrantState | None, cursor: str | None, limit: int
    ) -> Page[Standing]:
        """Grants to a payer's wallets, all or those in one state, newest first."""
        before_at, before_id = read_newest_first(cursor)
        parameters = {
            "customer_id": payer_id,
            "state": state,
            "before_at": before_at,
            "before_id": before_id,
            "limit": limit + 1,
        }
        rows = await (await conn.execute(_SQL.page, parameters)).fetchall()
        page = newest_first([_read(row) for row in rows], limit, lambda grant: (grant.created_at, grant.id))
        return Page(await self._standings(conn, page.items), page.next)

    async def run_due(self, conn: AsyncConnection, now: datetime, limit: int) -> int:
        """Posts grants whose time has come and ends those whose time is up, at most ``limit``; returns how many.

        The ledger is locked only if there are some; whoever waited for it meanwhile finds nothing left to do.
        """
        places = await (await conn.execute(_SQL.due, {"now": now, "limit": limit})).fetchall()
        if not places:
            return 0
        closings = await self._look(conn, places)
        due = [grant for grant in closings.grants.values() if grant.due_at is not None and grant.due_at <= now]
        coming = [grant for grant in due if grant.state == "scheduled"]
        ending = [_ended(grant) for grant in due if grant.state != "scheduled"]
        await self._close(conn, closings, ending, now)
        await self._come_in_late(conn, coming, now)
        return len(due)

    async def next_due(self, conn: AsyncConnection, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which a grant begins or ends, as things stand."""
        row = await (await conn.execute(_SQL.next_due, {"after": after})).fetchone()
        return row[0] if row else None

    async def begin(self, conn: AsyncConnection, grants: Sequence[CreditGrant], now: datetime) -> None:
        """Gives what a contract of its own provides for; a repetition changes nothing. The caller may post.

        What the ledger refuses stays scheduled, and is due again later.
        """
        if grants:
            await conn.execute(_SQL.schedule, _columns(grants))
            standing = await self._named(conn, [(grant.payer.id, grant.id) for grant in grants])
            await self._come_in_late(conn, [g for g in standing.values() if g.state == "scheduled"], now)

    async def end(self, conn: AsyncConnection, ends: Collection[tuple[Place, datetime]]) -> None:
        """Moves the end of grants that have not ended; they keep their rank in the burn-down. The caller may post."""
        if ends:
            columns = {**_places(place for place, _ in ends), "expires_ats": [at for _, at in ends]}
            await conn.execute(_SQL.end, columns)

    # Orders

    async def _handle(self, conn: AsyncConnection, asked: Sequence[Asked[GrantOrder]]) -> dict[UUID, Answer]:
        """Gives first, and then voids: orders that arrive together have no order of their own."""
        given = await self._give(conn, [(o, payer) for o, _, payer in asked if isinstance(o, GrantCredits)])
        voided = await self._void(conn, [(o, payer) for o, _, payer in asked if isinstance(o, VoidGrant)])
        return given | voided

    async def _give(self, conn: AsyncConnection, orders: Sequence[tuple[GrantCredits, Payer]]) -> dict[UUID, Answer]:
        """Whatever stands already was given before, and the answer was lost."""
        if not orders:
            return {}
        now = self._clock.now()
        await self._ledger.serialise(conn)
        known = await self._named(conn, [(payer.id, order.id) for order, payer in orders])
        plans = {order.id: known.get((payer.id, order.id)) or planned(order, payer, now) for order, payer in orders}
        answers: dict[UUID, Answer] = {id_: plan for id_, plan in plans.items() if isinstance(plan, TallyError)}
        grants = [plan for plan in plans.values() if isinstance(plan, CreditGrant)]
        left: dict[Wallet, int] = {}
        for ledger in {grant.ledger for grant in grants}:
            payers = {grant.payer.id for grant in grants if grant.ledger == ledger}
            standing = await self._wallets.left(conn, payers, ledger, serialised=True)
            left |= {(payer_id, ledger): each.balance for payer_id, each in standing.items()}
        created = await self._enter(conn, grants, now)
        for grant in (await self._named(conn, [(grant.payer.id, grant.id) for grant in grants])).values():
            left[grant.wallet] += grant.amount if grant.id in created else 0
            answers[grant.id] = {"grant": msgspec.to_builtins(grant), "balance": str(left[grant.wallet])}
        return answers

    async def _void(self, conn: AsyncConnection, orders: Sequence[tuple[VoidGrant, Payer]]) -> dict[UUID, Answer]:
        if not orders:
            return {}
        closings = await self._look(conn, {(payer.id, order.grant_id) for order, payer in orders})
        open_ = [grant for grant in closings.grants.values() if grant.state in ("scheduled", "granted")]
        await self._close(conn, closings, [replace(grant, state="voided") for grant in open_], self._clock.now())
        answers: dict[UUID, Answer] = {}
        for order, payer in orders:
            grant = closings.grants.get((payer.id, order.grant_id))
            if grant is None:
                answers[order.id] = _unknown(order.grant_id)
            elif grant.state == "expired":
                answers[order.id] = Conflict(f"the grant {grant.id} has expired", field="id")
            else:
                (standing,) = _standings([replace(grant, state="voided")], closings.folded)
                answers[order.id] = msgspec.to_builtins(standing)
        return answers

    # Coming in and ending

    async def _enter(self, conn: AsyncConnection, grants: Sequence[CreditGrant], now: datetime) -> set[UUID]:
        """Writes grants down, and has those come in whose time has come; the ids of those that have come in now.

        Raises ``LedgerRefusal``.
        """
        if not grants:
            return set()
        await conn.execute(_SQL.schedule, _columns(grants))
        coming = [grant for grant in grants if grant.state == "scheduled" and grant.effective_at <= now]
        results = await self._come_in(conn, coming)
        for grant, result in zip(coming, results, strict=True):
            if not result.stands:
                raise LedgerRefusal(f"the ledger refused the grant {grant.id}: {result.status.value}")
        return {g.id for g, result in zip(coming, results, strict=True) if result.status is Status.CREATED}

    async def _come_in(self, conn: AsyncConnection, grants: Sequence[CreditGrant]) -> list[Result]:
        """Posts scheduled grants, and notes those that stand."""
        if not grants:
            return []
        movements = [Movement(grant.id, grant.payer, grant.ledger, grant.amount) for grant in grants]
        results = await self._wallets.grant(conn, movements, TransferCode.GRANT)
        standing = [grant for grant, result in zip(grants, results, strict=True) if result.stands]
        came = await conn.execute(_SQL.came_in, _places((grant.payer.id, grant.id) for grant in standing))
        if self._listener is not None:
            await self._listener.grants_made(conn, await came.fetchall())
        return results

    async def _come_in_late(self, conn: AsyncConnection, grants: Sequence[CreditGrant], now: datetime) -> None:
        """As ``_come_in``; what is refused stops no other, and is due again later."""
        results = await self._come_in(conn, grants)
        refused = [(g, result) for g, result in zip(grants, results, strict=True) if not result.stands]
        for grant, result in refused:
            _log.error("grant.refused", grant=str(grant.id), status=result.status.value)
        if refused:
            places = _places((grant.payer.id, grant.id) for grant, _ in refused)
            await conn.execute(_SQL.postpone, places | {"due_at": now + RETRY_AFTER})

    async def _look(self, conn: AsyncConnection, places: Collection[Place]) -> _Closings:
        """Takes the ledger's lock, and then reads these grants: nobody else can change them any more.

        What can be read before is, so that the lock is held for as short as possible. A ledger elsewhere writes what
        it still has to carry out into the books when it is asked for the accounts.
        """
        before = await self._named(conn, places)
        folded = await remaining.fold(conn, {grant.wallet for grant in before.values()})
        await self._ledger.serialise(conn)
        available = await self._available(conn, folded.wallets)
        await remaining.catch_up(conn, folded)
        return _Closings(await self._named(conn, list(before)), folded, available)

    async def _available(self, conn: AsyncConnection, wallets: Collection[Wallet]) -> dict[Wallet, int]:
        available = dict.fromkeys(wallets, 0)
        wanted = [(wallet[0], account_id(*wallet, AccountCode.WALLET)) for wallet in wallets]
        if wanted:
            for account in (await self._ledger.accounts(conn, wanted, serialised=True)).values():
                available[account.customer_id, account.ledger] = account.available
        return available

    async def _close(
        self, conn: AsyncConnection, closings: _Closings, grants: Sequence[CreditGrant], now: datetime
    ) -> None:
        """Takes away what is left of grants, which are in the state that they end in. What is held is due again."""
        if not grants:
            return
        head = await remaining.head(conn)
        endings = [_Ending(grant, closings) for grant in grants]
        ended = [(each.grant, each.left) for each in endings if closings.of(each.grant).state == "granted"]
        taking = [ending for ending in endings if ending.transfer is not None]
        results = await self._wallets.post(
            conn,
            [[ending.transfer] for ending in taking if ending.transfer is not None],
            [ending.movement for ending in taking],
        )
        for ending in endings:
            ending.down.close(ending.grant.id)
        for ending, result in zip(taking, results, strict=True):
            ending.taken(result)
        columns = {
            **_places((grant.payer.id, grant.id) for grant in grants),
            "states": [grant.state for grant in grants],
            "attempts": array(ending.attempts for ending in endings),
            "due_ats": [now + RETRY_AFTER if ending.left else None for ending in endings],
            "head": head,
        }
        await conn.execute(_SQL.closed, columns)
        if self._listener is not None:
            await self._listener.grants_ended(conn, ended)
        if all(result.status is Status.CREATED for result in results):  # else the fold may not know all there is
            wallets = {ending.grant.wallet: ending.down for ending in endings}
            await remaining.keep(conn, Folded(wallets, await remaining.head(conn)), posts=True)

    # Reading

    async def _named(self, conn: AsyncConnection, places: Collection[Place]) -> dict[Place, CreditGrant]:
        rows = await (await conn.execute(_SQL.named, _places(places))).fetchall()
        return {(row[0], row[2]): _read(row) for row in rows}

    async def _standings(self, conn: AsyncConnection, grants: Sequence[CreditGrant]) -> list[Standing]:
        folded = await remaining.fold(conn, {grant.wallet for grant in grants})
        await remaining.keep(conn, folded, posts=False)
        return _standings(grants, folded)


class _Ending:
    """What is left of a grant that ends, and the transfer that takes it away as far as nothing is held."""

    def __init__(self, grant: CreditGrant, closings: _Closings) -> None:
        self.grant = grant
        self.down: BurnDown = closings.folded.wallets[grant.wallet]
        self.left = self.down.remaining().of.get(grant.id, 0)
        self.attempts = max(grant.attempts, len(self.down.taken(grant.id)))
        prepaid = grant.payer.credit_policy == "prepaid"
        amount = min(self.left, max(0, closings.available[grant.wallet])) if prepaid else self.left
        closings.available[grant.wallet] -= amount
        kind = "void" if grant.state == "voided" else "expiry"
        self.movement = Movement(
            derived_id(kind, grant.id, str(self.attempts)), grant.payer, grant.ledger, amount, cause_id=grant.id
        )
        self.transfer = _taking(self.movement, grant.state) if amount else None

    def taken(self, result: Result) -> None:
        """Notes what came of the transfer. Its id is not used again: a failed one stays failed."""
        self.attempts += 1
        if result.status is Status.CREATED:
            self.down.take(self.grant.id, result.amount)
            self.left -= result.amount


def _taking(movement: Movement, state: GrantState) -> Transfer:
    account = AccountCode.GRANTED if state == "voided" else AccountCode.EXPIRED
    code = TransferCode.GRANT_VOIDED if state == "voided" else TransferCode.EXPIRY
    prepaid = movement.payer.credit_policy == "prepaid"
    flags = TransferFlags.BALANCING_DEBIT if prepaid else TransferFlags.NONE
    return transfer_of(movement, AccountCode.WALLET, account, code, flags)


def _ended(grant: CreditGrant) -> CreditGrant:
    return replace(grant, state="expired") if grant.state == "granted" else grant


def _standings(grants: Sequence[CreditGrant], folded: Folded) -> list[Standing]:
    left = {wallet: down.remaining().of for wallet, down in folded.wallets.items()}
    standings: list[Standing] = []
    for grant in grants:
        down, remains = folded.wallets[grant.wallet], left[grant.wallet].get(grant.id, 0)
        taken = sum(down.taken(grant.id))
        used = grant.amount - remains - taken if down.knows(grant.id) else 0
        standings.append(Standing(grant, used, remains, taken))
    return standings


def _unknown(grant_id: UUID) -> NotFound:
    return NotFound(f"there is no grant {grant_id} of this customer", field="id")


def _read(row: tuple[Any, ...]) -> CreditGrant:
    customer_id, policy, grant_id, ledger, amount, *rest = row
    return CreditGrant(Payer(customer_id, policy), grant_id, ledger, int(amount), *rest)


def _places(places: Iterable[Place]) -> dict[str, object]:
    listed = list(places)
    return {
        "customer_ids": UuidArray(payer_id for payer_id, _ in listed),
        "ids": UuidArray(grant_id for _, grant_id in listed),
    }


def _columns(grants: Sequence[CreditGrant]) -> dict[str, object]:
    return {
        **_places((grant.payer.id, grant.id) for grant in grants),
        "policies": [grant.payer.credit_policy for grant in grants],
        "ledgers": array(grant.ledger for grant in grants),
        "amounts": array(grant.amount for grant in grants),
        "categories": [grant.category for grant in grants],
        "priorities": array(grant.priority for grant in grants),
        "effective_ats": [grant.effective_at for grant in grants],
        "expires_ats": [grant.expires_at for grant in grants],
        "sources": [grant.source for grant in grants],
        "reasons": [grant.reason for grant in grants],
        "created_ats": [grant.created_at for grant in grants],
    }
