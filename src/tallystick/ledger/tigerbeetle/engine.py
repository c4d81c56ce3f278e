"""The ledger engine on TigerBeetle, with the journal in PostgreSQL.

TigerBeetle holds the balances and decides; PostgreSQL keeps what was decided, in the order in which it was, so that
history, proof and explanation read the same tables under both engines. Whoever asks TigerBeetle to move money holds the
ledger's lock (advisory lock 7411/1) from before he asks until his transaction ends, so the order of the journal is
TigerBeetle's order.

``promise`` writes transfers down in the caller's transaction, and they are delivered soon after it (``delivery.py``).
``post`` asks at once, and no death may lose what TigerBeetle did then:

1. take the ledger's lock, and first carry out what must come before: intents that were left behind, and promises to
   the same customers;
2. write the transfers down as intents, in a transaction of their own, and commit that;
3. ask TigerBeetle;
4. in the caller's transaction, write the journal and remove the intents;
5. the caller commits, which also releases the lock.

Who dies before 2 has done nothing. After 2 the intents remain: the next one to get the lock, another ``post`` or a
delivery, finds them and carries them out before anything else. If TigerBeetle has not heard of them, they happen then;
if it has (3), it answers that they exist, and the journal is written then, once; if the caller's own transaction has
written it (4) but has not committed, that is undone with the transaction. After 5 nothing is left to do. If PostgreSQL
dies or the connection is cut, the lock is free while TigerBeetle may still get the request: whoever comes next asks
for the same transfers first, so they stand before his own, however late the request arrives.

So what was posted stays posted even if the caller's transaction is undone: who posts should have nothing left that may
fail for reasons of its own. If he does the same again, under the same ids, it is done once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from tallystick.database.pool import Pool
from tallystick.kernel.clock import Clock
from tallystick.ledger.contract import (
    BATCH_MAX,
    TRANSIENT,
    Account,
    LedgerRefusal,
    LedgerUnavailable,
    Opening,
    Result,
    Status,
    Transfer,
    TransferFlags,
    no_accounts,
)
from tallystick.ledger.postgres import Columns, Journal
from tallystick.ledger.tigerbeetle import promises
from tallystick.ledger.tigerbeetle.chains import chain_start, chains
from tallystick.ledger.tigerbeetle.client import TigerBeetleClient
from tallystick.ledger.tigerbeetle.promises import Lag, Waiting

CATCH_UP_SECONDS = 10
"""How long somebody waits for what was promised before."""

FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.1

REMEMBERED_ACCOUNTS = 1_000_000
"""Ids of accounts known to be open in TigerBeetle, some 100 MB."""

_RESOLVING = TransferFlags.POST_PENDING | TransferFlags.VOID_PENDING
_MAY_STAND_FROM_BEFORE = frozenset({Status.EXISTS, Status.LINKED_EVENT_FAILED})
"""A chain that is posted again fails as a whole, since its first one exists."""
_MAY_STAND = _MAY_STAND_FROM_BEFORE | {Status.CREATED}

_log = structlog.get_logger()


class TigerBeetleLedger:
    """``contract.Ledger`` on TigerBeetle. ``pool`` is for its own short transactions beside those of its callers."""

    def __init__(self, client: TigerBeetleClient, pool: Pool, clock: Clock) -> None:
        self.client = client
        self._pool = pool
        self._clock = clock
        self._journal = Journal(clock)
        self._open: set[UUID] = set()

    @property
    def away(self) -> bool:
        """Whether TigerBeetle has not answered when it was last asked."""
        return self.client.away

    async def serialise(self, conn: AsyncConnection) -> None:
        await self._journal.serialise(conn)

    async def create_accounts(self, conn: AsyncConnection, accounts: Sequence[Account]) -> None:
        await self._journal.create_accounts(conn, accounts)
        await self._open_accounts(accounts)

    async def post(
        self, conn: AsyncConnection, transfers: Sequence[Transfer], opening: Opening = no_accounts
    ) -> list[Result]:
        if not transfers:
            return []
        await self._journal.serialise(conn)
        self._refuse_while_away()
        await self._catch_up(conn, {transfer.customer_id for transfer in transfers})
        accounts = await self._accounts_of(conn, transfers, opening)
        position = await self._announce(transfers, accounts)
        await self._open_accounts(accounts.values())
        answers = await self._submit(transfers)
        await self._remember_refusals(position, transfers, answers)
        results = await self._explained(conn, position, transfers, answers)
        failed = [(t, result.status) for t, result in zip(transfers, results, strict=True)]
        await self._record(conn, transfers, results, [one for one in failed if one[1] in TRANSIENT])
        await promises.answer(conn, transfers)
        return results

    async def promise(
        self, conn: AsyncConnection, transfers: Sequence[Transfer], opening: Opening = no_accounts
    ) -> None:
        """``contract.Ledger.promise``: needs neither TigerBeetle nor the ledger's lock."""
        if transfers:
            accounts = await self._accounts_of(conn, transfers, opening)
            await promises.put(conn, transfers, accounts, self._clock.now(), intent=False)

    async def accounts(
        self, conn: AsyncConnection, ids: Collection[tuple[UUID, UUID]], *, serialised: bool = False
    ) -> dict[UUID, Account]:
        """``contract.Ledger.accounts``, with all that was promised and committed before."""
        if not ids:
            return {}
        self._refuse_while_away()
        customers = {customer_id for customer_id, _ in ids}
        if serialised:
            await self._catch_up(conn, customers)
        else:
            await self._wait_for_delivery(customers)
        wanted = {account_id: customer_id for customer_id, account_id in ids}
        found = await self.client.lookup_accounts(wanted)
        return {account.id: account for account in found.values() if account.customer_id == wanted[account.id]}

    async def deliver(self) -> int:
        """Carries out the oldest that waits, at most ``BATCH_MAX``, in a transaction of its own; returns how many.

        One process at a time does so; the others have nothing to do. Raises ``LedgerUnavailable``.
        """
        self._refuse_while_away()
        async with self._pool.connection() as conn, conn.transaction():
            if not (await promises.is_waiting(conn) and await promises.lead(conn)):
                return 0
            await self._journal.serialise(conn)
            self._refuse_while_away()
            waiting = await promises.take(conn, BATCH_MAX)
            await self._carry_out(conn, waiting)
            return len(waiting)

    async def tidy(self) -> None:
        """Forgets why intents were refused whose callers have not come back."""
        async with self._pool.connection() as conn:
            await promises.forget(conn, self._clock.now())

    async def lag(self, conn: AsyncConnection) -> Lag:
        """How far TigerBeetle is behind."""
        return await promises.lag(conn, self._clock.now())

    def _refuse_while_away(self) -> None:
        if self.client.away:
            raise self.client.unavailable

    async def _accounts_of(
        self, conn: AsyncConnection, transfers: Sequence[Transfer], opening: Opening
    ) -> dict[UUID, Account]:
        """The accounts of transfers, those included that are opened now; what is unknown is left out."""
        accounts = await promises.accounts_of(conn, transfers)
        missing = {
            account_id
            for transfer in transfers
            for account_id in (transfer.debit_account_id, transfer.credit_account_id)
            if account_id.int and account_id not in accounts
        }
        if missing and (new := opening(missing)):
            await self._journal.create_accounts(conn, new)
            accounts |= {account.id: account for account in new if account.id not in accounts}
        return accounts

    async def _announce(self, transfers: Sequence[Transfer], accounts: dict[UUID, Account]) -> int:
        """Commits the intent to post these; returns their position in the outbox."""
        async with self._pool.connection() as conn:
            return await promises.put(conn, transfers, accounts, self._clock.now(), intent=True)

    async def _open_accounts(self, accounts: Iterable[Account]) -> None:
        new = {account.id: account for account in accounts if account.id not in self._open}
        if new:
            await self.client.create_accounts(list(new.values()))
            if len(self._open) + len(new) > REMEMBERED_ACCOUNTS:
                self._open.clear()
            self._open.update(new)

    async def _submit(self, transfers: Sequence[Transfer]) -> list[Result | str]:
        results: list[Result | str] = []
        while (start := len(results)) < len(transfers):
            end = min(start + BATCH_MAX, len(transfers))
            end = end if end == len(transfers) else chain_start(transfers, start, end)
            results += await self.client.try_transfers(transfers[start:end])
        return results

    async def _remember_refusals(
        self, position: int, transfers: Sequence[Transfer], answers: Sequence[Result | str]
    ) -> None:
        """Their ids stay refused whatever becomes of the caller; if he tries again, he must hear the same reason."""
        refused: list[tuple[Transfer, str]] = []
        for start, end in chains(transfers):
            if not all(_may_stand(answer) for answer in answers[start:end]):  # of a chain, none stands
                refused += zip(transfers[start:end], map(_reason, answers[start:end]), strict=True)
        if refused:
            async with self._pool.connection() as conn:
                await promises.refuse_intents(conn, position, refused)

    async def _explained(
        self, conn: AsyncConnection, position: int, transfers: Sequence[Transfer], answers: Sequence[Result | str]
    ) -> list[Result]:
        """The results, with the true reason for an id that failed in an attempt which nobody has heard of.

        Raises ``LedgerRefusal`` for an answer that our contract does not know.
        """
        results: list[Result] = []
        for transfer, answer in zip(transfers, answers, strict=True):
            if isinstance(answer, str):
                raise LedgerRefusal(f"TigerBeetle refused the transfer {transfer.id}: {answer}")
            results.append(answer)
        failed = {t.id: t for t, r in zip(transfers, results, strict=True) if r.status is Status.ID_ALREADY_FAILED}
        if not failed:
            return results
        reasons = await promises.unanswered(conn, position, list(failed.values()))
        return [
            Result(Status(reasons[t.id])) if t.id in failed and t.id in reasons else r
            for t, r in zip(transfers, results, strict=True)
        ]

    async def _catch_up(self, conn: AsyncConnection, customers: Collection[UUID]) -> None:
        """Carries out what must come before the caller's own transfers. He holds the ledger's lock."""
        give_up_at = time.monotonic() + CATCH_UP_SECONDS
        while waiting := await promises.take(conn, BATCH_MAX, customers):
            await self._carry_out(conn, waiting)
            if time.monotonic() > give_up_at:
                raise LedgerUnavailable("the ledger has not caught up with what was promised before")

    async def _wait_for_delivery(self, customers: Collection[UUID]) -> None:
        give_up_at = time.monotonic() + CATCH_UP_SECONDS
        pause_seconds = FIRST_PAUSE_SECONDS
        async with self._pool.connection() as conn:
            position = await promises.last_promise(conn, customers)
        while position is not None:
            self._refuse_while_away()
            async with self._pool.connection() as conn:
                if not await promises.is_owed(conn, customers, position):
                    return
            if time.monotonic() > give_up_at:
                raise LedgerUnavailable("the ledger has not caught up with what was promised before")
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _carry_out(self, conn: AsyncConnection, waiting: Sequence[Waiting]) -> None:
        """Has these carried out, notes what became of them, and removes those that stand."""
        if not waiting:
            return
        left_behind = [one for one in waiting if one.intent]
        await self._journal.create_accounts(conn, [account for one in left_behind for account in one.accounts])
        outcomes = await self._try(waiting)
        answered = [(one.transfer, o) for one, o in zip(waiting, outcomes, strict=True) if isinstance(o, Result)]
        standing = await self._record(conn, [t for t, _ in answered], [result for _, result in answered])
        await promises.finish(conn, [one for one in waiting if one.transfer.id in standing])
        pairs = zip(waiting, outcomes, strict=True)
        refused = [(one, _reason(outcome)) for one, outcome in pairs if one.transfer.id not in standing]
        await promises.refuse(conn, refused)
        for one, reason in refused:
            if not one.intent:
                _log.error("ledger.promise_refused", transfer=str(one.transfer.id), reason=reason)

    async def _try(self, waiting: Sequence[Waiting]) -> list[Result | str]:
        """The results; for one that TigerBeetle does not even give a result for, why. The others do not wait for it."""
        try:
            await self._open_accounts(account for one in waiting for account in one.accounts)
            return await self._submit([one.transfer for one in waiting])
        except LedgerRefusal as refusal:
            starts = [start for start, _ in chains([one.transfer for one in waiting])]
            if len(starts) == 1:
                return [refusal.detail] * len(waiting)
            middle = starts[len(starts) // 2]
            return await self._try(waiting[:middle]) + await self._try(waiting[middle:])

    async def _record(
        self,
        conn: AsyncConnection,
        transfers: Sequence[Transfer],
        results: Sequence[Result],
        failed: Sequence[tuple[Transfer, Status]] = (),
    ) -> Collection[UUID]:
        """Writes into the journal what stands in TigerBeetle and is not there yet: each as it stands, once.

        What stands from before, from an attempt that died, goes first: that is the order in which it happened. Returns
        the ids of all that stand.
        """
        created = {
            t.id: t._replace(amount=r.amount) for t, r in _with(results, transfers) if r.status is Status.CREATED
        }
        before = {t.id: t for t, r in _with(results, transfers) if r.status in _MAY_STAND_FROM_BEFORE}
        before = {id_: transfer for id_, transfer in before.items() if id_ not in created}
        written = await promises.posted(conn, list(before.values())) if before else set()
        filled_in = {id_ for id_, transfer in created.items() if transfer.flags and transfer.flags & _RESOLVING}
        asked = filled_in | (before.keys() - written)
        found = await self.client.lookup_transfers(asked) if asked else {}
        standing: dict[UUID, Transfer] = {}
        for id_, transfer in [*before.items(), *created.items()]:
            if id_ in found:
                standing[id_] = found[id_]._replace(customer_id=transfer.customer_id)
            elif id_ in created:
                standing[id_] = transfer._replace(pending_id=None)  # at most a nil one
        if standing or failed:
            head = await self._journal.head(conn)
            await self._journal.write(conn, Columns(list(standing.values())), failed, head)
        return written | standing.keys()


def _with(results: Sequence[Result], transfers: Sequence[Transfer]) -> Iterator[tuple[Transfer, Result]]:
    return zip(transfers, results, strict=True)


def _may_stand(answer: Result | str) -> bool:
    return isinstance(answer, Result) and answer.status in _MAY_STAND


def _reason(answer: Result | str) -> str:
    return answer if isinstance(answer, str) else answer.status.value
