"""Orders of the compliance desk: carried out, acknowledged afterwards, harmless when they come again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel, AbstractExchange

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import InvalidInput
from tallystick.outbox.compliance import MAX_BODY_BYTES, ORDERS, read_id
from tallystick.outbox.inbox import DEAD
from tallystick.outbox.messages import EVENTS, ORIGINAL
from tallystick.service import Service, open_service
from tests.outbox.conftest import Subscribe, Subscriber, events_on
from tests.waiting import lock_waiters, until
from tests.web.conftest import asking
from tests.web.test_account_management import charge, make, seat

QUEUES = ("block.agent_queue", "unblock.agent_queue")
ID = "5f0c7d1e-7b43-4c0a-9f0e-3d1f5b8a2c61"


@pytest.mark.parametrize(
    "body", [ID, f" {ID}\n", ID.upper(), f'"{ID}"', f'{{"id": "{ID}"}}', f' {{"id": "{ID}", "why": [1]}}']
)
def test_orders_name_their_agent_bare_or_in_json(body: str) -> None:
    assert read_id(body.encode()) == UUID(ID)


@pytest.mark.parametrize(
    "body", [b"", b"all", b'"all"', b"{}", b'{"id": 7}', b'{"id": null}', b'{"id"', b"[]", b"\xff\xfe", b"7", b"null"]
)
def test_what_is_no_order(body: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^an order must be the id of an agent"):
        read_id(body)


def test_an_order_has_an_end() -> None:
    assert read_id(ID.encode() + b" " * (MAX_BODY_BYTES - 36)) == UUID(ID)
    with pytest.raises(InvalidInput, match=r"^an order must have at most 4096 bytes, this one has 4097$"):
        read_id(ID.encode() + b" " * (MAX_BODY_BYTES - 35))


@pytest.fixture
async def client(service: Service, broker_url: str, channel: AbstractChannel) -> AsyncIterator[httpx.AsyncClient]:
    """Of a service that listens to orders."""
    assert service.messaging is not None
    async with service.messaging.running(), asking(service) as client:
        await until(lambda: is_listening(broker_url))
        yield client


async def is_listening(broker_url: str) -> bool:
    """Whether somebody consumes both queues."""
    async with await aio_pika.connect(broker_url) as connection:
        try:
            for name in QUEUES:
                queue = await (await connection.channel()).declare_queue(name, passive=True)
                if not queue.declaration_result.consumer_count:
                    return False
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False
    return True


@pytest.fixture
async def desk(client: httpx.AsyncClient, channel: AbstractChannel) -> AbstractExchange:
    """The exchange of the orders, as the desk declares it."""
    return await channel.declare_exchange(ORDERS, aio_pika.ExchangeType.TOPIC, durable=False)


async def order(desk: AbstractExchange, verb: str, body: str | bytes, **properties: Any) -> None:
    content = body if isinstance(body, bytes) else body.encode()
    await desk.publish(aio_pika.Message(content, **properties), f"{verb}.agent")


async def is_blocked(client: httpx.AsyncClient, agent: dict[str, Any]) -> bool:
    path = f"/accounts/{agent['account_id']}/agents/{agent['id']}"
    return bool((await client.get(path)).json()["blocked"])


async def is_free(client: httpx.AsyncClient, agent: dict[str, Any]) -> bool:
    return not await is_blocked(client, agent)


async def test_an_agent_blocked_by_message_causes_no_further_charges(
    client: httpx.AsyncClient, desk: AbstractExchange, subscribe: Subscribe
) -> None:
    original = await subscribe(ORIGINAL, "block.agent.#", "unblock.agent.#")
    account = await make(client, region="emea")
    agent = await seat(client, account)
    await charge(client, account["id"], "before", agent["email"])
    await order(desk, "block", agent["id"])
    await until(lambda: is_blocked(client, agent))
    await charge(client, account["id"], "while", agent["email"])
    await order(desk, "unblock", json.dumps({"id": agent["id"]}))
    await until(lambda: is_free(client, agent))
    await charge(client, account["id"], "after", agent["email"])
    charges = (await client.get(f"/api/v1/customers/{account['id']}/charges")).json()["items"]
    assert sorted(item["amount"] for item in charges) == ["0", "2", "2"]
    heard = [(message.routing_key, message.body.decode()) for message in await original.hear(2)]
    assert heard == [("block.agent.emea", agent["id"]), ("unblock.agent.emea", agent["id"])]


async def test_an_order_that_comes_again_is_told_of_once(
    client: httpx.AsyncClient, desk: AbstractExchange, channel: AbstractChannel, subscribe: Subscribe
) -> None:
    everything = await subscribe(EVENTS, "agent.blocked.#", "agent.unblocked.#")
    agent = await seat(client, await make(client))
    for _ in range(3):
        await order(desk, "block", agent["id"])
    await until(lambda: is_blocked(client, agent))
    await until(lambda: is_handed_over(channel, "block.agent_queue"))
    await order(desk, "unblock", agent["id"])
    assert [message.type for message in await everything.hear(2)] == ["agent.blocked", "agent.unblocked"]


async def is_handed_over(channel: AbstractChannel, name: str) -> bool:
    """Whether nothing in a queue waits for its consumer."""
    queue = await channel.declare_queue(name, durable=True, passive=True)
    return queue.declaration_result.message_count == 0


async def test_an_unknown_agent_keeps_nobody_waiting(
    client: httpx.AsyncClient, desk: AbstractExchange, channel: AbstractChannel
) -> None:
    agent = await seat(client, await make(client))
    await order(desk, "block", str(uuid4()))
    await order(desk, "block", agent["id"])
    await until(lambda: is_blocked(client, agent))
    dead = await channel.declare_queue(DEAD, durable=True, passive=True)
    assert dead.declaration_result.message_count == 0


async def test_what_nobody_can_read_ends_with_the_reason_among_the_dead(
    client: httpx.AsyncClient, desk: AbstractExchange, channel: AbstractChannel
) -> None:
    agent = await seat(client, await make(client))
    poison = [b"all", b'{"id": 7}', b"\xff", b"x" * 5000]
    for number, body in enumerate(poison):
        await order(desk, "block", body, message_id=str(number))
    await order(desk, "block", agent["id"])
    await until(lambda: is_blocked(client, agent))
    queue = await channel.declare_queue(DEAD, durable=True, passive=True)
    dead = await Subscriber(channel, queue).hear(len(poison))
    assert [message.body for message in dead] == poison
    assert [message.message_id for message in dead] == ["0", "1", "2", "3"]
    unreadable = 'an order must be the id of an agent: bare, as a JSON string, or {"id": ...}'
    too_long = "an order must have at most 4096 bytes, this one has 5000"
    assert [message.headers["reason"] for message in dead] == [unreadable] * 3 + [too_long]
    for message in dead:
        assert (message.headers["exchange"], message.headers["routing-key"]) == (ORDERS, "block.agent")
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_an_order_waits_for_a_service_that_is_down(
    database_url: str, broker_url: str, clock: TestClock, channel: AbstractChannel
) -> None:
    settings = events_on(broker_url)
    async with open_service(settings, database_url, clock) as service:
        assert service.messaging is not None
        async with service.messaging.running(), asking(service) as client:
            agent = await seat(client, await make(client))
            await until(lambda: is_listening(broker_url))
        desk = await channel.declare_exchange(ORDERS, aio_pika.ExchangeType.TOPIC, durable=False)
        await order(desk, "block", agent["id"], delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        async with service.messaging.running(), asking(service) as client:
            await until(lambda: is_blocked(client, agent))


async def test_a_queue_that_is_taken_away_is_made_again(
    client: httpx.AsyncClient, broker_url: str, desk: AbstractExchange, channel: AbstractChannel
) -> None:
    agent = await seat(client, await make(client))
    await channel.queue_delete("block.agent_queue")
    await until(lambda: is_listening(broker_url))
    await order(desk, "block", agent["id"])
    await until(lambda: is_blocked(client, agent))


async def test_an_order_is_acknowledged_only_after_it_was_carried_out(
    client: httpx.AsyncClient, service: Service, desk: AbstractExchange
) -> None:
    """The database is lost in the middle: the broker still has the order."""
    agent = await seat(client, await make(client))
    async with service.pool.connection() as holding, service.pool.connection() as watching, holding.transaction():
        await service.pricing.change(holding)
        await order(desk, "block", agent["id"])
        await until(lambda: lock_waiters(watching))
        for waiting in await lock_waiters(watching):
            await watching.execute("select pg_terminate_backend(%s)", [waiting])
    await until(lambda: is_blocked(client, agent))
