"""The engine on TigerBeetle beside its outbox: nothing is lost or doubled, wherever somebody dies.

Needs a TigerBeetle server: TIGERBEETLE_BIN names its program.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tallystick.database.pool import Connection, Pool, open_pool
from tallystick.kernel.clock import TestClock
from tallystick.ledger import delivery, promises
from tallystick.ledger.contract import (
    AMOUNT_MAX,
    Account,
    AccountFlags,
    LedgerRefusal,
    LedgerUnavailable,
    Result,
    Status,
    Transfer,
    TransferFlags,
)
from tallystick.ledger.delivery import Delivery
from tallystick.ledger.model import Books
from tallystick.ledger.promises import Lag
from tallystick.ledger.tigerbeetle import TigerBeetleClient
from tallystick.ledger.tigerbeetle_ledger import TigerBeetleLedger
from tests.ledger.tigerbeetle_server import CLUSTER_ID, Server, given_binary, running
from tests.ledger.workload import workload

BINARY = given_binary()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no TigerBeetle: set TIGERBEETLE_BIN to its program")

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITED = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
CREATED = Status.CREATED


class Death(Exception):
    """Somebody died here."""


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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    assert BINARY is not None
    with running(BINARY, tmp_path_factory.mktemp("tigerbeetle")) as started:
        yield started


Start = Callable[[], Any]


@pytest.fixture
async def start(server: Server, database_url: str) -> AsyncIterator[Start]:
    """Makes the ledger of one process, which delivers only when it is told to."""
    async with AsyncExitStack() as opened:

        async def start() -> TigerBeetleLedger:
            client = TigerBeetleClient(CLUSTER_ID, server.address)
            opened.push_async_callback(client.close)
            own = await opened.enter_async_context(await open_pool(database_url, size=3))
            return TigerBeetleLedger(client, own, TestClock(NOW))

        yield start


@pytest.fixture
async def ledger(start: Start, pool: Pool) -> AsyncIterator[TigerBeetleLedger]:
    """The ledger of one process. Whatever the test did, journal and TigerBeetle must agree in the end."""
    made: TigerBeetleLedger = await start()
    yield made
    await deliver_all(made)
    await assert_journal_holds(pool, made)


@pytest.fixture
def books() -> Purse:
    return Purse()


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


async def test_a_promise_waits_until_it_is_delivered_and_happens_once(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    gifts = [books.give(n) for n in (1, 2, 3)]
    await promise(ledger, pool, books, *gifts)
    await promise(ledger, pool, books, gifts[0])
    assert await left(ledger, books) == 0
    assert [id_ for id_, _, _ in await outbox(pool)] == [gift.id for gift in gifts]
    assert await ledger.deliver() == 3
    assert await left(ledger, books) == 6
    await promise(ledger, pool, books, *gifts)
    assert await ledger.deliver() == 3
    assert (await journal(pool), await left(ledger, books)) == ([gift.id for gift in gifts], 6)
    assert await outbox(pool) == []


async def test_a_promise_that_was_not_committed_is_none(ledger: TigerBeetleLedger, pool: Pool, books: Purse) -> None:
    async with pool.connection() as conn, conn.transaction(force_rollback=True):
        await ledger.promise(conn, [books.give(1)], books.opening)
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
    monkeypatch.setattr("tallystick.ledger.tigerbeetle_ledger.CATCH_UP_SECONDS", 0)
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


# Deaths while posting. Each kills the caller at one step; then either somebody else comes, or the caller tries again.


def dies_before(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_args: Any, **_kwargs: Any) -> Any:
        raise Death

    monkeypatch.setattr(owner, name, die)


def dies_after(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(owner, name)

    async def die(*args: Any, **kwargs: Any) -> Any:
        await real(*args, **kwargs)
        raise Death

    monkeypatch.setattr(owner, name, die)


Kill = Callable[[TigerBeetleLedger, pytest.MonkeyPatch], None]

DEATHS: dict[str, Kill] = {
    "after the intent was committed": lambda ledger, m: dies_after(ledger, "_announce", m),
    "before TigerBeetle was asked": lambda ledger, m: dies_before(ledger.client, "try_transfers", m),
    "after TigerBeetle answered": lambda ledger, m: dies_after(ledger.client, "try_transfers", m),
    "before the refusal was noted": lambda ledger, m: dies_before(ledger, "_remember_refusals", m),
    "after the refusal was noted": lambda ledger, m: dies_after(ledger, "_remember_refusals", m),
    "before the journal": lambda ledger, m: dies_before(ledger._journal, "write", m),
    "after the journal": lambda ledger, m: dies_after(ledger._journal, "write", m),
    "before the intents were removed": lambda _, m: dies_before(promises, "answer", m),
    "before the commit": lambda _, m: dies_after(promises, "answer", m),
}
HEARD_NOTHING = {"before the refusal was noted", "after TigerBeetle answered"}
"""Where the caller may die so that why his transfer was refused is known to nobody."""


async def die_while_posting(
    kill: Kill, ledger: TigerBeetleLedger, pool: Pool, books: Purse, *transfers: Transfer
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill(ledger, patch)
        with pytest.raises(Death):
            await post(ledger, pool, books, *transfers)


@pytest.mark.parametrize("death", DEATHS)
async def test_what_a_dead_caller_left_behind_is_carried_out_by_others(
    death: str, ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    """Another customer's post, and another process's, find it, and do it first."""
    gift, spent, too_much = books.give(5), books.take(3), books.take(9)
    await die_while_posting(DEATHS[death], ledger, pool, books, gift, spent, too_much)
    other = Purse()
    later = other.give(1)
    assert await post(ledger, pool, other, later) == [Result(CREATED, 1)]
    assert await journal(pool) == [gift.id, spent.id, later.id]
    assert await left(ledger, books) == 2
    known = await rows(pool, "select id from ledger_accounts")
    assert {books.bank.id, books.purse.id} <= {id_ for (id_,) in known}
    async with pool.connection() as conn:
        assert (await ledger.lag(conn)).waiting == 0


@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("death", DEATHS)
async def test_a_caller_that_tries_again_hears_the_same(
    death: str, delivered: bool, ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    gift, spent, too_much = books.give(5), books.take(3), books.take(9)
    await die_while_posting(DEATHS[death], ledger, pool, books, gift, spent, too_much)
    if delivered:
        await deliver_all(ledger)
    results = await post(ledger, pool, books, gift, spent, too_much)
    assert [result.stands for result in results] == [True, True, False]
    refusal = Status.ID_ALREADY_FAILED if death in HEARD_NOTHING else Status.EXCEEDS_CREDITS
    assert results[2].status is refusal
    assert (await journal(pool), await left(ledger, books)) == ([gift.id, spent.id], 2)
    assert await outbox(pool) == []
    again = await post(ledger, pool, books, gift, spent, too_much)
    assert [result.status for result in again] == [Status.EXISTS, Status.EXISTS, Status.ID_ALREADY_FAILED]
    assert await outbox(pool) == []


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("death", DEATHS)
async def test_a_chain_is_carried_out_as_a_whole_or_not_at_all(
    death: str, fails: bool, ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    linked = TransferFlags.LINKED
    chain = [books.give(5, flags=linked), books.take(2, flags=linked), books.take(9 if fails else 1)]
    alone = books.give(10)
    await die_while_posting(DEATHS[death], ledger, pool, books, *chain, alone)
    await deliver_all(ledger)
    stands = [alone.id] if fails else [*(transfer.id for transfer in chain), alone.id]
    assert (await journal(pool), await left(ledger, books)) == (stands, 10 if fails else 12)
    async with pool.connection() as conn:
        assert await ledger.lag(conn) == Lag(0, 0, 0)


async def test_the_journal_has_the_order_in_which_it_happened(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    """What was promised before a dead caller posted, but committed after it, happens after it."""
    opened, posted, promised = books.give(1), books.give(2), books.give(3)
    await post(ledger, pool, books, opened)
    async with pool.connection() as conn, conn.transaction():
        await ledger.promise(conn, [promised])
        await die_while_posting(DEATHS["before the journal"], ledger, pool, books, posted)
    await deliver_all(ledger)
    assert await journal(pool) == [opened.id, posted.id, promised.id]


@pytest.mark.parametrize("answered", [False, True])
async def test_a_caller_whose_connection_is_cut_leaves_nothing_half_done(
    answered: bool,
    ledger: TigerBeetleLedger,
    pool: Pool,
    database_url: str,
    books: Purse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lock is free from then on: others may come before its request, or after it."""
    gift = books.give(5)
    real = ledger.client.try_transfers
    backends: list[int] = []

    async def cut(transfers: Sequence[Transfer]) -> list[Result | str]:
        results = await real(transfers) if answered else []
        await rows(pool, f"select pg_terminate_backend({backends.pop()})")
        return results or await real(transfers)

    async def post_on(conn: Connection) -> None:
        async with conn.transaction():
            backends.append(conn.info.backend_pid)
            await ledger.post(conn, [gift], books.opening)

    with monkeypatch.context() as patch:
        patch.setattr(ledger.client, "try_transfers", cut)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
            with pytest.raises(psycopg.OperationalError):
                await post_on(conn)
    assert await post(ledger, pool, books, books.take(5)) == [Result(CREATED, 5)]
    assert (await journal(pool))[0] == gift.id
    assert await outbox(pool) == []


