"""Publishing many messages, in order: few writes to the broker, and done when it has confirmed every message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import aiormq
from aiormq.abc import ChannelFrame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from tallystick.outbox.messages import Outgoing

AT_ONCE: Final = 50
"""Messages of one write: the broker works on them while the next ones are encoded."""

PERSISTENT: Final = 2
"""The delivery mode of messages that a broker keeps on disk."""

_Frame: TypeAlias = aiormq.spec.Basic.Publish | ContentHeader | ContentBody


async def publish(channel: aiormq.Channel, messages: Sequence[Outgoing]) -> None:
    """Returns once the broker has all of them, whether anybody listens or not.

    Raises ``DeliveryError`` if it refuses one, and when the connection is lost; any of them may have arrived then, and
    the channel is of no more use. It must be one that confirms. (Its own ``basic_publish`` does the same for one
    message, in a task and a write of its own, which costs more than twice as much.)
    """
    confirmations: list[asyncio.Future[object]] = []
    async with channel.lock:
        for start in range(0, len(messages), AT_ONCE):
            some = messages[start : start + AT_ONCE]
            confirmations += [_expected(channel) for _ in some]
            frames = [frame for message in some for frame in _frames(message, channel.max_content_size)]
            await channel.write_queue.put(ChannelFrame.marshall(channel.number, frames))
            await asyncio.sleep(0)  # has it written
    await asyncio.gather(*confirmations)


def _expected(channel: aiormq.Channel) -> asyncio.Future[object]:
    """Is done when the broker confirms the next message that is written to the channel."""
    channel.delivery_tag += 1
    channel.confirmations[channel.delivery_tag] = confirmation = channel.create_future()
    return confirmation


def _frames(message: Outgoing, size: int) -> Iterable[_Frame]:
    """A message as AMQP sends it; frames of its body have at most ``size`` bytes."""
    yield aiormq.spec.Basic.Publish(exchange=message.exchange, routing_key=message.routing_key)
    yield ContentHeader(
        body_size=len(message.body),
        properties=aiormq.spec.Basic.Properties(
            content_type=message.content_type,
            content_encoding="utf-8",
            delivery_mode=PERSISTENT,
            message_id=str(message.event.id),
            timestamp=message.event.at,
            message_type=message.event.type,
            app_id="tallystick",
        ),
    )
    for start in range(0, len(message.body), size):
        yield ContentBody(message.body[start : start + size])
