"""Delivers what was promised to TigerBeetle: a task in every process, of which one at a time has something to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import structlog

from tallystick.database.pool import open_pool
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import NIL
from tallystick.ledger.contract import LedgerUnavailable
from tallystick.ledger.tigerbeetle.client import TigerBeetleClient
from tallystick.ledger.tigerbeetle.engine import TigerBeetleLedger
from tallystick.ledger.tigerbeetle.promises import CHANNEL

POLL_SECONDS = 2.0
"""How long something may lie that nobody has told of: an intent whose caller died, or what another process left."""

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
"""How long to wait, at most, before TigerBeetle or the database is tried again after it was away."""

TIMEOUT_SECONDS = 10
"""How long TigerBeetle may take for an answer."""

OWN_CONNECTIONS = 3
"""Of the ledger's own pool: one delivers, the others note intents and look whether promises wait."""

_log = structlog.get_logger()


@asynccontextmanager
async def open_tigerbeetle_ledger(
    url: str, clock: Clock, cluster_id: int, addresses: str
) -> AsyncIterator[TigerBeetleLedger]:
    """The engine on that cluster, with its journal in the database at ``url``, and delivering.

    The cluster need not be there: then nothing can be posted, and promises wait. Raises ``InvalidInput`` if the
    addresses cannot be read.
    """
    client = TigerBeetleClient(cluster_id, addresses, timeout_seconds=TIMEOUT_SECONDS)
    pool = await open_pool(url, size=OWN_CONNECTIONS)
    ledger = TigerBeetleLedger(client, pool, clock)
    delivery = Delivery(url, ledger)
    try:
        await delivery.start()
        yield ledger
    finally:
        await delivery.stop()
        await client.close()
        await pool.close()


class Delivery:
    """Delivers as soon as PostgreSQL tells that something was promised, and looks after it now and then anyway."""

    def __init__(self, url: str, ledger: TigerBeetleLedger) -> None:
        self._url = url
        self._ledger = ledger
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts to deliver in the background."""
        self._task = asyncio.create_task(self._run(), name="ledger-delivery")

    async def stop(self) -> None:
        """Ends. What is under way is taken back, and delivered by whoever comes next."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            try:
                connect = psycopg.AsyncConnection.connect(self._url, autocommit=True, connect_timeout=10)
                async with await connect as listening:
                    await listening.execute(f"listen {CHANNEL}")
                    await self._ledger.client.lookup_accounts([NIL])  # whether it is there should be known at once
                    while True:
                        await self._deliver_all()
                        pause_seconds = FIRST_PAUSE_SECONDS
                        async for _ in listening.notifies(timeout=POLL_SECONDS, stop_after=1):
                            pass
            except LedgerUnavailable as error:
                _log.warning("ledger.delivery_waits", reason=error.detail)
            except Exception as error:  # whatever it is, what was promised must be tried again
                _log.exception("ledger.delivery_failed", error=type(error).__name__)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
            await self._ledger.client.until_back()

    async def _deliver_all(self) -> None:
        while await self._ledger.deliver():
            pass
        await self._ledger.tidy()
