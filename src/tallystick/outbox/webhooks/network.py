"""The network as webhooks see it: a host is resolved once, judged, and met at an address that was judged.

There is no second question to anybody who might answer otherwise this time (DNS rebinding). TLS still checks the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Final

import httpcore

from tallystick.outbox.webhooks.territory import Address, Territory

CONNECT_SECONDS: Final = 5
"""How long an address may take to let us in before the next one is tried."""

MAX_ADDRESSES: Final = 16
"""A name may have more; the first ones are judged, and tried."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, best first. Raises ``OSError`` if it has none."""


@contextmanager
def system_resolver(threads: int) -> Iterator[Resolve]:
    """Asks the system, in threads of its own: of the event loop's there are few, and whoever has a name that takes long
    to resolve would keep all others in the process waiting for theirs.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="webhook-resolver")

    async def resolve(host: str, port: int) -> list[str]:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(executor, ask)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    try:
        yield resolve
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """The network as a client of HTTP sees it: connects to checked addresses, and nowhere else."""

    def __init__(self, territory: Territory, resolve: Resolve, *, is_plain: bool) -> None:
        """``is_plain``: whether what is said there can be read on the way."""
        self._territory = territory
        self._resolve = resolve
        self._is_plain = is_plain
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 as the interface has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises ``Forbidden`` if the host has any address that it must not have, ``httpcore.ConnectError``,
        ``httpcore.ConnectTimeout``.
        """
        failure: Exception = httpcore.ConnectError("the host has no address")
        for address in await self._checked(host, port):
            try:
                return await self._inner.connect_tcp(str(address), port, CONNECT_SECONDS, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _checked(self, host: str, port: int) -> list[Address]:
        try:
            found = (await self._resolve(host, port))[:MAX_ADDRESSES]
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("the host has no address") from None
        addresses = [ipaddress.ip_address(text) for text in found]
        for address in addresses:
            self._territory.check(address, is_plain=self._is_plain)
        return addresses
