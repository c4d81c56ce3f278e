"""Events reach a real broker: all of them, in order for each customer, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import httpx
import psycopg
import pytest
import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from tallystick.database.pool import open_pool
from tallystick.kernel.clock import TestClock
from tallystick.outbox.messages import EVENTS, ORIGINAL
from tallystick.outbox.publisher import AT_ONCE
from tallystick.outbox.service import lag
from tallystick.service import Service, open_service
from tests.outbox.conftest import NOW, Subscribe, Subscriber, events_on
from tests.outbox.events import event, subject, tell, waiting
from tests.outbox.rabbitmq import RabbitMQ, free_port
from tests.system.conftest import MakeServer
from tests.system.conftest import make_server as make_server
from tests.waiting import lock_waiters, until
from tests.web.conftest import asking

EVENTS_TOLD = 10_000
CUSTOMERS = 50


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service) as client:
        yield client


async def outbox_size(service: Service) -> int:
    async with service.pool.connection() as conn:
        return (await lag(conn, service.clock.now())).waiting


def key_and_body(message: AbstractIncomingMessage) -> tuple[str | None, str]:
    return message.routing_key, message.body.decode()


async def live(client: httpx.AsyncClient) -> dict[str, str]:
    """Everything that is told of happens once. Returns the ids of who was there."""
    body: dict[str, Any] = {"name": "Ada", "email": "ada@example.org", "region": "emea", "vip": True}
    account = (await client.post("/accounts", json=body)).raise_for_status().json()["id"]
    await client.put(f"/accounts/{account}", json={"name": "Ada L."})
    agents = []
    for name in ("Bot", "Bit"):
        body = {"name": name, "email": f"{name}@seats.example.org"}
        agents.append((await client.post(f"/accounts/{account}/agents", json=body)).raise_for_status().json()["id"])
    await client.put(f"/accounts/{account}/agents/{agents[0]}", json={"name": "Robot"})
    await client.post(f"/agents/block_agent/{agents[0]}")
    await client.post(f"/agents/unblock_agent/{agents[0]}")
    await client.delete(f"/accounts/{account}/agents/{agents[1]}")
    await client.delete(f"/accounts/{account}")
    return {"account": account, "robot": agents[0], "bit": agents[1]}


TYPES = [
    "account.created",
    "account.changed",
    "agent.created",
    "agent.created",
    "agent.changed",
    "agent.blocked",
    "agent.unblocked",
    "agent.deleted",
    "account.deleted",
    "agent.deleted",
]
"""What ``live`` causes, in order."""


async def test_a_life_is_told_in_order_on_both_exchanges(
    service: Service, client: httpx.AsyncClient, subscribe: Subscribe
) -> None:
    everything, original = await subscribe(EVENTS), await subscribe(ORIGINAL)
    assert service.messaging is not None
    async with service.messaging.running():
        ids = await live(client)
        heard, plain = await everything.hear(len(TYPES)), await original.hear(8)
    assert [message.routing_key for message in heard] == [f"{kind}.emea.vip" for kind in TYPES]
    assert [key_and_body(message) for message in plain] == [
        ("create.account.emea.vip", ids["account"]),
        ("create.agent.emea", ids["robot"]),
        ("create.agent.emea", ids["bit"]),
        ("block.agent.emea", ids["robot"]),
        ("unblock.agent.emea", ids["robot"]),
        ("delete.agent.emea", ids["bit"]),
        ("delete.account.emea.vip", ids["account"]),
        ("delete.agent.emea", ids["robot"]),
    ]
    assert await outbox_size(service) == 0


async def test_a_message_carries_its_id_and_survives_the_broker(
    service: Service, client: httpx.AsyncClient, subscribe: Subscribe
) -> None:
    everything, original = await subscribe(EVENTS), await subscribe(ORIGINAL)
    assert service.messaging is not None
    async with service.messaging.running():
        await client.post("/accounts", json={"name": "Ada", "email": "ada@example.org"})
        (heard,), (plain,) = await everything.hear(1), await original.hear(1)
    document = json.loads(heard.body)
    assert heard.content_type == "application/cloudevents+json"
    assert plain.content_type == "text/plain"
    for message in (heard, plain):
        assert message.message_id == document["id"]
        assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
        assert message.type == "account.created"
        assert message.timestamp == NOW.replace(microsecond=0)
    assert datetime.fromisoformat(document["time"]).astimezone(UTC) == NOW


async def test_desks_hear_what_they_asked_for(
    service: Service, client: httpx.AsyncClient, subscribe: Subscribe
) -> None:
    """With the bindings of the account management's own subscribers, and as they declare the exchange."""
    billing = await subscribe(ORIGINAL, "create.account.apac.#", "delete.account.apac.#", "create.agent.apac")
    success = await subscribe(ORIGINAL, "create.account.*.vip", "delete.account.*.vip")
    assert service.messaging is not None
    async with service.messaging.running():
        ids = {}
        for name, region, vip in (("A", "apac", False), ("B", "emea", True), ("C", "apac", True)):
            body = {"name": name, "email": f"{name}@example.org", "region": region, "vip": vip}
            ids[name] = (await client.post("/accounts", json=body)).json()["id"]
        assert [message.body.decode() for message in await billing.hear(2)] == [ids["A"], ids["C"]]
        assert [message.body.decode() for message in await success.hear(2)] == [ids["B"], ids["C"]]


