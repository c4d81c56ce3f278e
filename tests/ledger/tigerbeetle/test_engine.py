"""The engine on TigerBeetle: what it posts and promises, in which order, and what it says is there.

Needs a TigerBeetle server: TIGERBEETLE_BIN names its program.
"""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from tallystick.database.pool import Pool
from tallystick.ledger.contract import AMOUNT_MAX, LedgerRefusal, LedgerUnavailable, Result, Status, TransferFlags
from tallystick.ledger.model import Books
from tallystick.ledger.tigerbeetle.engine import TigerBeetleLedger
from tests.ledger.tigerbeetle.purse import (
    CREATED,
    Purse,
    Start,
    deliver_all,
    journal,
    left,
    outbox,
    post,
    promise,
    rows,
)
from tests.ledger.workload import workload


async def test_post_is_in_the_journal_with_what_it_moved(ledger: TigerBeetleLedger, pool: Pool, books: Purse) -> None:
    gift = books.give(100)
    hold = books.take(30, flags=TransferFlags.PENDING, cause_id=uuid4())
    rest = books.take(AMOUNT_MAX, flags=TransferFlags.BALANCING_DEBIT)
    nil = UUID(int=0)
    settle = books.take(AMOUNT_MAX, flags=TransferFlags.POST_PENDING, pending_id=hold.id)._replace(
        debit_account_id=nil, credit_account_id=nil, ledger=0, code=0
    )
    results = await post(ledger, pool, books, gift, hold, rest, settle, books.take(1))
    assert results == [*(Result(CREATED, n) for n in (100, 30, 70, 30)), Result(Status.EXCEEDS_CREDITS)]
    assert await rows(
        pool,
        "select id, debit_account_id, credit_account_id, amount, ledger, code, cause_id, pending_id"
        " from ledger_transfers order by sequence",
    ) == [
        (gift.id, books.bank.id, books.purse.id, 100, 1, 1, None, None),
        (hold.id, books.purse.id, books.bank.id, 30, 1, 1, hold.cause_id, None),
        (rest.id, books.purse.id, books.bank.id, 70, 1, 1, None, None),
        (settle.id, books.purse.id, books.bank.id, 30, 1, 1, hold.cause_id, hold.id),
    ]
    assert await rows(pool, "select status from ledger_failures") == [("exceeds_credits",)]
    assert await outbox(pool) == []


async def test_the_engine_does_what_the_model_does(ledger: TigerBeetleLedger, pool: Pool) -> None:
    """The same results for every flag and status, the same balances, and the same history in the journal."""
    books = Books()
    async with pool.connection() as conn:
        for number, batch in enumerate(workload(seed=11, transfers=3_000)):
            for account in batch.opens:
                books.accounts.setdefault(account.id.int, account)
            async with conn.transaction():
                await ledger.create_accounts(conn, batch.opens)
                results = await ledger.post(conn, batch.transfers)
            assert results == books.post(batch.transfers), f"batch {number}"
        places = [(account.customer_id, account.id) for account in books.accounts.values()]
        assert await ledger.accounts(conn, places) == {account.id: account for account in books.accounts.values()}
    history = await rows(
        pool,
        "select id, customer_id, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, pending_id"
        " from ledger_transfers order by sequence",
    )
    nil = UUID(int=0)  # as a cause it says the same as none: TigerBeetle does not tell them apart
    assert [(*row[:4], int(row[4]), *row[5:8], row[8] or nil, row[9]) for row in history] == [
        (*transfer[:7], int(transfer.flags), transfer.cause_id or nil, transfer.pending_id) for transfer in books.posted
    ]
    failed = await rows(pool, "select id, status from ledger_failures")
    assert set(failed) == {(transfer.id, status.value) for transfer, status in books.newly_failed}


