"""An event is written by who causes it, and stays until somebody has it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tallystick.database.pool import Pool
from tallystick.kernel.errors import TooLarge
from tallystick.outbox.model import Event
from tallystick.outbox.service import MAX_DATA_BYTES, Lag, Outbox, finish, lag, take
from tests.outbox.events import AT, event, subject, tell, waiting


async def test_events_come_out_as_they_went_in_and_in_order(pool: Pool) -> None:
    events = [event(number, subject(number % 3, region="apac", vip=number % 2 == 0)) for number in (5, 1, 4, 2, 3)]
    await tell(pool, *events[:3])
    await tell(pool, *events[3:])
    assert await waiting(pool) == events


async def test_more_events_than_one_statement_takes_keep_their_order(pool: Pool) -> None:
    events = [event(number) for number in range(12_001)]
    await tell(pool, *events)
    assert await waiting(pool) == events


async def test_an_event_shares_the_fate_of_its_cause(pool: Pool) -> None:
    async with pool.connection() as conn:
        async with conn.transaction(force_rollback=True):
            await Outbox(is_on=True).tell(conn, [event(1)])
        assert await waiting(pool) == []


async def test_without_a_broker_nothing_is_written_that_nobody_would_take(pool: Pool) -> None:
    async with pool.connection() as conn:
        await Outbox(is_on=False).tell(conn, [event(1)])
    assert await waiting(pool) == []


async def test_a_fact_that_is_told_again_waits_once(pool: Pool) -> None:
    await tell(pool, event(1), event(2))
    await tell(pool, event(1))
    assert await waiting(pool) == [event(1), event(2)]


async def test_nothing_is_taken_that_an_earlier_transaction_could_still_precede(pool: Pool) -> None:
    """Whoever began earlier may commit an earlier position: what comes after it must not leave before it."""
    async with pool.connection() as early:
        async with early.transaction():
            await Outbox(is_on=True).tell(early, [event(1)])
            await tell(pool, event(2))
            assert await waiting(pool) == []
        assert await waiting(pool) == [event(1), event(2)]


async def test_one_publishes_at_a_time(pool: Pool) -> None:
    await tell(pool, event(1))
    async with pool.connection() as first, pool.connection() as second:
        async with first.transaction():
            assert await take(first, 10) == [event(1)]
            async with second.transaction():
                assert await take(second, 10) is None
            await finish(first, [event(1)])
        async with second.transaction():
            assert await take(second, 10) == []


async def test_what_was_taken_by_somebody_who_died_is_taken_again(pool: Pool) -> None:
    await tell(pool, event(1), event(2))
    async with pool.connection() as conn, conn.transaction(force_rollback=True):
        taken = await take(conn, 1)
        assert taken == [event(1)]
        await finish(conn, taken)
    assert await waiting(pool) == [event(1), event(2)]


def large(size: int) -> Event:
    return event(1, note="x" * (size - len('{"note":""}')))


async def test_the_data_of_an_event_has_an_end(pool: Pool) -> None:
    await tell(pool, large(MAX_DATA_BYTES))
    with pytest.raises(TooLarge, match=r"^data of an event must have at most 65536 bytes; account.changed has 65537$"):
        await tell(pool, large(MAX_DATA_BYTES + 1))


async def test_the_lag_is_the_age_of_the_oldest(pool: Pool) -> None:
    async with pool.connection() as conn:
        assert await lag(conn, AT) == Lag(0, 0)
        await tell(pool, event(1), event(2))
        assert await lag(conn, AT + timedelta(minutes=2)) == Lag(2, 120)
        assert await lag(conn, AT - timedelta(minutes=2)) == Lag(2, 0)
