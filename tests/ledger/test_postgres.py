from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from tallystick.database.pool import Connection, Pool
from tallystick.ledger.contract import Account, AccountFlags, Result, Status, Transfer
from tallystick.ledger.model import Books
from tallystick.ledger.postgres import PostgresLedger
from tests.ledger.workload import Workload, workload

CUSTOMER = UUID(int=1)
BANK, PURSE = UUID(int=10), UUID(int=11)
ACCOUNTS = [
    Account(BANK, CUSTOMER, 1, 4),
    Account(PURSE, CUSTOMER, 1, 1, AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS),
]


def transfer(number: int, debit: UUID, credit: UUID, amount: int) -> Transfer:
    return Transfer(UUID(int=number), CUSTOMER, debit, credit, amount, ledger=1, code=1)


async def table(conn: Connection, name: str, order: str) -> list[Any]:
    query = sql.SQL("select * from {} order by {}").format(sql.Identifier(name), sql.Identifier(order))
    return await (await conn.execute(query)).fetchall()


async def standing(ledger: PostgresLedger, conn: Connection, load: Workload) -> dict[UUID, Account]:
    return await ledger.accounts(conn, [(account.customer_id, account.id) for account in load.accounts])


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_engine_does_what_the_model_does(pool: Pool, ledger: PostgresLedger, seed: int) -> None:
    """The same answers and balances for every flag, status and precedence: the workload leaves nothing out.

    Every fourth batch is carried out, taken back and carried out again, as after a crash.
    """
    load = workload(seed, transfers=4000)
    books = Books({account.id: account for account in load.accounts}, {})
    async with pool.connection() as conn:
        async with conn.transaction():
            await ledger.create_accounts(conn, load.accounts)
        for number, batch in enumerate(load.batches):
            if number % 4 == 0:
                async with conn.transaction(force_rollback=True):
                    await ledger.post(conn, batch)
            async with conn.transaction():
                results = await ledger.post(conn, batch)
            assert results == [books.post(transfer) for transfer in batch], f"batch {number}"
        assert await standing(ledger, conn, load) == books.accounts
        cursor = await conn.execute(
            "select sequence, id, customer_id, debit_account_id, credit_account_id, amount, ledger, code, flags,"
            " cause_id from ledger_transfers order by sequence"
        )
        posted = [
            (
                n,
                t.id,
                t.customer_id,
                t.debit_account_id,
                t.credit_account_id,
                t.amount,
                t.ledger,
                t.code,
                t.flags,
                t.cause_id,
            )
            for n, t in enumerate(books.posted, start=1)
        ]
        assert await cursor.fetchall() == posted


async def test_one_transaction_sees_what_it_posted_before(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    assert await ledger.post(conn, [transfer(1, BANK, PURSE, 5)]) == [Result(Status.CREATED, 5)]
    assert await ledger.post(
        conn, [transfer(2, PURSE, BANK, 3), transfer(3, PURSE, BANK, 3), transfer(1, BANK, PURSE, 5)]
    ) == [
        Result(Status.CREATED, 3),
        Result(Status.EXCEEDS_CREDITS),
        Result(Status.EXISTS, 5),
    ]


async def test_an_account_that_is_open_stays_as_it_is(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    await ledger.post(conn, [transfer(1, BANK, PURSE, 5)])
    before = await table(conn, "ledger_accounts", "id")
    await ledger.create_accounts(conn, [replace(account, code=9, flags=AccountFlags.NONE) for account in ACCOUNTS])
    assert await table(conn, "ledger_accounts", "id") == before


async def test_nothing_asked_is_nothing_done(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, [])
    assert await ledger.post(conn, []) == []
    assert await ledger.accounts(conn, []) == {}
    assert await ledger.accounts(conn, [(CUSTOMER, BANK)]) == {}


async def test_an_account_is_not_found_under_another_customer(conn: Connection, ledger: PostgresLedger) -> None:
    """Alone or next to a transfer that does find it: what a batch brings along must not change the answer."""
    await ledger.create_accounts(conn, ACCOUNTS)
    wrong = replace(transfer(1, BANK, PURSE, 5), customer_id=UUID(int=2))
    assert await ledger.post(conn, [wrong]) == [Result(Status.DEBIT_ACCOUNT_NOT_FOUND)]
    right = transfer(2, BANK, PURSE, 5)
    assert await ledger.post(conn, [right, wrong]) == [
        Result(Status.CREATED, 5),
        Result(Status.DEBIT_ACCOUNT_NOT_FOUND),
    ]


async def test_many_transactions_at_once_on_one_account(pool: Pool, ledger: PostgresLedger) -> None:
    """Each of 40 takes 3 of 100: exactly 33 can. Transfers are numbered without gaps, in the order of commits."""
    async with pool.connection() as conn, conn.transaction():
        await ledger.create_accounts(conn, ACCOUNTS)
        await ledger.post(conn, [transfer(1, BANK, PURSE, 100)])

    async def spend(number: int) -> Status:
        async with pool.connection() as conn, conn.transaction():
            (result,) = await ledger.post(conn, [transfer(number, PURSE, BANK, 3)])
            return result.status

    statuses = await asyncio.gather(*(spend(number) for number in range(2, 42)))
    assert statuses.count(Status.CREATED) == 33
    assert statuses.count(Status.EXCEEDS_CREDITS) == 7
    async with pool.connection() as conn:
        assert (await ledger.accounts(conn, [(CUSTOMER, PURSE)]))[PURSE].credit_balance == 1
        assert [row[2] for row in await table(conn, "ledger_transfers", "sequence")] == list(range(1, 35))


async def test_the_same_transfer_in_two_transactions_at_once_is_posted_once(pool: Pool, ledger: PostgresLedger) -> None:
    async with pool.connection() as conn, conn.transaction():
        await ledger.create_accounts(conn, ACCOUNTS)

    async def post() -> Status:
        async with pool.connection() as conn, conn.transaction():
            (result,) = await ledger.post(conn, [transfer(1, BANK, PURSE, 5)])
            return result.status

    statuses = await asyncio.gather(*(post() for _ in range(10)))
    assert sorted(status.value for status in statuses) == ["created"] + ["exists"] * 9


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("update ledger_accounts set debits_posted = 6 where code = 1", "debits_must_not_exceed_credits"),
        ("update ledger_accounts set flags = 4 where code = 1", "credits_must_not_exceed_debits"),
        ("update ledger_accounts set credits_posted = -1 where code = 4", "ledger_accounts_credits_posted_check"),
        ("update ledger_transfers set amount = -1", "ledger_transfers_amount_check"),
        ("update ledger_transfers set credit_account_id = debit_account_id", "ledger_transfers_check"),
    ],
)
async def test_the_tables_guard_the_limits_once_more(
    conn: Connection, ledger: PostgresLedger, statement: str, constraint: str
) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    await ledger.post(conn, [transfer(1, BANK, PURSE, 5)])
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        async with conn.transaction():
            await conn.execute(statement.encode())
    assert refused.value.diag.constraint_name == constraint


async def test_a_negative_amount_is_never_posted(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    with pytest.raises(psycopg.errors.CheckViolation):
        async with conn.transaction():
            await ledger.post(conn, [transfer(1, BANK, PURSE, -5)])
    assert await table(conn, "ledger_transfers", "id") == []
