from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
import structlog

from tallystick.database.pool import Connection, Pool
from tallystick.jobs.due import AT_ONCE, Dues
from tallystick.kernel.clock import TestClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Chores:
    """So many chores, kept in a table; the first run may break after doing its part."""

    def __init__(self, *, breaks: int = 0) -> None:
        self._breaks = breaks
        self.done = asyncio.Event()
        self.asked: list[datetime] = []

    async def run_due(self, conn: Connection, now: datetime, limit: int) -> int:
        self.asked.append(now)
        cursor = await conn.execute(
            "with mine as (select id from chores where not done and due_at <= %(now)s order by id limit %(limit)s"
            " for update skip locked) update chores as c set done = true from mine where c.id = mine.id",
            {"now": now, "limit": limit},
        )
        if self._breaks:
            self._breaks -= 1
            raise RuntimeError("the power went out")
        if cursor.rowcount:
            self.done.set()
        return cursor.rowcount

    async def next_due(self, conn: Connection, after: datetime) -> datetime | None:
        query = "select min(due_at) from chores where not done and due_at > %s"
        ((soonest,),) = await (await conn.execute(query, (after,))).fetchall()
        return soonest  # type: ignore[no-any-return]


@pytest.fixture
async def chores(pool: Pool) -> None:
    async with pool.connection() as conn:
        await conn.execute("create table chores (id serial, due_at timestamptz, done boolean not null default false)")


async def add(pool: Pool, number: int, due_at: datetime) -> None:
    async with pool.connection() as conn:
        await conn.execute("insert into chores (due_at) select %s from generate_series(1, %s)", (due_at, number))


async def left(pool: Pool) -> int:
    async with pool.connection() as conn:
        ((count,),) = await (await conn.execute("select count(*) from chores where not done")).fetchall()
    return int(count)


async def test_all_that_is_due_is_done_in_portions(pool: Pool, chores: None) -> None:
    await add(pool, 2 * AT_ONCE + 1, NOON)
    await add(pool, 3, NOON.replace(hour=13))
    due = Chores()
    dues = Dues(pool, TestClock(NOON), {"chores": due})
    assert await dues.run_due() == {"chores": 2 * AT_ONCE + 1}
    assert due.asked == [NOON] * 3
    assert await left(pool) == 3
    assert await dues.run_due() == {"chores": 0}


async def test_what_fails_is_taken_back_and_stops_no_other(pool: Pool, chores: None) -> None:
    await add(pool, 5, NOON)
    dues = Dues(pool, TestClock(NOON), {"broken": Chores(breaks=1), "sound": Chores()})
    with structlog.testing.capture_logs() as logs:
        assert await dues.run_due() == {"broken": 0, "sound": 5}
    assert [(log["event"], log["name"]) for log in logs] == [("due.failed", "broken"), ("due.ran", "sound")]


async def test_two_servers_share_the_work(pool: Pool, chores: None) -> None:
    await add(pool, 3 * AT_ONCE, NOON)
    servers = [Dues(pool, TestClock(NOON), {"chores": Chores()}) for _ in range(2)]
    done = await asyncio.gather(*(server.run_due() for server in servers))
    assert sum(each["chores"] for each in done) == 3 * AT_ONCE
    assert await left(pool) == 0


async def test_it_runs_by_itself_until_it_is_stopped(pool: Pool, chores: None) -> None:
    await add(pool, 1, NOON)
    due = Chores()
    dues = Dues(pool, TestClock(NOON), {"chores": due})
    async with dues.running():
        await due.done.wait()
    asked = len(due.asked)
    await add(pool, 1, NOON)
    await asyncio.sleep(0)
    assert len(due.asked) == asked
    assert await left(pool) == 1


async def test_it_knows_what_comes_next(pool: Pool, chores: None) -> None:
    dues = Dues(pool, TestClock(NOON), {"chores": Chores(), "others": Chores()})
    assert await dues.next_due(NOON) is None
    for hour in (12, 15, 13):
        await add(pool, 2, NOON.replace(hour=hour))
    assert await dues.next_due(NOON) == NOON.replace(hour=13)
    assert await dues.next_due(NOON.replace(hour=11)) == NOON
    assert await dues.next_due(NOON.replace(hour=15)) is None
