"""Webhooks are told over real HTTP: all of them beside each other, whoever is slow, broken or killed meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from tallystick.database.pool import Pool
from tallystick.kernel.clock import TestClock
from tallystick.outbox.webhooks.service import NewEndpoint
from tallystick.service import open_service
from tests.doubles.webhook_receiver import Receiver
from tests.outbox.conftest import events_on
from tests.outbox.endpoints import Room
from tests.outbox.events import event
from tests.outbox.rabbitmq import free_port
from tests.system.conftest import MakeServer
from tests.system.conftest import make_server as make_server
from tests.waiting import until
from tests.web.conftest import asking


@pytest.fixture
def room(pool: Pool) -> Room:
    return Room(pool)


def has(room: Room, endpoint: UUID, **states: int) -> Callable[[], Awaitable[bool]]:
    """Whether so many of its deliveries are in these states, and none in others."""

    async def look() -> bool:
        return await room.states(endpoint) == states

    return look


def ids(receiver: Receiver, path: str) -> list[str]:
    return [request["headers"]["webhook-id"] for request in receiver.received(path)]


async def test_many_events_reach_many_endpoints_once_each(room: Room, receiver: Receiver) -> None:
    ada = await room.customer("ada")
    endpoints = [await room.endpoint(f"{receiver.url}/{number}") for number in range(8)]
    events = [event(number + 1, ada) for number in range(50)]
    await room.tell(*events)
    async with room.delivering():
        for endpoint in endpoints:
            await until(has(room, endpoint, delivered=50))
    for number in range(8):
        assert sorted(ids(receiver, f"/{number}")) == sorted(str(each.id) for each in events)


async def test_who_is_slow_keeps_nobody_else_waiting(room: Room, receiver: Receiver) -> None:
    ada = await room.customer("ada")
    receiver.behave("/slow", "slow")
    slow, well = await room.endpoint(f"{receiver.url}/slow"), await room.endpoint(f"{receiver.url}/well")
    async with room.delivering():
        await room.tell(*[event(number, ada) for number in range(100)])
        await until(has(room, well, delivered=100))
        assert await room.states(slow) == {"waiting": 100}
        assert receiver.tell("at_once", path="/slow") == 5
        receiver.behave("/slow", 200)
        await until(has(room, slow, delivered=100))
    assert receiver.tell("at_once", path="/slow") == 5
    assert receiver.tell("at_once", path="/well") <= 5


async def test_who_fails_is_asked_one_at_a_time_until_it_is_well(room: Room, receiver: Receiver) -> None:
    ada = await room.customer("ada")
    receiver.behave("/in", 500)
    endpoint = await room.endpoint(f"{receiver.url}/in")
    await room.tell(event(1, ada))
    async with room.delivering():
        await until(lambda: fails(room, endpoint))
        receiver.behave("/in", "slow")
        await room.tell(*[event(number, ada) for number in range(2, 20)])
        await asyncio.to_thread(receiver.tell, "wait", path="/in", times=2)
        receiver.behave("/in", 200)
        await until(has(room, endpoint, waiting=1, delivered=18))
        assert (await room.get(endpoint)).failing_since is None
        await room.hurry()
        await until(has(room, endpoint, delivered=19))
    first, *_ = ids(receiver, "/in")
    assert ids(receiver, "/in").count(first) == 2, "it is tried again under the same id"


async def fails(room: Room, endpoint: UUID) -> bool:
    return (await room.get(endpoint)).failing_since is not None


async def test_several_workers_deliver_each_event_once(room: Room, receiver: Receiver) -> None:
    ada = await room.customer("ada")
    endpoint = await room.endpoint(f"{receiver.url}/in")
    await room.tell(*[event(number, ada) for number in range(300)])
    async with room.delivering(), room.delivering(), room.delivering():
        await until(has(room, endpoint, delivered=300))
    assert len(ids(receiver, "/in")) == len(set(ids(receiver, "/in"))) == 300


async def test_what_is_under_way_is_finished_at_the_end(room: Room, receiver: Receiver) -> None:
    receiver.behave("/in", "slow")
    endpoint = await room.endpoint(f"{receiver.url}/in")
    await room.tell(event(1, await room.customer("ada")))

    async def work(stop: asyncio.Event) -> None:
        async with room.delivering():
            await stop.wait()

    stop = asyncio.Event()
    working = asyncio.create_task(work(stop))
    await asyncio.to_thread(receiver.tell, "wait", path="/in", times=1)
    stop.set()
    receiver.behave("/in", 204)
    await working
    (delivery,) = await room.deliveries(endpoint)
    assert (delivery.state, delivery.status, delivery.attempts) == ("delivered", 204, 1)


async def test_connections_that_the_database_ends_meanwhile_lose_nothing(room: Room, receiver: Receiver) -> None:
    receiver.behave("/in", "slow")
    endpoint = await room.endpoint(f"{receiver.url}/in")
    await room.tell(event(1, await room.customer("ada")))

    async def is_delivered() -> bool:
        with suppress(psycopg.OperationalError):  # a connection of ours that was ended as well
            return await room.states(endpoint) == {"delivered": 1}
        return False

    async with room.delivering():
        await asyncio.to_thread(receiver.tell, "wait", path="/in", times=1)
        others = "pid <> pg_backend_pid() and datname = current_database()"
        await room.run(f"select pg_terminate_backend(pid) from pg_stat_activity where {others}")
        receiver.behave("/in", 200)
        await until(is_delivered)
    (delivery,) = await room.deliveries(endpoint)
    assert (delivery.attempts, len(receiver.received("/in"))) == (1, 1)


async def test_a_process_learns_by_itself_of_the_first_endpoint(room: Room, pool: Pool) -> None:
    elsewhere = Room(pool)

    async def knows() -> bool:
        return elsewhere.outbox.is_on

    async with elsewhere.webhooks.watched(pool):
        assert not await knows()
        await room.endpoint()
        await until(knows)


async def test_a_worker_that_is_killed_is_followed_by_another_under_the_same_id(
    pool: Pool, database_url: str, receiver: Receiver, make_server: MakeServer
) -> None:
    """And what is told meanwhile, is told afterwards."""
    receiver.behave("/in", "slow")
    server = make_server(database_url).start()
    made = server.post("/api/v1/webhooks", {"url": f"{receiver.url}/in", "types": ["account.*"]})
    server.post("/accounts", {"name": "Ada", "email": "ada@example.org"})
    await asyncio.to_thread(receiver.tell, "wait", path="/in", times=1)
    server.kill()
    receiver.behave("/in", 200)
    room = Room(pool)
    await room.hurry()  # the lease would have ended after a minute
    server.start()
    await until(has(room, UUID(made["id"]), delivered=1))
    once, again = receiver.received("/in")
    assert once["headers"]["webhook-id"] == again["headers"]["webhook-id"]
    assert once["body"] == again["body"]
    document = Webhook(made["secret"]).verify(again["body"], again["headers"])
    assert document["type"] == "tallystick.account.created"


async def test_a_broker_that_is_away_holds_up_no_webhook(
    database_url: str, clock: TestClock, receiver: Receiver
) -> None:
    settings = events_on(f"amqp://127.0.0.1:{free_port()}")
    async with open_service(settings, database_url, clock) as service, asking(service) as client:
        async with service.at_work(worker=True):
            await client.post("/api/v1/webhooks", json={"url": f"{receiver.url}/in"})
            await client.post("/accounts", json={"name": "Ada", "email": "ada@example.org"})
            await asyncio.to_thread(receiver.tell, "wait", path="/in", times=1)
        async with await psycopg.AsyncConnection.connect(database_url) as conn:
            waiting = await (await conn.execute("select type from outbox_events")).fetchall()
    assert waiting == [("account.created",)], "it waits for the broker still"


async def test_what_is_secret_reaches_no_log(room: Room, receiver: Receiver) -> None:
    secrets = []
    for manner in ("500", "reset", "302", "200"):
        path = f"/{manner}?word=swordfish"
        receiver.behave(path, manner)
        async with room.pool.connection() as conn, conn.transaction():
            secrets.append((await room.webhooks.create(conn, NewEndpoint(receiver.url + path)))[1])
    with capture_logs() as log:
        async with room.delivering():
            await room.tell(event(1, await room.customer("ada"), note="private"))
            await until(lambda: is_said(log, "webhook.failed", 3))
            await until(lambda: is_said(log, "webhook.delivered", 1))
    for planted in ("swordfish", "private", *secrets):
        assert planted not in json.dumps(log, default=str)


async def is_said(log: Sequence[Mapping[str, Any]], what: str, times: int) -> bool:
    return len([entry for entry in log if entry["event"] == what]) == times
