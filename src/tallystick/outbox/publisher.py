"""Takes events to the broker: in order, one process at a time, and again until the broker has confirmed them."""

from __future__ import annotations

import asyncio
from typing import Final, cast

import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from tallystick.database.pool import Pool, open_pool
from tallystick.outbox.broker import declare_topic, pause
from tallystick.outbox.confirmed import publish
from tallystick.outbox.messages import EVENTS, ORIGINAL, messages
from tallystick.outbox.service import finish, take

AT_ONCE: Final = 500
"""Events of one transaction, confirmed together."""

POLL_SECONDS: Final = 0.2
"""How long an event may lie while there is nothing else to do. A notification would make all commits take turns."""

CONFIRM_SECONDS: Final = 30
"""How long the broker may take to confirm a batch; one that has run out of memory or disk takes nothing."""

EXCHANGES: Final = {EVENTS: True, ORIGINAL: False}
"""Where it publishes, and whether that survives the broker; the original never did, and its clients say so too."""

_log = structlog.get_logger()


class Publisher:
    """Publishes what waits in the outbox.

    A batch is one transaction: whoever publishes holds a lock, the broker confirms, the events are removed. Whoever
    dies between the last two leaves them to be published once more, under the same ids.
    """

    def __init__(self, url: str) -> None:
        """``url`` is the database's: a broker that is slow must not hold connections that requests wait for."""
        self._url = url

    async def work(self, connection: AbstractConnection, stopping: asyncio.Event) -> None:
        """Publishes until it is told to stop. Raises when the broker or the database is lost."""
        for name, durable in EXCHANGES.items():
            await declare_topic(connection, name, durable=durable)
        channel = await connection.channel(publisher_confirms=True)
        sending = cast(aiormq.Channel, await channel.get_underlay_channel())
        async with await open_pool(self._url, size=1) as pool:
            while not stopping.is_set():
                _check_open(channel)
                if await _publish_some(pool, sending) < AT_ONCE:
                    await pause(stopping, POLL_SECONDS)


async def _publish_some(pool: Pool, channel: aiormq.Channel) -> int:
    async with pool.connection() as conn, conn.transaction():
        events = await take(conn, AT_ONCE)
        if not events:
            return 0
        async with asyncio.timeout(CONFIRM_SECONDS):
            await publish(channel, [message for event in events for message in messages(event)])
        await finish(conn, events)
    _log.info("outbox.published", events=len(events))
    return len(events)


def _check_open(channel: AbstractChannel) -> None:
    """An exchange that does not survive the broker is missed by whoever comes back, even while nothing happens."""
    if channel.is_closed:
        raise ConnectionResetError
