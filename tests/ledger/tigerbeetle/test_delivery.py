"""What was promised to TigerBeetle is delivered: once, soon, and whatever is refused among it.

Needs a TigerBeetle server: TIGERBEETLE_BIN names its program.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from tallystick.database.pool import Pool
from tallystick.ledger.contract import Transfer, TransferFlags
from tallystick.ledger.tigerbeetle import delivery, promises
from tallystick.ledger.tigerbeetle.delivery import Delivery
from tallystick.ledger.tigerbeetle.engine import TigerBeetleLedger
from tallystick.ledger.tigerbeetle.promises import Lag
from tests.ledger.tigerbeetle.purse import NOW, Purse, deliver_all, journal, left, outbox, promise, rows


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
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and query like 'listen%'",
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
