"""A service that tells a real RabbitMQ, and subscribers that hear it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from tallystick.kernel.clock import TestClock
from tallystick.outbox.compliance import BLOCK, ORDERS, UNBLOCK
from tallystick.outbox.inbox import DEAD
from tallystick.outbox.publisher import EXCHANGES
from tallystick.outbox.usage import USAGE
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.doubles.webhook_receiver import Receiver
from tests.metering.books import assert_books_hold
from tests.outbox.rabbitmq import RabbitMQ, running_rabbitmq

NOW = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)
HEARD_SECONDS = 60
"""A subscriber waits no longer; a net under what is lost."""


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A node of our own, for tests that kill it too."""
    with running_rabbitmq() as node:
        yield node


@pytest.fixture(scope="session")
def receiver_process() -> Iterator[Receiver]:
    """Somebody who receives webhooks, for all tests."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def receiver(receiver_process: Receiver) -> Receiver:
    """The receiver as it is when all is well."""
    receiver_process.tell("reset")
    return receiver_process


@pytest.fixture
def broker_url(request: pytest.FixtureRequest) -> str:
    """The broker that ``TALLY_TEST_AMQP_URL`` names, or our own."""
    given = os.environ.get("TALLY_TEST_AMQP_URL")
    return given or str(request.getfixturevalue("rabbitmq").url)


@pytest.fixture
async def channel(broker_url: str) -> AsyncIterator[AbstractChannel]:
    """Of a subscriber. The broker is as good as new before."""
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        for queue in (DEAD, USAGE, f"{BLOCK}_queue", f"{UNBLOCK}_queue"):
            await channel.queue_delete(queue)
        for exchange in (*EXCHANGES, ORDERS, DEAD):
            await channel.exchange_delete(exchange)
        yield channel


def events_on(broker_url: str) -> Settings:
    return Settings(dev=True, database_pool_size=4, enable_events=True, broker_url=broker_url, broker_timeout_seconds=1)


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture
async def service(database_url: str, broker_url: str, clock: TestClock) -> AsyncIterator[Service]:
    """A service that tells. Whatever the test did with it, its books must hold in the end."""
    async with open_service(events_on(broker_url), database_url, clock) as service:
        yield service
        await assert_books_hold(service)


class Subscriber:
    """A queue of its own on the exchanges that are asked for."""

    def __init__(self, channel: AbstractChannel, queue: AbstractQueue) -> None:
        self._channel = channel
        self._queue = queue

    @classmethod
    async def to(cls, channel: AbstractChannel, exchange: str, *keys: str, durable: bool) -> Subscriber:
        """One that makes the exchange if it is not there, as its clients do."""
        await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=durable)
        queue = await channel.declare_queue(exclusive=True)
        for key in keys:
            await queue.bind(exchange, key)
        return cls(channel, queue)

    async def hear(self, count: int) -> list[AbstractIncomingMessage]:
        """The next messages; what comes behind them stays in the queue."""
        heard: list[AbstractIncomingMessage] = []
        async with self._queue.iterator(timeout=HEARD_SECONDS) as messages:
            while len(heard) < count:
                heard.append(await anext(messages))
                await heard[-1].ack()
        return heard


Subscribe = Callable[..., Any]


@pytest.fixture
def subscribe(channel: AbstractChannel) -> Subscribe:
    """Makes a subscriber to an exchange, by routing keys."""

    async def make(exchange: str, *keys: str) -> Subscriber:
        return await Subscriber.to(channel, exchange, *(keys or ("#",)), durable=EXCHANGES[exchange])

    return make
