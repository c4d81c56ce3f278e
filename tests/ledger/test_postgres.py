"""What is PostgreSQL's own: constraints, order, the chain of hashes, transactions and many connections.

That it answers as every engine does is in ``test_conformance.py`` and ``test_workload.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

import pytest

from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.ledger.contract import (
    AMOUNT_MAX,
    Account,
    AccountFlags,
    LedgerRefusal,
    Opening,
    Result,
    Status,
    Transfer,
    TransferFlags,
    no_accounts,
)
from tallystick.ledger.postgres import PostgresLedger
from tests.ledger.postgres_rows import (
    ACCOUNTS,
    BANK,
    CUSTOMER,
    DEBT,
    PURSE,
    SHOP,
    STRANGER,
    assert_sealed,
    everything,
    resolution,
    table,
    transfer,
)

# Within one transaction


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
    await ledger.create_accounts(conn, [account._replace(code=9, flags=AccountFlags.NONE) for account in ACCOUNTS])
    assert await table(conn, "ledger_accounts", "id") == before


async def test_nothing_asked_is_nothing_done(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, [])
    assert await ledger.post(conn, []) == []
    await ledger.promise(conn, [])
    assert await ledger.accounts(conn, []) == {}
    assert await ledger.accounts(conn, [(CUSTOMER, BANK)]) == {}
    assert await everything(conn) == [[], [], [], []]


async def test_an_account_is_not_found_under_another_customer(conn: Connection, ledger: PostgresLedger) -> None:
    """Alone or next to a transfer that does find it: what a batch brings along must not change the answer."""
    await ledger.create_accounts(conn, ACCOUNTS)
    wrong = transfer(1, BANK, PURSE, 5)._replace(customer_id=STRANGER)
    assert await ledger.post(conn, [wrong]) == [Result(Status.DEBIT_ACCOUNT_NOT_FOUND)]
    created, refused = Result(Status.CREATED, 5), Result(Status.DEBIT_ACCOUNT_NOT_FOUND)
    wrongs = [wrong._replace(id=UUID(int=number)) for number in (2, 3, 4)]
    assert await ledger.post(conn, [transfer(5, BANK, PURSE, 5), wrongs[0]]) == [created, refused]
    assert await ledger.post(conn, [wrongs[1], transfer(6, BANK, PURSE, 5)]) == [refused, created]
    afresh = PostgresLedger(TestClock(datetime(2026, 3, 1, 12, tzinfo=UTC)))  # which remembers no account
    assert await afresh.post(conn, [transfer(7, BANK, PURSE, 5), wrongs[2]]) == [created, refused]
    assert (await ledger.accounts(conn, [(CUSTOMER, PURSE)]))[PURSE].credits_posted == 15
    for serialised in (False, True):
        both = [(STRANGER, PURSE), (STRANGER, BANK), (CUSTOMER, BANK)]
        assert list(await afresh.accounts(conn, both, serialised=serialised)) == [BANK]
        assert await afresh.accounts(conn, both[:2], serialised=serialised) == {}


async def test_a_promise_that_is_refused_is_loud_and_without_effect(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    await ledger.promise(conn, [transfer(1, BANK, PURSE, 5)])
    before = await everything(conn)
    with pytest.raises(LedgerRefusal, match="exceeds_credits"):
        async with conn.transaction():
            await ledger.promise(conn, [transfer(2, BANK, PURSE, 5), transfer(3, PURSE, BANK, 11)])
    assert await everything(conn) == before
    await ledger.promise(conn, [transfer(1, BANK, PURSE, 5), transfer(2, BANK, PURSE, 6), transfer(3, PURSE, BANK, 11)])


async def test_amounts_are_exact_up_to_the_greatest(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    near = AMOUNT_MAX - 7
    assert await ledger.post(conn, [transfer(1, BANK, PURSE, near), transfer(2, PURSE, SHOP, near - 1)]) == [
        Result(Status.CREATED, near),
        Result(Status.CREATED, near - 1),
    ]
    assert (await ledger.accounts(conn, [(CUSTOMER, PURSE)]))[PURSE].credit_balance == 1
    assert await ledger.post(conn, [transfer(1, BANK, PURSE, near)]) == [Result(Status.EXISTS, near)]


# Accounts that open on the way


def opening(missing: Collection[UUID]) -> list[Account]:
    """Opens all of ``ACCOUNTS`` as soon as one is missing; knows no others."""
    return ACCOUNTS if any(account.id in missing for account in ACCOUNTS) else []


async def test_missing_accounts_are_opened_first(conn: Connection, ledger: PostgresLedger) -> None:
    unknown = UUID(int=99)
    assert await ledger.post(
        conn, [transfer(1, BANK, PURSE, 5), transfer(2, BANK, unknown, 5), transfer(3, PURSE, SHOP, 6)], opening
    ) == [
        Result(Status.CREATED, 5),
        Result(Status.CREDIT_ACCOUNT_NOT_FOUND),
        Result(Status.EXCEEDS_CREDITS),
    ]
    accounts = await ledger.accounts(conn, [(CUSTOMER, account.id) for account in ACCOUNTS])
    assert accounts == {
        BANK: ACCOUNTS[0]._replace(debits_posted=5),
        PURSE: ACCOUNTS[1]._replace(credits_posted=5),
        DEBT: ACCOUNTS[2],
        SHOP: ACCOUNTS[3],
    }


async def test_opening_is_asked_for_what_is_missing_only(conn: Connection, ledger: PostgresLedger) -> None:
    asked: list[set[UUID]] = []

    def noting(missing: Collection[UUID]) -> list[Account]:
        asked.append(set(missing))
        return [account for account in ACCOUNTS if account.id in missing]

    await ledger.post(conn, [transfer(1, BANK, SHOP, 5)], noting)
    await ledger.post(conn, [transfer(2, BANK, PURSE, 5, TransferFlags.PENDING), transfer(3, BANK, SHOP, 1)], noting)
    await ledger.post(conn, [resolution(4, 2, TransferFlags.VOID_PENDING), transfer(5, PURSE, SHOP, 0)], noting)
    assert asked == [{BANK, SHOP}, {PURSE}]


async def test_opening_does_not_touch_what_is_open(conn: Connection, ledger: PostgresLedger) -> None:
    """Accounts that come along because another one of their customer is missing keep their sums."""
    await ledger.create_accounts(conn, ACCOUNTS[:2])
    await ledger.post(conn, [transfer(1, BANK, PURSE, 5)])
    await ledger.post(conn, [transfer(2, DEBT, SHOP, 1)], opening)
    await ledger.post(conn, [transfer(3, PURSE, SHOP, 2)], opening)
    accounts = await ledger.accounts(conn, [(CUSTOMER, BANK), (CUSTOMER, PURSE)])
    assert (accounts[BANK].debits_posted, accounts[PURSE].credits_posted, accounts[PURSE].debits_posted) == (5, 5, 2)


# Transactions that are taken back


async def tried(ledger: PostgresLedger, conn: Connection, *batches: list[Transfer], opening: Opening) -> None:
    """Posts batches in a transaction, or a savepoint within one, that is taken back."""
    async with conn.transaction(force_rollback=True):
        for batch in batches:
            await ledger.post(conn, batch, opening)


@pytest.mark.parametrize("before", [0, 1], ids=["in an empty ledger", "after others"])
@pytest.mark.parametrize(
    "batches",
    [
        [[transfer(11, BANK, PURSE, 5)]],
        [[transfer(11, PURSE, SHOP, 5)]],
        [[transfer(11, PURSE, SHOP, 5)], [transfer(12, BANK, PURSE, 5)]],
        [[transfer(11, BANK, PURSE, 5, TransferFlags.PENDING), resolution(12, 11, TransferFlags.VOID_PENDING)]],
        [[transfer(11, BANK, SHOP, 0, TransferFlags.PENDING | TransferFlags.CLOSING_DEBIT)]],
    ],
    ids=["posted", "refused", "refused, then posted", "held and freed", "closed"],
)
async def test_what_is_taken_back_leaves_nothing_not_even_in_memory(
    pool: Pool, ledger: PostgresLedger, before: int, batches: list[list[Transfer]]
) -> None:
    """Neither rows nor remembered accounts nor failures: afterwards everything goes as if it had never been tried."""
    async with pool.connection() as conn:
        if before:
            async with conn.transaction():
                other = Account(UUID(int=20), CUSTOMER, 1, 1)
                await ledger.create_accounts(conn, [other, other._replace(id=UUID(int=21))])
                await ledger.post(conn, [transfer(1, UUID(int=20), UUID(int=21), 5)])
        untouched = await everything(conn)
        await tried(ledger, conn, *batches, opening=opening)
        assert await everything(conn) == untouched
        async with conn.transaction():
            results = await ledger.post(
                conn,
                [transfer(11, BANK, PURSE, 7), transfer(12, PURSE, SHOP, 3), transfer(13, PURSE, SHOP, 5)],
                opening,
            )
        assert [result.status for result in results] == [Status.CREATED, Status.CREATED, Status.EXCEEDS_CREDITS]
        accounts = await ledger.accounts(conn, [(CUSTOMER, account.id) for account in ACCOUNTS])
        assert accounts == {
            BANK: ACCOUNTS[0]._replace(debits_posted=7),
            PURSE: ACCOUNTS[1]._replace(credits_posted=7, debits_posted=3),
            DEBT: ACCOUNTS[2],
            SHOP: ACCOUNTS[3]._replace(credits_posted=3),
        }
        await assert_sealed(conn)


async def test_accounts_opened_in_a_transaction_that_is_taken_back_are_opened_again(
    pool: Pool, ledger: PostgresLedger
) -> None:
    async with pool.connection() as conn:
        async with conn.transaction(force_rollback=True):
            await ledger.create_accounts(conn, ACCOUNTS)
            await ledger.post(conn, [transfer(1, PURSE, SHOP, 5), transfer(2, PURSE, BANK, 5)])
            await ledger.serialise(conn)
            seen = await ledger.accounts(conn, [(CUSTOMER, account.id) for account in ACCOUNTS], serialised=True)
            assert seen == {account.id: account for account in ACCOUNTS}
        async with conn.transaction():
            assert await ledger.post(conn, [transfer(1, BANK, SHOP, 5)]) == [Result(Status.DEBIT_ACCOUNT_NOT_FOUND)]
        async with conn.transaction():
            assert await ledger.post(conn, [transfer(2, BANK, SHOP, 5)], opening) == [Result(Status.CREATED, 5)]
        assert (await ledger.accounts(conn, [(CUSTOMER, SHOP)]))[SHOP].credits_posted == 5


async def test_a_savepoint_that_is_taken_back_leaves_nothing(conn: Connection, ledger: PostgresLedger) -> None:
    await ledger.create_accounts(conn, ACCOUNTS)
    await ledger.post(conn, [transfer(1, BANK, PURSE, 5)])
    before = await everything(conn)
    await tried(ledger, conn, [transfer(2, PURSE, SHOP, 5), transfer(3, PURSE, SHOP, 1)], opening=no_accounts)
    assert await everything(conn) == before
    assert await ledger.post(conn, [transfer(3, PURSE, SHOP, 4)]) == [Result(Status.CREATED, 4)]


# Failures are remembered


async def test_failures_that_may_pass_are_kept_with_their_reason(pool: Pool, ledger: PostgresLedger) -> None:
    async with pool.connection() as conn:
        async with conn.transaction():
            await ledger.create_accounts(conn, ACCOUNTS)
            await ledger.post(
                conn,
                [
                    transfer(1, PURSE, SHOP, 5),
                    transfer(2, BANK, DEBT, 5),
                    transfer(3, UUID(int=98), SHOP, 5),
                    transfer(4, SHOP, UUID(int=98), 5),
                    resolution(5, 99, TransferFlags.POST_PENDING),
                    transfer(6, BANK, SHOP, 5)._replace(code=0),
                    transfer(7, BANK, SHOP, 0, TransferFlags.PENDING | TransferFlags.CLOSING_CREDIT),
                    transfer(8, SHOP, BANK, 1),
                    transfer(9, BANK, SHOP, 1),
                    transfer(10, BANK, PURSE, 1, TransferFlags.LINKED),
                    transfer(11, BANK, SHOP, 1),
                    transfer(1, PURSE, SHOP, 5),
                ],
            )
        now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        kept = [
            (1, "exceeds_credits"),
            (2, "exceeds_debits"),
            (3, "debit_account_not_found"),
            (4, "credit_account_not_found"),
            (5, "pending_transfer_not_found"),
            (8, "debit_account_already_closed"),
            (9, "credit_account_already_closed"),
            (11, "credit_account_already_closed"),
        ]
        rows = await table(conn, "ledger_failures", "id")
        assert [row[:4] for row in rows] == [(CUSTOMER, UUID(int=number), status, now) for number, status in kept]
        assert {row[4] for row in rows} == set(range(1, len(kept) + 1)), "numbered without gaps"
        async with conn.transaction():
            again = [transfer(number, BANK, PURSE, 1) for number, _ in kept]
            assert await ledger.post(conn, again) == [Result(Status.ID_ALREADY_FAILED)] * len(kept)
        assert await table(conn, "ledger_failures", "id") == rows
        elsewhere = Transfer(UUID(int=1), STRANGER, BANK, PURSE, 1, 1, 1)
        async with conn.transaction():
            assert (await ledger.post(conn, [elsewhere]))[0].status is Status.DEBIT_ACCOUNT_NOT_FOUND


# Many connections


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
        await assert_sealed(conn)


async def test_many_reservations_at_once_on_one_account(pool: Pool, ledger: PostgresLedger) -> None:
    async with pool.connection() as conn, conn.transaction():
        await ledger.create_accounts(conn, ACCOUNTS)
        await ledger.post(conn, [transfer(1, BANK, PURSE, 10)])

    async def hold(number: int) -> Status:
        async with pool.connection() as conn, conn.transaction():
            (result,) = await ledger.post(conn, [transfer(number, PURSE, BANK, 1, TransferFlags.PENDING)])
            return result.status

    statuses = await asyncio.gather(*(hold(number) for number in range(2, 52)))
    assert statuses.count(Status.CREATED) == 10
    assert statuses.count(Status.EXCEEDS_CREDITS) == 40


@pytest.mark.parametrize("rolled_back", [False, True])
async def test_two_processes_with_memories_of_their_own_agree(
    pool: Pool, rolled_back: bool, ledger: PostgresLedger
) -> None:
    """What one remembers of the accounts is worth nothing once the other has posted, or was about to."""
    other = PostgresLedger(TestClock(datetime(2026, 3, 1, 12, tzinfo=UTC)))
    async with pool.connection() as conn, pool.connection() as second:
        async with conn.transaction():
            await ledger.create_accounts(conn, ACCOUNTS)
            await ledger.post(conn, [transfer(1, BANK, PURSE, 10)])
        async with second.transaction(force_rollback=rolled_back):
            await other.post(second, [transfer(2, PURSE, SHOP, 8)])
        async with conn.transaction():
            (result,) = await ledger.post(conn, [transfer(3, PURSE, SHOP, 9)])
        assert result.status is (Status.CREATED if rolled_back else Status.EXCEEDS_CREDITS)
        async with second.transaction():
            (result,) = await other.post(second, [transfer(4, PURSE, SHOP, 2)])
        assert result.status is (Status.EXCEEDS_CREDITS if rolled_back else Status.CREATED)
        await assert_sealed(conn)


async def test_the_same_transfer_in_two_transactions_at_once_is_posted_once(pool: Pool, ledger: PostgresLedger) -> None:
    async with pool.connection() as conn, conn.transaction():
        await ledger.create_accounts(conn, ACCOUNTS)

    async def post() -> Status:
        async with pool.connection() as conn, conn.transaction():
            (result,) = await ledger.post(conn, [transfer(1, BANK, PURSE, 5)])
            return result.status

    statuses = await asyncio.gather(*(post() for _ in range(10)))
    assert sorted(status.value for status in statuses) == ["created"] + ["exists"] * 9


async def test_a_hold_posted_and_voided_at_once_is_resolved_once(pool: Pool, ledger: PostgresLedger) -> None:
    async with pool.connection() as conn, conn.transaction():
        await ledger.create_accounts(conn, ACCOUNTS)
        await ledger.post(conn, [transfer(1, BANK, PURSE, 5, TransferFlags.PENDING)])

    async def resolve(number: int) -> Status:
        flags = TransferFlags.POST_PENDING if number % 2 else TransferFlags.VOID_PENDING
        async with pool.connection() as conn, conn.transaction():
            (result,) = await ledger.post(conn, [resolution(number, 1, flags, AMOUNT_MAX if number % 2 else 0)])
            return result.status

    statuses = await asyncio.gather(*(resolve(number) for number in range(2, 12)))
    assert statuses.count(Status.CREATED) == 1
    resolved = {Status.PENDING_TRANSFER_ALREADY_POSTED, Status.PENDING_TRANSFER_ALREADY_VOIDED}
    assert len(set(statuses) & resolved) == 1
    assert len(set(statuses)) == 2
