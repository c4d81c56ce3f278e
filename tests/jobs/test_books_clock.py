"""By which clock books live, and who is refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tallystick.database.pool import Pool
from tallystick.jobs.books_clock import (
    ClockInUse,
    OtherClock,
    hurried,
    moving_clock,
    refuse_standing,
    standing_clock,
)
from tallystick.jobs.timetable import Timetable
from tallystick.kernel.clock import Clock, SystemClock, TestClock
from tallystick.kernel.errors import Unavailable
from tests.jobs.conftest import NEW_YORK
from tests.waiting import until_waiting

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


async def standing(pool: Pool) -> Clock:
    async with pool.connection() as conn:
        return await standing_clock(conn)


async def test_books_opened_by_the_machines_clock_stay_with_it(pool: Pool, database_url: str) -> None:
    for _ in range(2):
        clock = await standing(pool)
        assert isinstance(clock, SystemClock)
        refuse_standing(clock)
    with pytest.raises(OtherClock, match="these books live by the machine's clock"):
        async with moving_clock(database_url, BEGIN):
            pass


async def test_a_test_clock_goes_on_where_it_stood(pool: Pool, database_url: str) -> None:
    async with moving_clock(database_url, BEGIN) as clock:
        assert clock.now() == BEGIN
        async with pool.connection() as conn:
            await Timetable([], NEW_YORK).carry_out(conn, BEGIN + timedelta(days=40))
    for said in (BEGIN, BEGIN + timedelta(days=90)):  # the option says where new books begin
        async with moving_clock(database_url, said) as clock:
            assert clock.now() == BEGIN + timedelta(days=40)
            assert clock.now().tzinfo is UTC
    found = await standing(pool)
    assert found.now() == BEGIN + timedelta(days=40)
    with pytest.raises(OtherClock, match="a test clock, which stands at 2026-02-10T00:00:00"):
        refuse_standing(found)


async def test_the_database_never_goes_back(pool: Pool, database_url: str) -> None:
    async with moving_clock(database_url, BEGIN), pool.connection() as conn:
        await Timetable([], NEW_YORK).carry_out(conn, BEGIN - timedelta(days=1))
    assert (await standing(pool)).now() == BEGIN


async def test_one_service_moves_it(database_url: str) -> None:
    async with moving_clock(database_url, BEGIN):
        with pytest.raises(ClockInUse, match="another service runs on these books"):
            async with moving_clock(database_url, BEGIN):
                pass
    async with moving_clock(database_url, BEGIN) as clock:
        assert isinstance(clock, TestClock)


async def test_the_first_one_decides(pool: Pool, database_url: str) -> None:
    """Somebody else's first line is seen even if our statement began before it was committed."""
    async with (
        await psycopg.AsyncConnection.connect(database_url) as other,
        pool.connection() as conn,
    ):
        await other.execute("insert into books_clock (kind, stands_at) values ('test', %s)", (BEGIN,))
        waiting = asyncio.create_task(standing_clock(conn))
        await until_waiting(other, conn)
        await other.commit()
        assert (await waiting).now() == BEGIN


async def test_a_database_that_is_away_is_said(database_url: str) -> None:
    with pytest.raises(Unavailable):
        async with moving_clock(database_url.replace("/tally_", "/none_"), BEGIN):
            pass


async def test_a_rehearsal_does_not_wait_for_the_disk(database_url: str) -> None:
    async def setting(url: str, name: str) -> object:
        async with await psycopg.AsyncConnection.connect(url) as conn:
            return await (await conn.execute("select current_setting(%s)", (name,))).fetchone()

    own = make_conninfo(database_url, options="-c work_mem=5MB")
    assert await setting(own, "synchronous_commit") == ("on",)
    assert await setting(hurried(database_url), "synchronous_commit") == ("off",)
    assert await setting(hurried(own), "synchronous_commit") == ("off",)
    assert await setting(hurried(own), "work_mem") == ("5MB",)
