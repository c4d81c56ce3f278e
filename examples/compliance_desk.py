"""The compliance desk: hears of agents, and has one blocked or unblocked.

Usage: compliance_desk.py [block|unblock AGENT_ID]
"""

from __future__ import annotations

import asyncio
import sys

import aio_pika
from desk import URL, Event, run

ORDERS = "topic_compliance"


def handle(event: Event) -> None:
    kind, data = event["type"].removeprefix("tallystick."), event["data"]
    print(f"{kind} {data['id']} of {event['subject']}", flush=True)


async def order(verb: str, agent_id: str) -> None:
    """Asks for an agent to be blocked or unblocked, and returns once the broker has the order."""
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(ORDERS, aio_pika.ExchangeType.TOPIC, durable=False)
        message = aio_pika.Message(agent_id.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await exchange.publish(message, f"{verb}.agent", mandatory=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            run("compliance", ["agent.#"], handle)
        case ["block" | "unblock" as verb, agent_id]:
            asyncio.run(order(verb, agent_id))
        case _:
            sys.exit(__doc__)
