"""Takes events to webhooks: many endpoints beside each other, each of them within its share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from tallystick.database.pool import Pool
from tallystick.outbox.webhooks import queue
from tallystick.outbox.webhooks.queue import Claimed, Outcome
from tallystick.outbox.webhooks.service import Webhooks

if TYPE_CHECKING:
    from tallystick.outbox.webhooks.sender import Sender

POLL_SECONDS: Final = 0.5
"""How long an event may lie while there is nothing else to do."""

STOP_SECONDS: Final = 10
"""How long attempts under way may take once we are told to stop; what takes longer is tried again elsewhere."""

NOTE_ATTEMPTS: Final = 5
"""How often it is tried to note how an attempt went. In vain, it counts as one that came to nothing."""

_log = structlog.get_logger("tallystick.outbox")


@dataclass(frozen=True, slots=True)
class Lane:
    """So many attempts are under way at a time, and so many at one endpoint."""

    failing: bool
    at_once: int
    per_endpoint: int


LANES: Final = (Lane(failing=False, at_once=40, per_endpoint=5), Lane(failing=True, at_once=10, per_endpoint=1))
"""Endpoints that have failed last have a lane of their own: however many time out, they keep nobody else waiting."""

CONNECTIONS: Final = sum(lane.at_once for lane in LANES)


@asynccontextmanager
async def delivering(pool: Pool, webhooks: Webhooks) -> AsyncIterator[None]:
    """Meanwhile endpoints are told."""
    # It loads a client of HTTP, which others can do without.
    from tallystick.outbox.webhooks.sender import Sender

    async with Sender.opened(webhooks.territory, CONNECTIONS) as sender, Courier(pool, webhooks).running(sender):
        yield


class Courier:
    """Delivers in the background of a process. Several do so beside each other: what one has claimed is its own."""

    def __init__(self, pool: Pool, webhooks: Webhooks) -> None:
        self._pool = pool
        self._webhooks = webhooks

    @asynccontextmanager
    async def running(self, sender: Sender) -> AsyncIterator[None]:
        """Delivers meanwhile. At the end, what is under way is finished."""
        stopping = asyncio.Event()
        tasks = [asyncio.create_task(self._keep(lane, sender, stopping), name="webhooks") for lane in LANES]
        try:
            yield
        finally:
            stopping.set()
            await asyncio.gather(*tasks)

    async def _keep(self, lane: Lane, sender: Sender, stopping: asyncio.Event) -> None:
        """Claims and sends until it is told to stop, and for a while until all has been answered."""
        under_way: dict[asyncio.Task[None], UUID] = {}
        one_done = asyncio.Event()

        def done(task: asyncio.Task[None]) -> None:
            del under_way[task]
            one_done.set()

        while not stopping.is_set():
            one_done.clear()
            claimed = await self._claim(lane, Counter(under_way.values()))
            for each in claimed:
                task = asyncio.create_task(self._deliver(each, sender))
                under_way[task] = each.endpoint_id
                task.add_done_callback(done)
            if not claimed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await one_done.wait()
        await _end(list(under_way))

    async def _claim(self, lane: Lane, busy: Counter[UUID]) -> list[Claimed]:
        free = lane.at_once - busy.total()
        if not free or not self._webhooks.exist:
            return []
        full = [endpoint_id for endpoint_id, count in busy.items() if count >= lane.per_endpoint]
        try:
            async with self._pool.connection() as conn:
                return await queue.claim(conn, free, failing=lane.failing, full=full)
        except Exception as error:  # the database is away; nothing else keeps us from asking again
            _log.warning("webhook.not_claimed", error=type(error).__name__)
            return []

    async def _deliver(self, claimed: Claimed, sender: Sender) -> None:
        outcome = await sender.send(claimed)
        say, what = (_log.debug, "webhook.delivered") if outcome.error is None else (_log.info, "webhook.failed")
        say(
            what,
            endpoint=str(claimed.endpoint_id),
            id=str(claimed.event_id),
            type=claimed.type,
            attempt=claimed.attempt,
            status=outcome.status,
            duration_ms=outcome.duration_ms,
            error=outcome.error,
        )
        await self._note(claimed, outcome)

    async def _note(self, claimed: Claimed, outcome: Outcome) -> None:
        for attempt in range(1, NOTE_ATTEMPTS + 1):
            try:
                async with self._pool.connection() as conn, conn.pipeline(), conn.transaction():
                    await self._webhooks.note(conn, claimed, outcome)
                return
            except Exception as error:
                _log.warning("webhook.not_noted", id=str(claimed.event_id), attempt=attempt, error=type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)


async def _end(under_way: list[asyncio.Task[None]]) -> None:
    """Waits for them, but not for ever."""
    if under_way:
        _, late = await asyncio.wait(under_way, timeout=STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
