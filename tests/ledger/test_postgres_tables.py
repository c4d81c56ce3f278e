"""The tables of the PostgreSQL engine: the chain of hashes over batches, and the constraints that guard once more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.ledger.contract import (
    Result,
    Status,
    TransferFlags,
)
from tallystick.ledger.postgres import PostgresLedger
from tests.ledger.postgres_rows import (
    ACCOUNTS,
    BANK,
    CUSTOMER,
    DEBT,
    PURSE,
    SHOP,
    assert_sealed,
    everything,
    resolution,
    transfer,
)
from tests.ledger.workload import workload

# The chain of hashes


async def test_the_chain_fits_after_many_batches(pool: Pool) -> None:
    """With times that differ, and are not round; the function of the database computes the same."""
    clock = TestClock(datetime(2026, 3, 1, 12, 0, 0, 123_457, tzinfo=UTC))
    ledger = PostgresLedger(clock)
    async with pool.connection() as conn:
        for number, batch in enumerate(workload(4, 1_500, 60)):
            async with conn.transaction(force_rollback=number % 5 == 0):
                await ledger.create_accounts(conn, batch.opens)
                await ledger.post(conn, batch.transfers)
            async with conn.transaction():
                await ledger.create_accounts(conn, batch.opens)
                await ledger.post(conn, batch.transfers)
            clock.advance(timedelta(microseconds=number * 142_857))
        await assert_sealed(conn)
        cursor = await conn.execute(
            "select count(*), count(*) filter (where hash = ledger_hash(previous, first_sequence, last_sequence))"
            " from (select *, lag(hash) over (order by last_sequence) as previous from ledger_batches) as chain"
        )
        ((batches, fitting),) = await cursor.fetchall()
        assert batches == fitting > 30


async def test_the_chain_fits_after_transactions_at_once_of_which_some_are_taken_back(
    pool: Pool, ledger: PostgresLedger
) -> None:
    others = [ledger, PostgresLedger(TestClock(datetime(2026, 4, 1, 12, tzinfo=UTC)))]
    async with pool.connection() as conn, conn.transaction():
        await ledger.create_accounts(conn, ACCOUNTS)

    async def move(number: int) -> None:
        random = Random(number)
        batch = [transfer(1_000 * number + n, BANK, SHOP, random.randint(0, 9)) for n in range(random.randint(1, 20))]
        async with pool.connection() as conn, conn.transaction(force_rollback=number % 3 == 0):
            await random.choice(others).post(conn, batch)

    await asyncio.gather(*(move(number) for number in range(1, 40)))
    async with pool.connection() as conn:
        await assert_sealed(conn)
        cursor = await conn.execute("select sum(amount) from ledger_transfers")
        ((moved,),) = await cursor.fetchall()
        assert (await ledger.accounts(conn, [(CUSTOMER, SHOP)]))[SHOP].credits_posted == moved > 0


@pytest.mark.parametrize(
    "statement",
    [
        "update ledger_transfers set amount = amount + 1 where sequence = 2",
        "update ledger_transfers set created_at = created_at + interval '1 us' where sequence = 2",
        "update ledger_transfers set cause_id = id where sequence = 2",
        "update ledger_transfers set sequence = 5 - sequence where sequence in (2, 3) and sequence = 2",
        "update ledger_transfers set debit_account_id = credit_account_id, credit_account_id = debit_account_id"
        " where sequence = 2",
        "delete from ledger_transfers where sequence = 2",
        "update ledger_batches set hash = sha256(hash) where last_sequence = 3",
    ],
)
async def test_whatever_is_changed_breaks_the_chain(conn: Connection, ledger: PostgresLedger, statement: str) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    await ledger.post(conn, [transfer(1, BANK, PURSE, 5)])
    await ledger.post(conn, [transfer(2, BANK, PURSE, 6), transfer(3, BANK, PURSE, 7)])
    await ledger.post(conn, [transfer(4, BANK, PURSE, 8)])
    await assert_sealed(conn)
    if "5 - sequence" in statement:
        for swap in ("= -1 where sequence = 2", "= 2 where sequence = 3", "= 3 where sequence = -1"):
            await conn.execute(f"update ledger_transfers set sequence {swap}".encode())
    else:
        await conn.execute(statement.encode())
    with pytest.raises(AssertionError):
        await assert_sealed(conn)


# The tables guard once more what the model has decided


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("update ledger_accounts set debits_posted = 6 where code = 1", "debits_must_not_exceed_credits"),
        ("update ledger_accounts set debits_pending = 6 where code = 1", "debits_must_not_exceed_credits"),
        (
            "update ledger_accounts set debits_pending = 3, debits_posted = 3 where code = 1",
            "debits_must_not_exceed_credits",
        ),
        (
            "update ledger_accounts set debits_posted = 6, credits_pending = 9 where code = 1",
            "debits_must_not_exceed_credits",
        ),
        ("update ledger_accounts set credits_posted = 5 where code = 2", "credits_must_not_exceed_debits"),
        ("update ledger_accounts set credits_pending = 5 where code = 2", "credits_must_not_exceed_debits"),
        (
            "update ledger_accounts set credits_pending = 2, credits_posted = 3 where code = 2",
            "credits_must_not_exceed_debits",
        ),
        (
            "update ledger_accounts set credits_posted = 5, debits_pending = 9 where code = 2",
            "credits_must_not_exceed_debits",
        ),
        ("update ledger_accounts set flags = 4 where code = 1", "credits_must_not_exceed_debits"),
        ("update ledger_accounts set credits_posted = -1 where code = 4", "ledger_accounts_credits_posted_check"),
        ("update ledger_accounts set debits_posted = -1 where code = 4", "ledger_accounts_debits_posted_check"),
        ("update ledger_accounts set credits_pending = -1 where code = 4", "ledger_accounts_credits_pending_check"),
        ("update ledger_accounts set debits_pending = -1 where code = 4", "ledger_accounts_debits_pending_check"),
        ("update ledger_transfers set amount = -1", "ledger_transfers_amount_check"),
        ("update ledger_transfers set credit_account_id = debit_account_id", "ledger_transfers_check"),
        ("update ledger_transfers set pending_id = id where flags = 0", "only_posts_and_voids_name_a_pending_transfer"),
        (
            "update ledger_transfers set pending_id = null where flags & 12 <> 0",
            "only_posts_and_voids_name_a_pending_transfer",
        ),
        ("update ledger_batches set first_sequence = last_sequence + 1", "ledger_batches_check"),
    ],
)
async def test_the_tables_guard_limits_and_signs(
    conn: Connection, ledger: PostgresLedger, statement: str, constraint: str
) -> None:
    """The purse holds 5, the debt 4."""
    await ledger.create_accounts(conn, ACCOUNTS)
    holding, freeing = transfer(3, BANK, SHOP, 1, TransferFlags.PENDING), resolution(4, 3, TransferFlags.VOID_PENDING)
    await ledger.post(conn, [transfer(1, BANK, PURSE, 5), transfer(2, DEBT, SHOP, 4), holding, freeing])
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        async with conn.transaction():
            await conn.execute(statement.encode())
    assert refused.value.diag.constraint_name == constraint


@pytest.mark.parametrize("flags", [TransferFlags.POST_PENDING, TransferFlags.VOID_PENDING])
async def test_a_second_post_or_void_of_a_pending_transfer_does_not_fit_into_the_table(
    conn: Connection, ledger: PostgresLedger, flags: TransferFlags
) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    await ledger.post(conn, [transfer(1, BANK, SHOP, 5, TransferFlags.PENDING), resolution(2, 1, flags, 5)])
    for other in (TransferFlags.POST_PENDING, TransferFlags.VOID_PENDING):
        with pytest.raises(psycopg.errors.UniqueViolation) as refused:
            async with conn.transaction():
                await conn.execute(
                    "insert into ledger_transfers (customer_id, id, sequence, debit_account_id, credit_account_id,"
                    " amount, ledger, code, flags, pending_id, created_at) select customer_id, %s, 9, debit_account_id,"
                    " credit_account_id, amount, ledger, code, %s, pending_id, created_at from ledger_transfers"
                    " where pending_id is not null",
                    [UUID(int=3), int(other)],
                )
        assert refused.value.diag.constraint_name == "ledger_transfers_pending"


@pytest.mark.parametrize(
    ("name", "number", "constraint"),
    [("id", 1, "ledger_transfers_pkey"), ("sequence", 3, "ledger_transfers_sequence_key")],
)
async def test_ids_and_sequence_numbers_are_given_once(
    conn: Connection, ledger: PostgresLedger, name: str, number: int, constraint: str
) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    await ledger.post(conn, [transfer(number, BANK, SHOP, 5) for number in (1, 2, 3)])
    value = UUID(int=number) if name == "id" else number
    query = sql.SQL("update ledger_transfers set {} = %s where sequence = 2").format(sql.Identifier(name))
    with pytest.raises(psycopg.errors.UniqueViolation) as refused:
        async with conn.transaction():
            await conn.execute(query, [value])
    assert refused.value.diag.constraint_name == constraint


async def test_a_negative_amount_is_never_posted(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    before = await everything(conn)
    with pytest.raises(psycopg.errors.CheckViolation):
        async with conn.transaction():
            await ledger.post(conn, [transfer(1, BANK, PURSE, -5)])
    assert await everything(conn) == before
    assert await ledger.post(conn, [transfer(1, BANK, PURSE, 5)]) == [Result(Status.CREATED, 5)]