async def test_the_reason_of_a_refusal_nobody_heard_of_is_kept_for_a_day(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_much = books.take(9)
    await die_while_posting(DEATHS["before the commit"], ledger, pool, books, books.give(1), too_much)
    await deliver_all(ledger)
    await ledger.tidy()
    assert await outbox(pool) == [(too_much.id, True, "exceeds_credits")]
    monkeypatch.setattr(ledger, "_clock", TestClock(NOW + timedelta(days=1, seconds=1)))
    await ledger.tidy()
    assert await outbox(pool) == []
    assert await rows(pool, "select id, status from ledger_failures") == [(too_much.id, "exceeds_credits")]


DELIVERY_DEATHS: dict[str, Kill] = {
    "before TigerBeetle was asked": DEATHS["before TigerBeetle was asked"],
    "after TigerBeetle answered": DEATHS["after TigerBeetle answered"],
    "before the journal": DEATHS["before the journal"],
    "after the journal": DEATHS["after the journal"],
    "before the rows were removed": lambda _, m: dies_before(promises, "finish", m),
    "before the commit": lambda _, m: dies_after(promises, "refuse", m),
}


@pytest.mark.parametrize("death", DELIVERY_DEATHS)
async def test_a_delivery_that_dies_is_done_again_by_another_process(
    death: str, ledger: TigerBeetleLedger, start: Start, pool: Pool, books: Purse
) -> None:
    gifts = [books.give(n) for n in range(1, 6)]
    rest = books.take(AMOUNT_MAX, flags=TransferFlags.BALANCING_DEBIT)
    await promise(ledger, pool, books, *gifts, rest)
    with pytest.MonkeyPatch.context() as patch:
        DELIVERY_DEATHS[death](ledger, patch)
        with pytest.raises(Death):
            await ledger.deliver()
    other = await start()
    assert await other.deliver() == 6
    assert await journal(pool) == [*(gift.id for gift in gifts), rest.id]
    assert await rows(pool, "select amount from ledger_transfers order by sequence desc limit 1") == [(15,)]
    assert await left(ledger, books) == 0


async def test_a_promise_that_is_refused_is_kept_and_blocks_nobody(
    ledger: TigerBeetleLedger, pool: Pool, books: Purse
) -> None:
    good, impossible, better = books.give(1), books.take(9), books.give(2)
    unknown = Transfer(uuid4(), books.customer, uuid4(), books.purse.id, 1, 1, 1)
    senseless = books.give(3, flags=TransferFlags(1 << 8))  # imported: our contract knows neither flag nor answer
    await promise(ledger, pool, books, good, impossible, unknown, senseless, better)
    await deliver_all(ledger)
    assert await journal(pool) == [good.id, better.id]
    kept = {id_: reason for id_, _, reason in await outbox(pool)}
    assert kept.keys() == {impossible.id, unknown.id, senseless.id}
    assert kept[impossible.id] == "exceeds_credits"
    assert kept[unknown.id] == "debit_account_not_found"
    async with pool.connection() as conn:
        assert await ledger.lag(conn) == Lag(0, 0, 3)


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


async def test_it_is_delivered_as_soon_as_it_is_promised(
    ledger: TigerBeetleLedger, pool: Pool, database_url: str, books: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL tells; nobody would look before the test is over."""
    monkeypatch.setattr(delivery, "POLL_SECONDS", 3600.0)
    task = Delivery(database_url, ledger)
    await task.start()
    try:
        for _ in range(3):
            await promise(ledger, pool, books, books.give(1))
            async with pool.connection() as conn:
                await ledger.accounts(conn, books.places)
    finally:
        await task.stop()
    assert len(await journal(pool)) == 3


async def test_delivery_goes_on_after_its_connection_was_cut(
    ledger: TigerBeetleLedger, pool: Pool, database_url: str, books: Purse
) -> None:
    task = Delivery(database_url, ledger)
    await task.start()
    try:
        await promise(ledger, pool, books, books.give(1))
        async with pool.connection() as conn:
            await ledger.accounts(conn, books.places)
        await rows(
            pool,
            "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen%'",
        )
        await promise(ledger, pool, books, books.give(1))
        async with pool.connection() as conn:
            found = await ledger.accounts(conn, books.places)
    finally:
        await task.stop()
    assert found[books.purse.id].credit_balance == 2


async def test_the_lag_is_measured(ledger: TigerBeetleLedger, pool: Pool, books: Purse) -> None:
    async with pool.connection() as conn:
        assert await ledger.lag(conn) == Lag(0, 0, 0)
        await promise(ledger, pool, books, books.give(1), books.give(2))
        assert await promises.lag(conn, NOW + timedelta(seconds=7)) == Lag(2, 7, 0)
