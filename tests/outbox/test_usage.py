"""Usage from the broker: recorded as if it had come over HTTP, then acknowledged; harmless when it comes again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel, HeadersType
from cloudevents.core.bindings.amqp import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tallystick.kernel.clock import TestClock
from tallystick.outbox.inbox import DEAD
from tallystick.outbox.usage import AT_ONCE, MAX_BODY_BYTES, USAGE
from tallystick.service import Service, open_service
from tests.metering.books import fetch
from tests.outbox.conftest import Subscriber, events_on
from tests.system.conftest import MakeServer
from tests.system.conftest import make_server as make_server
from tests.waiting import lock_waiters, until
from tests.web.conftest import asking

TIME = "2026-11-19T12:00:00Z"
STRUCTURED, BATCHED, JSON = "application/cloudevents+json", "application/cloudevents-batch+json", "application/json"


def event(id_: str, customer: str = "ada", value: object = 1, **more: Any) -> dict[str, Any]:
    about = {"specversion": "1.0", "source": "/t", "id": id_, "type": "tokens", "subject": customer, "time": TIME}
    return {**about, "data": {"value": value}, **more}


async def send(
    channel: AbstractChannel, body: object, content_type: str | None = STRUCTURED, headers: HeadersType | None = None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = aio_pika.Message(
        content, content_type=content_type, headers=headers, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
    )
    await channel.default_exchange.publish(message, USAGE)


@pytest.fixture
async def client(service: Service, channel: AbstractChannel) -> AsyncIterator[httpx.AsyncClient]:
    """Of a service that takes usage from the queue. Tokens cost two credits each."""
    await channel.declare_queue(USAGE, durable=True)
    assert service.messaging is not None
    async with asking(service) as client:
        await price(client)
        async with service.messaging.running():
            yield client


async def price(client: httpx.AsyncClient) -> None:
    new = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "2"}}
    await client.put("/api/v1/meters/tokens", json={"unit": "t"})
    (await client.post("/api/v1/prices", json=new)).raise_for_status()


async def recorded(service: Service) -> int:
    ((count,),) = await fetch(service, "select count(*) from measurements")
    return int(count)


async def has_recorded(service: Service, count: int) -> bool:
    return await recorded(service) >= count


async def is_done(channel: AbstractChannel, service: Service, count: int) -> bool:
    return await has_recorded(service, count) and not await left(channel)


async def left(channel: AbstractChannel, name: str = USAGE) -> int:
    """What nobody has been handed."""
    queue = await channel.declare_queue(name, durable=True, passive=True)
    return queue.declaration_result.message_count or 0


async def used(client: httpx.AsyncClient, customer: str) -> str:
    lines = (await client.get(f"/api/v1/customers/{customer}/usage")).raise_for_status().json()["lines"]
    return str(lines[0]["quantity"])


async def test_usage_in_every_content_mode_is_recorded_and_charged(
    client: httpx.AsyncClient, service: Service, channel: AbstractChannel
) -> None:
    binary: dict[str, Any] = {"specversion": "1.0", "source": "/t", "type": "tokens", "subject": "ada"}
    await send(channel, event("structured"))
    await send(channel, [event("batched 1"), event("batched 2", value="0.5")], BATCHED)
    await send(channel, {"id": "plain", "subject": "ada", "type": "tokens", "data": {"value": 1}}, JSON)
    await send(channel, [event("untyped 1"), event("untyped 2")], None)
    for prefix in ("cloudEvents:", "cloudEvents_", "ce-"):
        about = {**binary, "id": f"binary {prefix}", "time": TIME}
        await send(channel, {"value": 1}, JSON, {f"{prefix}{name}": value for name, value in about.items()})
    for id_, time in (("instant", datetime(2026, 11, 19, 12, tzinfo=UTC)), ("milliseconds", 1_795_089_600_000)):
        about = {**binary, "id": id_, "time": time}
        await send(channel, {"value": 1}, JSON, {f"cloudEvents:{name}": value for name, value in about.items()})
    await until(lambda: has_recorded(service, 11))
    assert await used(client, "ada") == "10.5"
    charges = (await client.get("/api/v1/customers/ada/charges")).json()["items"]
    assert {charge["at"] for charge in charges} == {TIME, "2026-11-20T12:00:00.250000Z"}
    assert sorted({charge["amount"] for charge in charges}) == ["1", "2"]


async def test_events_of_the_sdk_are_recorded(
    client: httpx.AsyncClient, service: Service, channel: AbstractChannel
) -> None:
    for number, mode in enumerate((to_structured_event, to_binary_event)):
        about = {"source": "/t", "id": str(number), "type": "tokens", "subject": "größer 𝄞", "specversion": "1.0"}
        made = CloudEvent({**about, "time": datetime(2026, 11, 19, 12, tzinfo=UTC)}, {"value": 3})
        message = mode(made)
        await send(
            channel, message.application_data, message.properties.get("content-type"), message.application_properties
        )
    await until(lambda: has_recorded(service, 2))
    assert await used(client, "größer 𝄞") == "6"


async def test_messages_that_wait_share_transactions(
    client: httpx.AsyncClient, service: Service, channel: AbstractChannel
) -> None:
    async with service.pool.connection() as holding:
        async with holding.transaction():
            await service.pricing.change(holding)  # usage waits meanwhile
            for number in range(2 * AT_ONCE):
                await send(channel, event(f"{number}", f"customer {number % 7}"))
            before = sum(service.intake.lanes[0].weights.counts)
        await until(lambda: has_recorded(service, 2 * AT_ONCE))
    assert sum(service.intake.lanes[0].weights.counts) - before < 50


async def test_usage_that_comes_again_counts_once(
    client: httpx.AsyncClient, service: Service, channel: AbstractChannel
) -> None:
    for _ in range(3):
        await send(channel, event("1"))
        await send(channel, [event("2"), event("1"), event("3")], BATCHED)
    (await client.post("/api/v1/events", json=[event("3"), event("4")])).raise_for_status()
    await until(lambda: is_done(channel, service, 4))
    await send(channel, event("last"))
    await until(lambda: has_recorded(service, 5))
    assert await used(client, "ada") == "5"


async def test_a_message_in_which_nothing_can_be_read_ends_with_the_reason_among_the_dead(
    client: httpx.AsyncClient, service: Service, channel: AbstractChannel
) -> None:
    poison: list[tuple[bytes, str, HeadersType, str]] = [
        (b"not json", STRUCTURED, {}, "the event must be JSON"),
        (b'{"id": "1"}', STRUCTURED, {}, "source is required"),
        (b"[[], {}]", BATCHED, {}, "an event must be a JSON object"),
        (
            b"{}",
            JSON,
            {"cloudEvents:specversion": "1.0", "cloudEvents:id": [1]},
            "id must be a text, a number or a time",
        ),
        (b"\xff\xfe", "text/plain", {}, "the event must be UTF-8"),
        (b"", JSON, {}, "the body must not be empty"),
        (b"[" * 100_000, JSON, {}, "the body must not be nested so deeply"),
        (b"x" * (MAX_BODY_BYTES + 1), JSON, {}, "a message must have at most 1048576 bytes, this one has 1048577"),
    ]
    for body, content_type, headers, _ in poison:
        await send(channel, body, content_type, headers)
    await send(channel, event("good"))
    await until(lambda: has_recorded(service, 1))
    queue = await channel.declare_queue(DEAD, durable=True, passive=True)
    dead = await Subscriber(channel, queue).hear(len(poison))
    for message, (body, content_type, headers, reason) in zip(dead, poison, strict=True):
        assert (message.body, message.content_type, message.routing_key) == (body, content_type, USAGE)
        assert str(message.headers["reason"]).startswith(reason), message.headers
        assert headers.items() <= message.headers.items()
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert (await client.get("/api/v1/quarantine")).json()["items"] == []


async def test_events_that_cannot_be_read_keep_no_neighbour_from_being_recorded(
    client: httpx.AsyncClient, service: Service, channel: AbstractChannel
) -> None:
    await send(channel, [event("1"), {"id": "2"}, event("3", value="many"), event("4")], BATCHED)
    await until(lambda: has_recorded(service, 2))
    kept = (await client.get("/api/v1/quarantine")).json()["items"]
    assert sorted(piece["code"] for piece in kept) == ["invalid_value", "missing_field"]
    assert await left(channel, DEAD) == 0


async def test_usage_waits_for_a_service_that_is_down(
    database_url: str, broker_url: str, clock: TestClock, channel: AbstractChannel
) -> None:
    await channel.declare_queue(USAGE, durable=True)
    for number in range(10):
        await send(channel, event(f"{number}"))
    async with open_service(events_on(broker_url), database_url, clock) as service:
        assert service.messaging is not None
        async with service.messaging.running():
            await until(lambda: has_recorded(service, 10))


async def test_a_queue_that_others_made_otherwise_will_do(service: Service, channel: AbstractChannel) -> None:
    await channel.declare_queue(USAGE, durable=True, arguments={"x-queue-type": "quorum"})
    await send(channel, event("1"))
    assert service.messaging is not None
    async with service.messaging.running():
        await until(lambda: has_recorded(service, 1))


async def test_usage_is_acknowledged_only_after_it_was_recorded(
    client: httpx.AsyncClient, service: Service, channel: AbstractChannel
) -> None:
    """The database is lost in the middle: the broker still has the message."""
    async with service.pool.connection() as holding, service.pool.connection() as watching, holding.transaction():
        await service.pricing.change(holding)
        await send(channel, event("1"))
        await until(lambda: lock_waiters(watching))
        for waiting in await lock_waiters(watching):
            await watching.execute("select pg_terminate_backend(%s)", [waiting])
    await until(lambda: has_recorded(service, 1))
    assert await used(client, "ada") == "1"


async def test_too_much_usage_waits_and_none_is_lost(
    client: httpx.AsyncClient, service: Service, channel: AbstractChannel
) -> None:
    """All of one customer has one lane, which takes no more than 50,000 measurements in advance."""
    async with service.pool.connection() as holding, service.pool.connection() as watching, holding.transaction():
        await service.pricing.change(holding)
        for number in range(20):
            await send(channel, [event(f"{number} {place}") for place in range(4_000)], BATCHED)
        await until(lambda: lock_waiters(watching))
    await until(lambda: has_recorded(service, 80_000))
    assert await used(client, "ada") == "80000"


async def test_a_service_killed_in_the_middle_loses_nothing_and_counts_nothing_twice(
    database_url: str, broker_url: str, channel: AbstractChannel, make_server: MakeServer
) -> None:
    await channel.declare_queue(USAGE, durable=True)
    count = 16 * AT_ONCE
    for number in range(count):
        await send(channel, event(f"{number}", f"customer {number % 7}"))
    server = make_server(database_url)
    server.settings = {"ENABLE_EVENTS": "True", "CLOUDAMQP_URL": broker_url}
    server.start()
    async with open_service(events_on("amqp://broker.example"), database_url) as watching:
        await until(lambda: has_recorded(watching, 1))
        server.kill()
        assert await recorded(watching) < count
        server.start()
        await until(lambda: has_recorded(watching, count))
        async with asking(watching) as client:
            verdict = (await client.get("/api/v1/verify")).json()
    assert verdict["holds"]
    assert await left(channel) == 0
