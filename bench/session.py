"""One run: its options, the service it measures, and what the benchmarks share."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import uvloop
from rich.console import Console

from bench import workloads
from bench.client import Address, BenchError, Reply, Request, Window, call, drive, expect, render
from bench.sampling import Sampler
from bench.server import Service, default_command, own_service
from bench.workloads import BATCH_EVENTS

MILLION: Final = 1_000_000
MOST_BATCHES_PER_SECOND: Final = 20  # a faster service would be sent events of the future


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen; the defaults are those of the issue."""

    seconds: float = 20.0
    in_flight: int = 8
    connections: int = 64
    fill: int = MILLION


class Recorded(msgspec.Struct):
    """The reply of POST /api/v1/events."""

    accepted: int
    duplicates: int
    unpriced: int
    rejected: list[Any]


decode_recorded = msgspec.json.Decoder(Recorded).decode


@dataclass(slots=True)
class Bench:
    """What the benchmarks share. `service` and `sampler` are absent when a service elsewhere is measured."""

    address: Address
    options: Options
    console: Console
    runner: asyncio.Runner
    service: Service | None = None
    sampler: Sampler | None = None
    accepted: int = 0  # events, by this run
    batches: workloads.Batches = field(init=False)

    def __post_init__(self) -> None:
        expected = self.options.fill // BATCH_EVENTS + int(self.options.seconds) * MOST_BATCHES_PER_SECOND + 100
        self.batches = workloads.Batches(self.address, expected)

    def drive(self, requests: Iterator[Request], check: Callable[[Reply], None], **how: Any) -> Window:
        """Run `client.drive` to its end."""
        return self.runner.run(drive(self.address, requests, check, **how))

    def call(self, request: Request, *expected: int, timeout_seconds: float = 60.0) -> Reply:
        """Send one request and return its reply, which must have an expected status (200 if none is given)."""
        return self.runner.run(call(self.address, request, expected or (200,), timeout_seconds))

    def get(self, path: str, timeout_seconds: float = 60.0) -> Reply:
        return self.call(render(self.address, "GET", path), timeout_seconds=timeout_seconds)

    def prepare(self) -> None:
        """Create meters and prices, and the customers by a first batch. Harmless where they exist."""
        for request in workloads.setup_requests(self.address):
            self.call(request, 200, 201, 409)
        self.record_batch(self.call(self.batches.take()))

    def record_batch(self, reply: Reply) -> None:
        self._record(reply, BATCH_EVENTS)

    def record_single(self, reply: Reply) -> None:
        self._record(reply, 1)

    def _record(self, reply: Reply, sent: int) -> None:
        """Count the events of a reply; all that were sent must be new, priced and accepted."""
        recorded = decode_recorded(expect(reply, 200).body)
        if recorded.accepted != sent or recorded.duplicates or recorded.unpriced or recorded.rejected:
            raise BenchError(f"sent {sent} fresh, priced events and got {reply.body[:300].decode(errors='replace')}")
        self.accepted += sent

    def processors(self, window: Window) -> dict[str, float]:
        """Processors in use on average during the window."""
        return self.sampler.cpu_between(window.began, window.ended) if self.sampler else {}


@contextlib.contextmanager
def open_bench(arguments: argparse.Namespace, options: Options, console: Console) -> Iterator[Bench]:
    """Measure the service at --url, or one of our own that is sampled, and ends with us."""
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        if arguments.url:
            parts = urlsplit(arguments.url)
            yield Bench(Address(parts.hostname or "127.0.0.1", parts.port or 80), options, console, runner)
            return
        service = stack.enter_context(own_service(arguments.tally, arguments.data_dir))
        sampler = stack.enter_context(Sampler(service.roots))
        yield Bench(service.address, options, console, runner, service, sampler)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that measuring and profiling share."""
    defaults = Options()
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="measured time of each load")
    parser.add_argument("--in-flight", type=int, default=defaults.in_flight, help="batches in flight")
    parser.add_argument("--connections", type=int, default=defaults.connections, help="connections of small requests")
    parser.add_argument("--data-dir", type=Path, help="data folder to use and keep (default: a temporary one)")
    parser.add_argument("--tally", type=Path, default=default_command(), help="the command that starts the service")
