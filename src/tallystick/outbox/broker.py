"""The way to RabbitMQ: duties that each have a connection of their own, and get another one when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import aio_pika
import structlog
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed

from tallystick.outbox.address import Address

CONNECT_SECONDS = 10
"""How long the broker may take to let us in, and to say farewell."""

STOP_SECONDS = 10
"""How long what is under way may take once we are told to stop; then it is taken back."""

_log = structlog.get_logger()


@asynccontextmanager
async def connected(address: Address, name: str) -> AsyncIterator[AbstractConnection]:
    """A connection, shown under this name where the broker lists them."""
    connection = await aio_pika.connect(
        address.url, timeout=CONNECT_SECONDS, client_properties={"connection_name": f"tallystick {name}"}
    )
    try:
        yield connection
    finally:
        with contextlib.suppress(Exception):  # it is gone, or about to
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.close()


class Duty(Protocol):
    """Something to do while there is a connection."""

    async def work(self, connection: AbstractConnection, stopping: asyncio.Event) -> None:
        """Returns soon after ``stopping`` is set, with what it began finished. Raises when the connection is lost."""


class Messaging:
    """Does all there is to do with the broker, in the background of a process."""

    def __init__(self, address: Address, duties: Mapping[str, Duty]) -> None:
        self._address = address
        self._duties = duties
        self._connected: set[str] = set()

    @property
    def away(self) -> bool:
        """Whether the broker does not answer this process."""
        return len(self._connected) < len(self._duties)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works meanwhile, whether the broker is there or not. At the end, what is under way is finished."""
        stopping = asyncio.Event()
        tasks = [
            asyncio.create_task(self._keep(name, duty, stopping), name=f"broker {name}")
            for name, duty in self._duties.items()
        ]
        try:
            yield
        finally:
            stopping.set()
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
                for task in late:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str, duty: Duty, stopping: asyncio.Event) -> None:
        failures = 0
        while not stopping.is_set():
            try:
                async with connected(self._address, name) as connection:
                    self._connected.add(name)
                    failures = 0
                    _log.info("broker.connected", duty=name)
                    await duty.work(connection, stopping)
            except Exception as error:  # whatever it is, it must be tried again
                failures += 1
                _log.warning("broker.lost", duty=name, failures=failures, error=_names(error))
            finally:
                self._connected.discard(name)
            if failures:
                await pause(stopping, self._address.pause_seconds(failures))


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Waits, but no longer than until we are told to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()


async def declare_topic(connection: AbstractConnection, name: str, *, durable: bool) -> None:
    """Makes a topic exchange unless there is one. One that somebody made with other properties serves as well."""
    channel = await connection.channel()
    try:
        await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=durable)
    except ChannelPreconditionFailed:
        _log.warning("broker.exchange_differs", exchange=name)
    finally:
        with contextlib.suppress(Exception):  # a refusal has closed it
            await channel.close()


def _names(error: BaseException) -> str:
    """What it was, without its text, which may quote a URL or what customers sent."""
    return _names(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else type(error).__name__