async def test_exchanges_that_others_made_otherwise_will_do(
    service: Service, client: httpx.AsyncClient, channel: AbstractChannel
) -> None:
    heard = [
        await Subscriber.to(channel, exchange, "#", durable=durable)
        for exchange, durable in ((EVENTS, False), (ORIGINAL, True))
    ]
    assert service.messaging is not None
    async with service.messaging.running():
        await client.post("/accounts", json={"name": "Ada", "email": "ada@example.org"})
        for subscriber in heard:
            assert len(await subscriber.hear(1)) == 1


async def test_a_caller_is_answered_while_there_is_no_broker(database_url: str, clock: TestClock) -> None:
    """[B] the account management answered with an error although it had kept the row, or lost the event."""
    async with open_service(events_on(f"amqp://127.0.0.1:{free_port()}"), database_url, clock) as service:
        assert service.messaging is not None
        async with service.messaging.running(), asking(service) as client:
            created = await client.post("/accounts", json={"name": "Ada", "email": "ada@example.org"})
            assert created.status_code == 200
            health = (await client.get("/api/v1/health")).json()
            clock.advance(timedelta(seconds=90))
            metrics = (await client.get("/metrics")).text.splitlines()
    assert (health["status"], health["events"]) == ("degraded", {"status": "degraded"})
    assert {"tallystick_broker_up 0.0", "tallystick_outbox_lag_seconds 90.0"} <= set(metrics)
    assert "tallystick_outbox_waiting_events 1.0" in metrics


async def test_what_was_told_without_a_broker_is_published_later(
    database_url: str, broker_url: str, clock: TestClock, subscribe: Subscribe
) -> None:
    everything = await subscribe(EVENTS)
    async with open_service(events_on("amqp://broker.example"), database_url, clock) as alone, asking(alone) as client:
        await live(client)
    async with open_service(events_on(broker_url), database_url, clock) as service:
        assert service.messaging is not None
        async with service.messaging.running(), asking(service) as client:
            heard = await everything.hear(len(TYPES))
            await until(lambda: nothing_waits(service))
            health = (await client.get("/api/v1/health")).json()
    assert [message.type for message in heard] == TYPES
    assert (health["status"], health["events"]) == ("healthy", {"status": "healthy"})


async def nothing_waits(service: Service) -> bool:
    return await outbox_size(service) == 0


async def test_several_processes_publish_each_event_once_and_in_order(
    database_url: str, broker_url: str, clock: TestClock, subscribe: Subscribe
) -> None:
    everything = await subscribe(EVENTS)
    events = [event(number, subject(number % 3)) for number in range(2000)]
    async with (
        open_service(events_on(broker_url), database_url, clock) as one,
        open_service(events_on(broker_url), database_url, clock) as two,
    ):
        assert one.messaging is not None
        assert two.messaging is not None
        async with one.messaging.running(), two.messaging.running():
            for start in range(0, 2000, 100):
                await tell(one.pool, *events[start : start + 100])
            heard = await everything.hear(2000)
            await until(lambda: nothing_waits(one))
    assert [message.message_id for message in heard] == [str(each.id) for each in events]


