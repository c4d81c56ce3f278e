"""Usage that comes through the broker: CloudEvents, through the same intake as everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from aio_pika.abc import AbstractConnection

from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import InvalidInput, Overloaded, TooLarge
from tallystick.metering.model import Batch
from tallystick.metering.service import IntakeQueue
from tallystick.metering.sources import cloud_events
from tallystick.outbox.inbox import PASSING, Handed, Inbox

USAGE: Final = "tallystick.usage"
"""The queue; also the routing key of its messages among the dead."""

MAX_BODY_BYTES: Final = 1 << 20
"""Longest body of a message: some 4,000 events. The broker hands over many, whatever their size."""

AT_ONCE: Final = 250
"""Messages that are recorded, and then acknowledged, together."""

PREFETCH: Final = 2 * AT_ONCE
"""Messages that the broker hands over before the first of them is acknowledged: the next ones come meanwhile."""

PREFIXES: Final = ("cloudEvents:", "cloudEvents_", "ce-")
"""What attributes of an event in binary mode begin with, as headers: by the AMQP binding of CloudEvents 1.0 (3.1.3.1),
and as it is done with HTTP."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_log = structlog.get_logger()


class Usage:
    """Records messages together, in few transactions, and acknowledges them afterwards.

    What comes again counts once. A message of which nothing can be read ends among the dead, with the reason; of others
    single events that cannot be read are in quarantine, as if they had come over HTTP.
    """

    def __init__(self, intake: IntakeQueue, clock: Clock) -> None:
        self._intake = intake
        self._clock = clock

    async def work(self, connection: AbstractConnection, stopping: asyncio.Event) -> None:
        """Records usage until it is told to stop. Raises when the broker or the database is lost."""
        inbox = await Inbox.open(connection, PREFETCH)
        await inbox.consume(USAGE)
        while some := await inbox.some(AT_ONCE, stopping):
            await self._record(some, inbox)
            await inbox.acknowledge(some)

    async def _record(self, some: Sequence[Handed], inbox: Inbox) -> None:
        """Returns once all of it is durable and charged, or buried. Raises what is no fault of a message."""
        async with asyncio.TaskGroup() as taking:
            tasks = [taking.create_task(self._take(handed)) for handed in some]
        for handed, task in zip(some, tasks, strict=True):
            if (reason := task.result()) is not None:
                await inbox.bury(handed, USAGE, reason)

    async def _take(self, message: Handed) -> str | None:
        """Records a message; why it cannot be, if so."""
        try:
            await self._submit(self._read(message))
        except PASSING:
            raise
        except (InvalidInput, TooLarge) as error:
            return error.detail
        except Exception as error:  # it would come again for ever, and keep all others waiting
            _log.exception("usage.failed", error=type(error).__name__)
            return f"it failed: {type(error).__name__}"
        return None

    async def _submit(self, batch: Batch) -> None:
        """However much waits already: the broker keeps what comes meanwhile."""
        while True:
            try:
                await self._intake.submit(batch)
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_seconds)
            else:
                return

    def _read(self, message: Handed) -> Batch:
        """What a message says. Raises ``InvalidInput``, ``TooLarge`` if that is nothing."""
        if len(message.body) > MAX_BODY_BYTES:
            raise TooLarge(f"a message must have at most {MAX_BODY_BYTES} bytes, this one has {len(message.body)}")
        batch = read(message, self._clock.now())
        if batch.unreadable and not batch.measurements:
            raise InvalidInput(batch.unreadable[0].detail)
        return batch


def read(message: Handed, received_at: datetime) -> Batch:
    """The events of a message in structured, batched or binary content mode, or plain JSON, as the intake takes them.

    Raises ``InvalidInput`` for an attribute that is none, ``TooLarge`` as ``cloud_events.read`` does.
    """
    attributes = _attributes(message.headers)
    if "specversion" in attributes and not message.content_type.lower().startswith("application/cloudevents"):
        return cloud_events.read_attributes(attributes, message.body, received_at)
    return cloud_events.read(message.body, message.content_type, received_at)


def _attributes(headers: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of an event among the headers of a message."""
    return {
        name.removeprefix(prefix): _canonical(name.removeprefix(prefix), value)
        for name, value in headers.items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }


def _canonical(name: str, value: Any) -> str:
    """The text of an attribute whatever type of AMQP it has: a time may be milliseconds since 1970."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")  # what is not UTF-8 is refused as a text
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and name == "time":
        return _instant(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise InvalidInput(f"{name} must be a text, a number or a time")


def _instant(milliseconds: int) -> str:
    try:
        return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat()
    except OverflowError:
        raise InvalidInput("time must be a text, or milliseconds since 1970, and before the year 10000") from None
