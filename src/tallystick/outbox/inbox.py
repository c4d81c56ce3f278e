"""What the broker hands over: messages of some queues, and the place of those that nobody can do anything with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

import aio_pika
import aiormq
import psycopg
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq.abc import DeliveredMessage
from psycopg_pool import PoolTimeout, TooManyRequests

from tallystick.kernel.errors import Overloaded, Unavailable

DEAD: Final = "tallystick.dead"
"""The exchange, and the queue, of messages that nobody can do anything with."""

LISTEN_SECONDS: Final = 0.5
"""How soon a lost connection, or the end, is noticed while nothing comes."""

CONFIRM_SECONDS: Final = 30
"""How long the broker may take to keep a dead message."""

PASSING = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, TooManyRequests, Unavailable, Overloaded)
"""What is no fault of a message: it stays with the broker, and is tried again."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Handed:
    """A message, the queue that it was in, and the broker's name for having handed it over."""

    queue: str
    tag: int
    exchange: str
    routing_key: str
    content_type: str
    headers: Mapping[str, Any]
    message_id: str | None
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, queue: str, message: DeliveredMessage) -> Handed:
        properties = message.header.properties
        return cls(
            queue,
            message.delivery_tag or 0,
            message.exchange or "",
            message.routing_key or "",
            properties.content_type or "",
            properties.headers or {},
            properties.message_id,
            message.body,
        )


class Inbox:
    """Messages in the order in which they were handed over; each stays the broker's until it is acknowledged."""

    def __init__(
        self,
        connection: AbstractConnection,
        channel: AbstractChannel,
        receiving: aiormq.Channel,
        dead: AbstractExchange,
    ) -> None:
        """Inboxes are opened by ``open``. ``receiving`` is the same channel, at less cost for each message."""
        self._connection = connection
        self._channel = channel
        self._receiving = receiving
        self._dead = dead
        self._waiting: asyncio.Queue[Handed] = asyncio.Queue()
        self._gone = asyncio.Event()

    @classmethod
    async def open(cls, connection: AbstractConnection, prefetch: int) -> Inbox:
        """An inbox that gets at most ``prefetch`` messages before the first of them is acknowledged."""
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        dead = await channel.declare_exchange(DEAD, aio_pika.ExchangeType.TOPIC, durable=True)
        await (await channel.declare_queue(DEAD, durable=True)).bind(dead, "#")
        await channel.set_qos(prefetch_count=prefetch)
        receiving = cast(aiormq.Channel, await channel.get_underlay_channel())
        inbox = cls(connection, channel, receiving, dead)
        receiving.on_consumer_cancel_callbacks.add(inbox._cancelled)
        return inbox

    async def consume(self, name: str, exchange: str | None = None, routing_key: str = "") -> None:
        """Has the messages of a durable queue handed over, which is made unless there is one.

        One that somebody made with other properties serves as well. It is bound to ``exchange`` if that is given.
        """
        await self._declare(name)
        queue = await self._channel.declare_queue(name, passive=True)
        if exchange is not None:
            await queue.bind(exchange, routing_key)
        await self._receiving.basic_consume(name, partial(self._put, name))

    async def some(self, limit: int, stopping: asyncio.Event) -> list[Handed]:
        """The next messages, at most ``limit``: those that are there, or else the first that comes.

        None once it is told to stop. Raises when the connection is lost, or the broker has taken a queue away.
        """
        while not stopping.is_set():
            if self._channel.is_closed or self._gone.is_set():
                raise ConnectionResetError
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LISTEN_SECONDS):
                    first = await self._waiting.get()
                rest = min(limit - 1, self._waiting.qsize())
                return [first, *(self._waiting.get_nowait() for _ in range(rest))]
        return []

    async def acknowledge(self, done: Iterable[Handed]) -> None:
        """The broker need not keep these any longer."""
        for handed in done:
            await self._receiving.basic_ack(handed.tag, wait=False)

    async def bury(self, handed: Handed, routing_key: str, reason: str) -> None:
        """Keeps a message as it came among the dead, with the reason why. Raises if the broker does not take it."""
        _log.warning("broker.dead", queue=handed.queue)  # the reason may quote what it says
        origin = {"reason": reason, "exchange": handed.exchange, "routing-key": handed.routing_key}
        kept = aio_pika.Message(
            handed.body,
            content_type=handed.content_type or None,
            message_id=handed.message_id,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            headers={**handed.headers, **origin},
        )
        await self._dead.publish(kept, routing_key, mandatory=True, timeout=CONFIRM_SECONDS)

    async def _declare(self, name: str) -> None:
        """On a channel of its own, which a refusal closes."""
        channel = await self._connection.channel()
        try:
            await channel.declare_queue(name, durable=True)
        except ChannelPreconditionFailed:
            _log.warning("broker.queue_differs", queue=name)
        finally:
            with contextlib.suppress(Exception):  # a refusal has closed it
                await channel.close()

    async def _put(self, queue: str, message: DeliveredMessage) -> None:
        self._waiting.put_nowait(Handed.of(queue, message))

    def _cancelled(self, _: aiormq.spec.Basic.Cancel) -> None:
        self._gone.set()