async def test_one_transaction_sees_what_it_posted_before(ledger: TigerBeetleLedger, pool: Pool, books: Purse) -> None:
    gift, too_much = books.give(5), books.take(6)
    async with pool.connection() as conn, conn.transaction():
        await ledger.serialise(conn)
        assert await ledger.post(conn, [gift], books.opening) == [Result(CREATED, 5)]
        assert await ledger.post(conn, [gift, too_much, too_much]) == [
            Result(Status.EXISTS, 5),
            Result(Status.EXCEEDS_CREDITS),
            Result(Status.ID_ALREADY_FAILED),
        ]
        found = await ledger.accounts(conn, books.places, serialised=True)
        assert found[books.purse.id].credit_balance == 5
    assert await post(ledger, pool, books, gift, too_much) == [
        Result(Status.EXISTS, 5),
        Result(Status.ID_ALREADY_FAILED),
    ]
    assert await journal(pool) == [gift.id]
    assert await outbox(pool) == []


async def test_what_is_promised_within_a_transaction_is_not_carried_out_before_it_commits(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    async with pool.connection() as conn, conn.transaction(force_rollback=True):
        async with conn.transaction():
            await ledger.promise(conn, [books.give(1)], books.opening)
        await ledger.post(conn, [books.give(2)], books.opening)
        await ledger.accounts(conn, books.places, serialised=True)
    await deliver_all(ledger)
    assert await left(ledger, books) == 2, "what was posted stays; what was promised does not"


async def test_promises_come_before_what_is_posted_after_them(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    gift, other = books.give(5), Purse()
    elsewhere = other.give(1)
    await promise(ledger, pool, other, elsewhere)
    await promise(ledger, pool, books, gift)
    spent = books.take(5)
    assert await post(ledger, pool, books, spent) == [Result(CREATED, 5)]
    assert await journal(pool) == [gift.id, spent.id]
    assert await outbox(pool) == [(elsewhere.id, False, None)]


async def test_whoever_holds_the_lock_sees_what_was_promised(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    await promise(ledger, pool, books, books.give(5))
    async with pool.connection() as conn, conn.transaction():
        await ledger.serialise(conn)
        found = await ledger.accounts(conn, books.places, serialised=True)
    assert found[books.purse.id].credit_balance == 5


async def test_balances_wait_for_what_was_promised(ledger: TigerBeetleLedger, pool: Pool, books: Purse) -> None:
    await promise(ledger, pool, books, books.give(5))
    async with pool.connection() as conn:
        asked = asyncio.create_task(ledger.accounts(conn, books.places))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deliver_all(ledger))
        assert (await asked)[books.purse.id].credit_balance == 5


async def test_balances_do_not_wait_for_ever(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallystick.ledger.tigerbeetle.engine.CATCH_UP_SECONDS", 0)
    await promise(ledger, pool, books, books.give(5))
    async with pool.connection() as conn:
        with pytest.raises(LedgerUnavailable):
            await ledger.accounts(conn, books.places)


async def test_an_account_is_not_found_under_another_customer(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    await post(ledger, pool, books, books.give(5))
    async with pool.connection() as conn:
        assert await ledger.accounts(conn, [(uuid4(), books.purse.id)]) == {}
        assert await ledger.accounts(conn, []) == {}
    assert await post(ledger, pool, books) == []


async def test_a_chain_longer_than_a_batch_is_refused_and_blocks_nobody(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    chain = [books.give(1, flags=TransferFlags.LINKED) for _ in range(8_189)] + [books.give(1)]
    with pytest.raises(LedgerRefusal):
        await post(ledger, pool, books, *chain)
    gift = books.give(2)
    assert await post(ledger, pool, books, gift) == [Result(CREATED, 2)]
    assert await journal(pool) == [gift.id]


async def test_many_at_once_in_two_processes(ledger: TigerBeetleLedger, start: Start, pool: Pool, books: Purse) -> None:
    """40 want 3 of 100: 33 get it. Meanwhile promises of others come in, and both processes deliver."""
    other = await start()
    await post(ledger, pool, books, books.give(100))
    crowd = [Purse() for _ in range(40)]
    posted, *_ = await asyncio.gather(
        asyncio.gather(*(post((ledger, other)[n % 2], pool, books, books.take(3)) for n in range(40))),
        asyncio.gather(*(promise(ledger, pool, one, one.give(1)) for one in crowd)),
        asyncio.gather(*((ledger, other)[n % 2].deliver() for n in range(10))),
    )
    await asyncio.gather(deliver_all(ledger), deliver_all(other))
    assert sum(result.stands for (result,) in posted) == 33
    assert len(await journal(pool)) == 1 + 33 + 40
