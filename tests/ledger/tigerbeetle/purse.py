"""The books of one customer on TigerBeetle, and what tests ask about journal and outbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from tallystick.database.pool import Pool
from tallystick.ledger.contract import Account, AccountFlags, Result, Status, Transfer
from tallystick.ledger.tigerbeetle.engine import TigerBeetleLedger

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITED = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
CREATED = Status.CREATED

Start = Callable[[], Awaitable[TigerBeetleLedger]]


class Purse:
    """The books of one customer: a bank that gives, and a purse that cannot give more than it got."""

    def __init__(self) -> None:
        self.customer = uuid4()
        self.bank = Account(uuid4(), self.customer, 1, 4)
        self.purse = Account(uuid4(), self.customer, 1, 1, LIMITED)

    def opening(self, missing: Any) -> list[Account]:
        return [account for account in (self.bank, self.purse) if account.id in missing]

    @property
    def places(self) -> list[tuple[UUID, UUID]]:
        return [(self.customer, self.bank.id), (self.customer, self.purse.id)]

    def give(self, amount: int, **fields: Any) -> Transfer:
        return Transfer(uuid4(), self.customer, self.bank.id, self.purse.id, amount, 1, 1)._replace(**fields)

    def take(self, amount: int, **fields: Any) -> Transfer:
        return Transfer(uuid4(), self.customer, self.purse.id, self.bank.id, amount, 1, 1)._replace(**fields)


async def deliver_all(ledger: TigerBeetleLedger) -> None:
    while await ledger.deliver():
        pass


async def post(ledger: TigerBeetleLedger, pool: Pool, books: Purse, *transfers: Transfer) -> list[Result]:
    async with pool.connection() as conn, conn.transaction():
        return await ledger.post(conn, transfers, books.opening)


async def promise(ledger: TigerBeetleLedger, pool: Pool, books: Purse, *transfers: Transfer) -> None:
    async with pool.connection() as conn, conn.transaction():
        await ledger.promise(conn, transfers, books.opening)


async def left(ledger: TigerBeetleLedger, books: Purse) -> int:
    """What TigerBeetle says is in the purse, without waiting for anything."""
    found = await ledger.client.lookup_accounts([books.purse.id])
    return found[books.purse.id].credit_balance if found else 0


async def rows(pool: Pool, query: str) -> list[tuple[Any, ...]]:
    async with pool.connection() as conn:
        return await (await conn.execute(query)).fetchall()


async def journal(pool: Pool) -> list[UUID]:
    return [id_ for (id_,) in await rows(pool, "select id from ledger_transfers order by sequence")]


async def outbox(pool: Pool) -> list[tuple[UUID, bool, str | None]]:
    return await rows(pool, "select id, intent, refused from ledger_outbox order by position, line")


async def assert_journal_holds(pool: Pool, ledger: TigerBeetleLedger) -> None:
    """Played again from nothing on PostgreSQL, the journal leaves the same balances; its numbers have no gaps."""
    transfers = await rows(
        pool,
        "select id, customer_id, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, pending_id"
        " from ledger_transfers order by sequence",
    )
    numbers = await rows(pool, "select sequence from ledger_transfers order by sequence")
    assert numbers == [(number,) for number in range(1, len(transfers) + 1)]
    chain = await rows(
        pool,
        "select hash = ledger_hash(lag(hash) over (order by last_sequence), first_sequence, last_sequence)"
        " from ledger_batches",
    )
    assert all(holds for (holds,) in chain)
    assert len(await ledger.client.lookup_transfers([id_ for id_, *_ in transfers])) == len(transfers)
    sums = await rows(
        pool,
        "select a.id, coalesce(sum(t.amount) filter (where t.debit_account_id = a.id), 0),"
        " coalesce(sum(t.amount) filter (where t.credit_account_id = a.id), 0)"
        " from ledger_accounts as a"
        " left join ledger_transfers as t on a.id in (t.debit_account_id, t.credit_account_id) and t.flags & 10 = 0"
        " group by a.id",
    )
    found = await ledger.client.lookup_accounts([id_ for id_, _, _ in sums])
    for id_, debits, credits_ in sums:
        account = found.get(id_)
        assert (account.debits_posted, account.credits_posted) == (debits, credits_) if account else not debits
