"""A minimal HTTP/1.1 load generator: keep-alive connections on raw asyncio protocols.

It shares the machine's cores with what it measures, so it does as little as possible per reply: find the end of the
head, read the status and Content-Length, hand over the body, send the next request from within the same callback.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, cast

STALL_SECONDS = 60.0  # a load run without a single reply for this long has failed


class BenchError(Exception):
    """A benchmark could not be measured, or what it measured was wrong."""


class Address(NamedTuple):
    """Where the service listens."""

    host: str
    port: int


class Request(NamedTuple):
    """A rendered request; head and body are apart so that a body of megabytes is not copied to add a head."""

    head: bytes
    body: bytes = b""


class Reply(NamedTuple):
    """A complete answer."""

    status: int
    body: bytes


Check = Callable[[Reply], None]
"""Looks at a reply and raises `BenchError` if it is not what the benchmark counts."""


def render(
    address: Address, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
) -> Request:
    """Render one request for a keep-alive connection."""
    return Request(render_head(address, method, path, len(body), content_type), body)


def render_head(address: Address, method: str, path: str, length: int, content_type: str) -> bytes:
    """Render the head of a request whose body has `length` bytes."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@dataclass(frozen=True, slots=True)
class Window:
    """The measured part of a load run; times are monotonic seconds.

    A run with a warm-up is measured while every connection is busy on both edges: a reply counts where it arrives.
    """

    began: float
    ended: float
    finishes: list[float]
    latencies: list[float]

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def rate(self) -> float:
        """Replies per second."""
        return len(self.finishes) / self.seconds

    def milliseconds(self, quantile: float) -> float:
        """The latency that `quantile` of the replies did not exceed (nearest rank), in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[math.ceil(quantile * len(ordered)) - 1] * 1000


@dataclass(slots=True)
class _Load:
    """What the connections of one run share."""

    requests: Iterator[Request]
    check: Check
    deadline: float | None
    done: asyncio.Future[None]
    lanes: list[_Lane] = field(default_factory=list)
    active: int = 0
    finishes: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def take(self) -> Request | None:
        if self.done.done() or (self.deadline is not None and time.perf_counter() >= self.deadline):
            return None
        return next(self.requests, None)

    def leave(self) -> None:
        self.active -= 1
        if self.active == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Lane(asyncio.Protocol):
    """One connection with one request in flight: a reply is checked and followed by the next request at once."""

    __slots__ = ("_begun", "_buffer", "_length", "_load", "_status", "_transport")

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._buffer = bytearray()
        self._length = -1  # of the body; negative while the head is incomplete
        self._status = 0
        self._begun = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send_next(self) -> None:
        """Send the next request, or close the connection when there is none."""
        if self._transport is None:
            return
        request = self._load.take()
        if request is None:
            transport, self._transport = self._transport, None
            transport.close()
            self._load.leave()
            return
        self._begun = time.perf_counter()
        self._transport.write(request.head)
        if request.body:
            self._transport.write(request.body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            reply = self._complete()
            if reply is None:
                return
            finished = time.perf_counter()
            self._load.finishes.append(finished)
            self._load.latencies.append(finished - self._begun)
            self._load.check(reply)
            self.send_next()
        except Exception as error:  # whatever goes wrong in a callback must end the run, not vanish in the loop
            self._load.fail(error)

    def _complete(self) -> Reply | None:
        buffer = self._buffer
        if self._length < 0:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._status, self._length = _read_head(bytes(buffer[:end]))
            del buffer[: end + 4]
        if len(buffer) < self._length:
            return None
        if len(buffer) > self._length:
            raise BenchError("the service sent more than its Content-Length")
        self._length = -1
        self._buffer = bytearray()
        return Reply(self._status, bytes(buffer))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:  # we did not close it
            self._transport = None
            self._load.fail(BenchError(f"the service closed a busy connection: {exc or 'end of file'}"))

    def abandon(self) -> None:
        """Drop the connection, whatever it was doing."""
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()


def _read_head(head: bytes) -> tuple[int, int]:
    """Status and body length of a response head."""
    if not head.startswith(b"HTTP/1.1 "):
        raise BenchError(f"not an HTTP/1.1 response: {head[:40]!r}")
    if head.startswith(b"HTTP/1.1 204 "):  # which has no body, and does not say so
        return 204, 0
    at = head.lower().find(b"\r\ncontent-length:")
    if at < 0:
        raise BenchError("the service answered without Content-Length, which this client does not read")
    return int(head[9:12]), int(head[at + 17 :].split(b"\r\n", 1)[0])


async def drive(
    address: Address,
    requests: Iterator[Request],
    check: Check,
    *,
    connections: int = 1,
    seconds: float | None = None,
    warm_up_seconds: float = 0.0,
    stall_seconds: float = STALL_SECONDS,
) -> Window:
    """Send `requests` over `connections`, one at a time on each, until they or the time are used up.

    With `seconds`, the window starts after the warm-up and replies count where they arrive; without, it is the whole
    run. Raises `BenchError` when a reply fails its check, a connection breaks or nothing is answered for too long.
    """
    loop = asyncio.get_running_loop()
    load = _Load(requests, check, None, loop.create_future())
    try:
        for _ in range(connections):
            _, lane = await loop.create_connection(lambda: _Lane(load), address.host, address.port)
            load.lanes.append(lane)
        load.active = connections
        began = time.perf_counter() + warm_up_seconds
        load.deadline = None if seconds is None else began + seconds
        for lane in load.lanes:
            lane.send_next()
        await _finish(load, stall_seconds)
    except OSError as error:
        raise BenchError(f"no connection to {address.host}:{address.port}: {error}") from error
    finally:
        for lane in load.lanes:
            lane.abandon()
    ended = load.deadline or max(load.finishes, default=began)
    inside = [index for index, finish in enumerate(load.finishes) if began <= finish <= ended]
    if not inside:
        raise BenchError("nothing was answered within the measured window")
    return Window(began, ended, [load.finishes[i] for i in inside], [load.latencies[i] for i in inside])


async def _finish(load: _Load, stall_seconds: float) -> None:
    """Wait for the run's end as long as replies keep coming."""
    seen = -1
    while not load.done.done():
        if len(load.finishes) == seen:
            raise BenchError(f"no reply within {stall_seconds:.0f} s")
        seen = len(load.finishes)
        await asyncio.wait([load.done], timeout=stall_seconds)
    load.done.result()


async def call(
    address: Address, request: Request, expected: tuple[int, ...] = (200,), timeout_seconds: float = 60.0
) -> Reply:
    """Send one request on a connection of its own; any other status than the expected ones raises `BenchError`."""
    replies: list[Reply] = []
    await drive(address, iter([request]), replies.append, stall_seconds=timeout_seconds)
    return expect(replies[0], *expected)


def expect(reply: Reply, *statuses: int) -> Reply:
    """Return the reply if it has one of the statuses; raise `BenchError` with its beginning otherwise."""
    if reply.status not in statuses:
        raise BenchError(f"status {reply.status}: {reply.body[:300].decode(errors='replace')}")
    return reply
