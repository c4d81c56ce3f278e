"""What the compliance desk orders through the broker: agents to be blocked and unblocked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final
from uuid import UUID

import aio_pika
import aiormq
import msgspec
import psycopg
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from psycopg import AsyncConnection
from psycopg_pool import PoolTimeout, TooManyRequests

from tallystick.database.pool import Pool
from tallystick.kernel.errors import InvalidInput, NotFound, Unavailable
from tallystick.outbox.accounts import Accounts
from tallystick.outbox.broker import declare_topic

ORDERS: Final = "topic_compliance"
"""The exchange of the orders; like the account management's, it does not survive the broker."""

BLOCK: Final = "block.agent"
UNBLOCK: Final = "unblock.agent"
"""Their routing keys. The queue of each is named after it."""

DEAD: Final = "tallystick.dead"
"""The exchange, and the queue, of messages that nobody could carry out."""

MAX_BODY_BYTES: Final = 4096
"""Longest body of an order."""

PREFETCH: Final = 20
"""Orders that the broker hands over before the first of them is acknowledged."""

LISTEN_SECONDS: Final = 0.5
"""How soon a lost connection, or the end, is noticed while nothing comes."""

CONFIRM_SECONDS: Final = 30
"""How long the broker may take to keep a dead message."""

_PASSING = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, TooManyRequests, Unavailable)
"""What is no fault of an order: it stays with the broker, and is tried again."""

_log = structlog.get_logger()

_Order = Callable[[AsyncConnection, UUID], Awaitable[object]]
_Inbox = asyncio.Queue[tuple[str, AbstractIncomingMessage]]


class Compliance:
    """Carries out orders, one after the other, each in a transaction of its own that ends before it is acknowledged.

    An order that comes again changes nothing. One that cannot be read ends in ``DEAD``, with the reason.
    """

    def __init__(self, pool: Pool, accounts: Accounts) -> None:
        self._pool = pool
        self._orders: dict[str, _Order] = {BLOCK: accounts.block, UNBLOCK: accounts.unblock}

    async def work(self, connection: AbstractConnection, stopping: asyncio.Event) -> None:
        """Carries out orders until it is told to stop. Raises when the broker or the database is lost."""
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        dead = await _declare_dead(channel)
        inbox: _Inbox = asyncio.Queue()
        gone = await self._listen(connection, channel, inbox)
        while not stopping.is_set():
            if channel.is_closed or gone.is_set():
                raise ConnectionResetError
            try:
                async with asyncio.timeout(LISTEN_SECONDS):
                    routing_key, message = await inbox.get()
            except TimeoutError:
                continue
            await self._handle(routing_key, message, dead)

    async def _listen(self, connection: AbstractConnection, channel: AbstractChannel, inbox: _Inbox) -> asyncio.Event:
        """Has orders put into the inbox; the event is set if the broker takes a queue away."""
        gone = asyncio.Event()
        await declare_topic(connection, ORDERS, durable=False)
        await channel.set_qos(prefetch_count=PREFETCH)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(partial(_set, gone))
        for routing_key in self._orders:
            queue = await channel.declare_queue(f"{routing_key}_queue", durable=True)
            await queue.bind(ORDERS, routing_key)
            await queue.consume(partial(_put, inbox, routing_key))
        return gone

    async def _handle(self, routing_key: str, message: AbstractIncomingMessage, dead: AbstractExchange) -> None:
        try:
            agent_id = read_id(message.body)
            async with self._pool.connection() as conn, conn.transaction():
                await self._orders[routing_key](conn, agent_id)
        except NotFound:
            _log.warning("compliance.unknown_agent", order=routing_key, agent=str(agent_id))
        except _PASSING:
            raise
        except InvalidInput as error:
            await _bury(dead, routing_key, message, error.detail)
        except Exception as error:  # it would come again for ever, and keep all others waiting
            _log.exception("compliance.failed", order=routing_key, error=type(error).__name__)
            await _bury(dead, routing_key, message, f"it failed: {type(error).__name__}")
        else:
            _log.info("compliance.done", order=routing_key, agent=str(agent_id))
        await message.ack()


def read_id(body: bytes) -> UUID:
    """The agent that an order is about: its id, bare, as a JSON string, or as ``id`` of a JSON object.

    Raises ``InvalidInput``.
    """
    if len(body) > MAX_BODY_BYTES:
        raise InvalidInput(f"an order must have at most {MAX_BODY_BYTES} bytes, this one has {len(body)}")
    try:
        text = _read_json(body) if body.lstrip()[:1] in (b"{", b'"') else body.decode().strip()
        return UUID(text)
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput('an order must be the id of an agent: bare, as a JSON string, or {"id": ...}') from None


def _read_json(body: bytes) -> Any:
    read = msgspec.json.decode(body)
    return read.get("id") if isinstance(read, dict) else read


async def _declare_dead(channel: AbstractChannel) -> AbstractExchange:
    exchange = await channel.declare_exchange(DEAD, aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(DEAD, durable=True)
    await queue.bind(exchange, "#")
    return exchange


async def _bury(dead: AbstractExchange, routing_key: str, message: AbstractIncomingMessage, reason: str) -> None:
    """Keeps a message as it came, with the reason why. Raises if the broker does not take it."""
    _log.warning("compliance.dead", order=routing_key, reason=reason)
    kept = aio_pika.Message(
        message.body,
        content_type=message.content_type,
        message_id=message.message_id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers={"reason": reason, "exchange": message.exchange or "", "routing-key": message.routing_key or ""},
    )
    await dead.publish(kept, routing_key, mandatory=True, timeout=CONFIRM_SECONDS)


async def _put(inbox: _Inbox, routing_key: str, message: AbstractIncomingMessage) -> None:
    inbox.put_nowait((routing_key, message))


def _set(gone: asyncio.Event, _: aiormq.spec.Basic.Cancel) -> None:
    gone.set()
