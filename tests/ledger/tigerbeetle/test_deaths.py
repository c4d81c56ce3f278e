"""The engine on TigerBeetle beside its outbox: nothing is lost or doubled, wherever somebody dies.

Needs a TigerBeetle server: TIGERBEETLE_BIN names its program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.ledger.contract import AMOUNT_MAX, Result, Status, Transfer, TransferFlags
from tallystick.ledger.tigerbeetle import promises
from tallystick.ledger.tigerbeetle.engine import TigerBeetleLedger
from tallystick.ledger.tigerbeetle.promises import Lag
from tests.ledger.tigerbeetle.purse import (
    CREATED,
    NOW,
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


class Death(Exception):
    """Somebody died here."""


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


# While posting: each death is at one step; then either somebody else comes, or the caller tries again.


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


# While delivering


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