async def test_a_broker_killed_in_the_middle_loses_nothing_and_mixes_nothing_up(
    rabbitmq: RabbitMQ, database_url: str, clock: TestClock
) -> None:
    queue = "kept"
    async with await aio_pika.connect(rabbitmq.url) as connection, connection.channel() as channel:
        exchange = await channel.declare_exchange(EVENTS, aio_pika.ExchangeType.TOPIC, durable=True)
        await (await channel.declare_queue(queue, durable=True)).bind(exchange, "#")
    events = [event(number, subject(number % CUSTOMERS + 1)) for number in range(EVENTS_TOLD)]
    async with open_service(events_on(rabbitmq.url), database_url, clock) as service:
        await tell(service.pool, *events)
        assert service.messaging is not None
        async with service.messaging.running():
            await until(lambda: at_most(service, EVENTS_TOLD * 7 // 10))
            rabbitmq.kill()
            left = await outbox_size(service)
            assert 0 < left < EVENTS_TOLD
            await until(lambda: is_away(service))
            rabbitmq.start()
            await until(lambda: nothing_waits(service))
    numbers = [UUID(message.message_id).int for message in await drained(rabbitmq, queue)]
    first = list(dict.fromkeys(numbers))
    assert sorted(first) == list(range(EVENTS_TOLD))
    assert len(numbers) - len(first) <= AT_ONCE, "no more than a batch comes twice"
    for customer in range(CUSTOMERS):
        of_customer = [number for number in first if number % CUSTOMERS == customer]
        assert of_customer == sorted(of_customer)


async def at_most(service: Service, size: int) -> bool:
    return await outbox_size(service) <= size


async def is_away(service: Service) -> bool:
    assert service.messaging is not None
    return service.messaging.away


async def drained(rabbitmq: RabbitMQ, name: str) -> list[AbstractIncomingMessage]:
    """All messages of a queue, which is gone afterwards."""
    async with await aio_pika.connect(rabbitmq.url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue(name, durable=True, passive=True)
        heard = await Subscriber(channel, queue).hear(queue.declaration_result.message_count or 0)
        await queue.delete()
    return heard


async def test_a_process_killed_between_confirm_and_commit_publishes_again_under_the_same_id(
    database_url: str, broker_url: str, make_server: MakeServer, subscribe: Subscribe
) -> None:
    everything = await subscribe(EVENTS)
    async with open_service(events_on("amqp://broker.example"), database_url) as alone, asking(alone) as client:
        await client.post("/accounts", json={"name": "Ada", "email": "ada@example.org"})
    server = make_server(database_url)
    server.settings = {"ENABLE_EVENTS": "True", "CLOUDAMQP_URL": broker_url}
    async with await psycopg.AsyncConnection.connect(database_url) as holding:
        await holding.execute("select from outbox_events for update")  # who removes it must wait, who reads it need not
        server.start()
        (once,) = await everything.hear(1)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as watching:
            await until(lambda: lock_waiters(watching))
        server.kill()
    server.start()
    (again,) = await everything.hear(1)
    assert (again.message_id, again.body) == (once.message_id, once.body)


async def test_a_process_that_is_told_to_stop_finishes_what_it_began(
    database_url: str, broker_url: str, make_server: MakeServer, subscribe: Subscribe
) -> None:
    everything = await subscribe(EVENTS)
    server = make_server(database_url)
    server.settings = {"ENABLE_EVENTS": "True", "CLOUDAMQP_URL": broker_url}
    events = [event(number, subject(number % 3)) for number in range(2000)]
    async with await open_pool(database_url, size=4) as pool:
        await tell(pool, *events)
        server.start()
        heard = await everything.hear(1)
        server.stop()
        left = await waiting(pool)
        heard += await everything.hear(2000 - len(left) - 1)
        assert [message.message_id for message in heard] == [str(each.id) for each in events[: len(heard)]]
        assert left == events[len(heard) :]


async def test_a_worker_publishes_too_and_stops_in_good_order(
    database_url: str, broker_url: str, tmp_path: Path, subscribe: Subscribe
) -> None:
    everything = await subscribe(EVENTS)
    chosen = {"ENABLE_EVENTS": "True", "CLOUDAMQP_URL": broker_url, "TALLY_DATABASE_URL": database_url}
    command = [sys.executable, "-m", "tallystick.cli", "worker", "--data-dir", str(tmp_path), "--json"]
    async with await open_pool(database_url, size=1) as pool:
        await tell(pool, event(1))
        worker = await asyncio.create_subprocess_exec(*command, env={**os.environ, **chosen}, stdout=PIPE)
        try:
            (heard,) = await everything.hear(1)
        finally:
            worker.terminate()
            await worker.communicate()
        assert worker.returncode == 0
        assert await waiting(pool) == []
    assert heard.message_id == str(event(1).id)


async def test_the_brokers_password_reaches_no_log(
    database_url: str, broker_url: str, clock: TestClock, caplog: pytest.LogCaptureFixture
) -> None:
    refused = broker_url.replace("guest:guest@", "guest:swordfish@")
    away = f"amqp://guest:swordfish@127.0.0.1:{free_port()}"  # pragma: allowlist secret
    for url in (refused, away):
        async with open_service(events_on(url), database_url, clock) as service:
            assert service.messaging is not None
            with structlog.testing.capture_logs() as ours, caplog.at_level(logging.DEBUG):
                async with service.messaging.running():
                    await until(lambda: has_lost(ours))
        assert "swordfish" not in f"{ours}{service.settings}{caplog.text}"


async def has_lost(log: list[Any]) -> bool:
    return any(entry["event"] == "broker.lost" for entry in log)
