"""What is done about notices in the background: sending, and looking at wallets.

``send-notices`` sends what is due; it is asked for as soon as something is. ``arm-notices`` looks at all wallets, after
a rule for all was defined. ``watch-balances`` looks at those that moved, where balances are kept by a ledger elsewhere.
``watch-spending`` looks by the hour at how fast wallets are used up, if a rule asks for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from tallystick.database.pool import Connection, Pool
from tallystick.database.queries import Queries
from tallystick.jobs.kinds import Kind, Run
from tallystick.jobs.queue import Jobs
from tallystick.kernel.clock import Clock
from tallystick.ledger.contract import Ledger
from tallystick.notices.office import MailServer
from tallystick.notices.service import Notices
from tallystick.notices.spending import Spending
from tallystick.notices.watch import BEGINNING, Place, Watch

SEND: Final = "send-notices"
ARM: Final = "arm-notices"
BALANCES: Final = "watch-balances"
SPENDING: Final = "watch-spending"

TIMEOUT_SECONDS: Final = 3_600
"""What has been sent or looked at by then stays so, and the next attempt begins anew."""

_SQL = Queries(Path(__file__).with_suffix(".sql"))

Look = Callable[[Connection, Ledger, Place], Awaitable[Place | None]]
"""Looks at the next wallets after a place."""


class NoticesDue:
    """Asks for ``send-notices`` when something is due, and once an hour for ``watch-spending``: see ``due.py``."""

    def __init__(self, jobs: Jobs, notices: Notices, spending: Spending) -> None:
        self._jobs = jobs
        self._notices = notices
        self._spending = spending

    async def run_due(self, conn: Connection, now: datetime, limit: int) -> int:
        """Puts jobs into the queue that are not there, one of each kind; how many."""
        asked = 0
        if await self._notices.any_due(conn, now):  # and stays so until they are sent
            asked += await self._ask(conn, SEND)
        if await self._spending.begins(conn, now):
            asked += await self._ask(conn, SPENDING)
        return asked

    async def next_due(self, conn: Connection, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which there is something to do, as things stand."""
        instants = [await self._notices.next_due(conn, after), await self._spending.next_begin(conn, after)]
        return min((instant for instant in instants if instant is not None), default=None)

    async def _ask(self, conn: Connection, name: str) -> int:
        ((is_there,),) = await (await conn.execute(_SQL.is_there, {"name": name})).fetchall()
        return 0 if is_there or await self._jobs.defer(conn, name, unique="due") is None else 1


class SendNotices:
    """The job ``send-notices``; without a mail server nothing is ever due."""

    def __init__(self, pool: Pool, clock: Clock, notices: Notices, server: MailServer | None) -> None:
        self._pool = pool
        self._clock = clock
        self._notices = notices
        self._server = server

    async def run(self, _: Run) -> None:
        """Sends until nothing is due, or the server is away."""
        if self._server is None:
            return
        # It loads a client of SMTP, which others can do without.
        from tallystick.notices.dispatch import Dispatch

        await Dispatch(self._pool, self._clock, self._notices, self._server).send_due()


class WatchWallets:
    """The jobs that look at wallets, some at a time, each time in a transaction of its own."""

    def __init__(self, pool: Pool, ledger: Ledger, watch: Watch, spending: Spending) -> None:
        self._pool = pool
        self._ledger = ledger
        self._watch = watch
        self._spending = spending

    async def arm(self, _: Run) -> None:
        """Looks at all wallets by the rules that there are now."""
        await self._walk(self._watch.look_at_next, locks=True)

    async def balances(self, _: Run) -> None:
        """Looks at the wallets that moved since the last time."""
        more = True
        while more:
            async with self._pool.connection() as conn, conn.transaction():
                await self._ledger.serialise(conn)
                more = await self._watch.follow(conn, self._ledger)

    async def spending(self, _: Run) -> None:
        """Looks at how fast wallets are used up."""
        await self._walk(self._spending.look_at_next, locks=False)

    async def _walk(self, look: Look, *, locks: bool) -> None:
        """Looks at all wallets; ``locks``: while nobody else moves money."""
        place: Place | None = BEGINNING
        while place is not None:
            async with self._pool.connection() as conn, conn.transaction():
                if locks:
                    await self._ledger.serialise(conn)
                place = await look(conn, self._ledger, place)


def notice_kinds(
    pool: Pool,
    clock: Clock,
    ledger: Ledger,
    watch: Watch,
    spending: Spending,
    notices: Notices,
    server: MailServer | None,
) -> list[Kind]:
    """All kinds of jobs about notices; without a ``server`` nothing is sent."""
    wallets = WatchWallets(pool, ledger, watch, spending)
    send = SendNotices(pool, clock, notices, server)
    works = {SEND: send.run, ARM: wallets.arm, BALANCES: wallets.balances, SPENDING: wallets.spending}
    return [Kind(name, work, timeout_seconds=TIMEOUT_SECONDS) for name, work in works.items()]
