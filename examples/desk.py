"""What every desk does: hears events from a queue of its own, each once, and again what it did not finish."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aio_pika

URL = os.environ.get("CLOUDAMQP_URL", "amqp://localhost/")
EVENTS = "tallystick.events"
REMEMBERED = 10_000
"""So many ids are remembered, to know what comes twice."""

Event = dict[str, Any]


async def hear(name: str, bindings: list[str], handle: Callable[[Event], None]) -> None:
    """Has the events that fit one of the bindings handled, for ever. ``name`` is the queue's."""
    connection = await aio_pika.connect_robust(URL)  # comes back when the broker does
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        exchange = await channel.declare_exchange(EVENTS, aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(name, durable=True)
        for binding in bindings:
            await queue.bind(exchange, binding)
        print(f"{name} listens to {', '.join(bindings)}", flush=True)
        seen: dict[str, None] = {}
        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process(requeue=True):  # acknowledges it, unless handling it fails
                    event = json.loads(message.body)
                    if event["id"] not in seen:
                        handle(event)
                        seen[event["id"]] = None
                        if len(seen) > REMEMBERED:
                            del seen[next(iter(seen))]


def run(name: str, bindings: list[str], handle: Callable[[Event], None]) -> None:
    """Hears until somebody presses Ctrl-C."""
    with suppress(KeyboardInterrupt):
        asyncio.run(hear(name, bindings, handle))
