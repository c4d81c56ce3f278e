"""By which clock these books live: the machine's, or a test clock that stands still until it is moved.

Books keep the clock of whoever opened them first. Time that ran backwards, or jumped between two clocks, would tear
holes into months, grants and the order of the ledger; so whoever comes with another clock is refused. A rehearsal has
books of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import psycopg
import structlog
from psycopg import conninfo

from tallystick.database.pool import CONNECT_TIMEOUT_SECONDS, Connection, unreachable
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock, SystemClock, TestClock
from tallystick.kernel.errors import Conflict, TallyError

MACHINE = "machine"
TEST = "test"

LOCK = {"space": 7415, "number": 1}
"""The advisory lock of the one service that may move the test clock."""

_SQL = Queries(Path(__file__).with_name("queries.sql"))
_log = structlog.get_logger()


class OtherClock(Conflict):
    """These books live by another clock than the one they were to be opened with."""

    code = "other_clock"


class ClockInUse(TallyError):
    """Another service runs on these books, and moves their test clock."""

    code = "clock_in_use"
    status = 503


async def standing_clock(conn: Connection) -> Clock:
    """The clock of these books, for whoever will not move it: the machine's, or one that stands where theirs does.

    Books that had none live by the machine's from now on.
    """
    kind, stands_at = await _clock_of(conn, MACHINE, None)
    return SystemClock() if kind == MACHINE else TestClock(stands_at)


@asynccontextmanager
async def moving_clock(url: str, begin: datetime) -> AsyncIterator[TestClock]:
    """The test clock of the books at ``url``, for the one service that moves it.

    New books begin at ``begin``; others go on where their clock stands, however often they are opened with the same
    words. Raises ``OtherClock`` if they live by the machine's clock, ``ClockInUse``.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS
        )
    except psycopg.Error as error:
        raise unreachable(url, error) from None
    async with connection as conn:  # the lock is the session's, and goes with it
        await conn.execute("SET TIME ZONE 'UTC'")
        (locked,) = await (await conn.execute(_SQL.own_clock, LOCK)).fetchone() or (False,)
        if not locked:
            raise ClockInUse("another service runs on these books, and moves their test clock")
        kind, stands_at = await _clock_of(conn, TEST, begin)
        if kind != TEST:
            raise OtherClock(
                "these books live by the machine's clock, which cannot be changed: rehearse with --clock on new ones, "
                "in another --data-dir",
                field="clock",
            )
        _log.info("test_clock.stands", at=stands_at.isoformat())
        yield TestClock(stands_at)


def hurried(url: str) -> str:
    """``url`` for sessions that do not wait for the disk: a rehearsal need not survive a power cut to the last moment.

    What a power cut takes back is taken back in order, so the books and their clock still agree.
    """
    options = str(conninfo.conninfo_to_dict(url).get("options") or "")
    return conninfo.make_conninfo(url, options=f"{options} -c synchronous_commit=off".strip())


def refuse_standing(clock: Clock) -> None:
    """Raises ``OtherClock`` if the books live by a test clock, which whoever asks has not come to move."""
    if isinstance(clock, TestClock):
        raise OtherClock(
            f"these books live by a test clock, which stands at {clock.now().isoformat()}: "
            "only tally serve --dev --clock runs on them",
            field="clock",
        )


async def _clock_of(conn: Connection, kind: str, stands_at: datetime | None) -> tuple[str, datetime]:
    """The kind of the books' clock and, if it is a test clock, where it stands; these if they had none."""
    cursor = await conn.execute(_SQL.books_clock, {"kind": kind, "stands_at": stands_at})
    row = await cursor.fetchone()
    if row is None:  # somebody else was first, just after our statement began
        return await _clock_of(conn, kind, stands_at)
    return row[0], row[1]
