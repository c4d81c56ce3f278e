"""What the compliance desk orders through the broker: agents to be blocked and unblocked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from aio_pika.abc import AbstractConnection
from psycopg import AsyncConnection

from tallystick.database.pool import Pool
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.outbox.accounts import Accounts
from tallystick.outbox.broker import declare_topic
from tallystick.outbox.inbox import PASSING, Handed, Inbox

ORDERS: Final = "topic_compliance"
"""The exchange of the orders; like the account management's, it does not survive the broker."""

BLOCK: Final = "block.agent"
UNBLOCK: Final = "unblock.agent"
"""Their routing keys. The queue of each is named after it."""

MAX_BODY_BYTES: Final = 4096
"""Longest body of an order."""

PREFETCH: Final = 20
"""Orders that the broker hands over before the first of them is acknowledged."""

_log = structlog.get_logger()

_Order = Callable[[AsyncConnection, UUID], Awaitable[object]]


class Compliance:
    """Carries out orders, one after the other, each in a transaction of its own that ends before it is acknowledged.

    An order that comes again changes nothing. One that cannot be read ends in ``DEAD``, with the reason.
    """

    def __init__(self, pool: Pool, accounts: Accounts) -> None:
        self._pool = pool
        self._orders: dict[str, _Order] = {BLOCK: accounts.block, UNBLOCK: accounts.unblock}

    async def work(self, connection: AbstractConnection, stopping: asyncio.Event) -> None:
        """Carries out orders until it is told to stop. Raises when the broker or the database is lost."""
        inbox = await Inbox.open(connection, PREFETCH)
        await declare_topic(connection, ORDERS, durable=False)
        for order in self._orders:
            await inbox.consume(f"{order}_queue", ORDERS, order)
        while some := await inbox.some(1, stopping):
            await self._handle(some[0], inbox)

    async def _handle(self, handed: Handed, inbox: Inbox) -> None:
        order = handed.queue.removesuffix("_queue")
        try:
            agent_id = read_id(handed.body)
            async with self._pool.connection() as conn, conn.transaction():
                await self._orders[order](conn, agent_id)
        except NotFound:
            _log.warning("compliance.unknown_agent", order=order, agent=str(agent_id))
        except PASSING:
            raise
        except InvalidInput as error:
            await inbox.bury(handed, order, error.detail)
        except Exception as error:  # it would come again for ever, and keep all others waiting
            _log.exception("compliance.failed", order=order, error=type(error).__name__)
            await inbox.bury(handed, order, f"it failed: {type(error).__name__}")
        else:
            _log.info("compliance.done", order=order, agent=str(agent_id))
        await inbox.acknowledge([handed])


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
