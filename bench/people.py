"""`python -m bench.people`: accounts and agents, events to the broker, usage from it, and what the outbox costs intake.

A RabbitMQ of the benchmark's own runs beside the service; both share the machine with the load generator.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aio_pika
import msgspec
import uvloop
from rich.console import Console

from bench.client import BenchError, Reply, Request, expect, render
from bench.report import LATEST as LATEST_OF_ALL
from bench.report import Figure, Report, Target, at_least, below, describe_machine, print_report
from bench.server import own_service
from bench.session import Bench, Options, add_arguments
from bench.workloads import BATCH_EVENTS, EFFECTIVE_FROM
from tallystick.customers.model import NewCustomer
from tallystick.database.embedded import EmbeddedPostgres
from tallystick.database.pool import Pool
from tallystick.kernel.clock import SystemClock
from tallystick.metering.model import Meter
from tallystick.outbox.catalogue import ACCOUNT_CHANGED
from tallystick.outbox.messages import EVENTS
from tallystick.outbox.model import Event, Subject
from tallystick.outbox.service import lag
from tallystick.outbox.usage import USAGE
from tallystick.pricing.functions import MIN_QUANTUM, parse_model
from tallystick.pricing.model import NewPrice
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.outbox.rabbitmq import running_rabbitmq

LATEST: Final = LATEST_OF_ALL.with_name("people.json")

ACCOUNTS: Final = 1_000
"""Accounts, each with an agent, that are read."""

CUSTOMERS: Final = 1_000
"""Whom events are about, and usage is of."""

WARM_UP_SECONDS: Final = 3.0
TURNS: Final = 7
BATCHES_A_TURN: Final = 24
LOOK_SECONDS: Final = 0.05
STALL_SECONDS: Final = 120.0

NAME: Final = "bench"


def main() -> int:
    """Exit status 0 means that everything was measured and came out right, whether or not targets are met."""
    parser = argparse.ArgumentParser(prog="python -m bench.people", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--messages", type=int, default=50_000, help="events to the broker, and messages from it")
    parser.add_argument("--json", type=Path, help="write the report there too")
    arguments = parser.parse_args()
    options = Options(seconds=arguments.seconds, in_flight=arguments.in_flight, connections=arguments.connections)
    console = Console()
    with running_rabbitmq() as broker, tempfile.TemporaryDirectory(prefix="tally-bench-") as folder:
        people = _People(arguments.tally, options, console, broker.url)
        machine = describe_machine(Path(folder), "embedded")
        figures = people.surfaces() + people.intake()
        with (
            EmbeddedPostgres.start(Path(folder) / "data") as server,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            figures += runner.run(_broker(server.url, broker.url, arguments.messages, console))
    report = Report(machine, figures, [])
    print_report(report, console)
    LATEST.parent.mkdir(exist_ok=True)
    for path in filter(None, (LATEST, arguments.json)):
        path.write_bytes(report.to_json())
        console.print(f"written: {path}", style="dim", highlight=False)
    return 0


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """What processes that are started meanwhile find in their environment."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _People:
    """What is measured from outside."""

    def __init__(self, tally: Path, options: Options, console: Console, broker_url: str) -> None:
        self._tally = tally
        self._options = options
        self._console = console
        self._telling = {"ENABLE_EVENTS": "True", "CLOUDAMQP_URL": broker_url}

    @contextlib.contextmanager
    def _bench(self, **environment: str) -> Iterator[Bench]:
        with (
            _environment(**environment),
            own_service(self._tally, None) as service,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            yield Bench(service.address, self._options, self._console, runner, service)

    def surfaces(self) -> list[Figure]:
        """Accounts and agents, created and read, while everything that happens is told."""
        figures: list[Figure] = []
        with self._bench(**self._telling) as bench:
            accounts = [made.id for made in _created(bench, (_account(bench) for _ in range(ACCOUNTS)))]
            agents = _created(bench, (_agent(bench, account) for account in accounts))
            paths = {
                "account read": [f"/accounts/{account}" for account in accounts],
                "agent read": [f"/accounts/{agent.account_id}/agents/{agent.id}" for agent in agents],
            }
            for name, of_kind in paths.items():
                requests = [render(bench.address, "GET", path) for path in of_kind]
                figures += self._load(bench, name, itertools.cycle(requests), at_least(1_500))
            creations = {
                "account created": (_account(bench) for _ in itertools.count()),
                "agent created": (_agent(bench, account) for account in itertools.cycle(accounts)),
            }
            for name, requests_of in creations.items():
                figures += self._load(bench, name, requests_of, at_least(800))
        return figures

    def _load(self, bench: Bench, name: str, requests: Iterator[Request], target: Target) -> list[Figure]:
        self._console.print(f"[bold]{name}[/], {self._options.connections} connections", highlight=False)
        _wait_until_all_is_told(bench)
        window = bench.drive(
            requests,
            _check,
            connections=self._options.connections,
            seconds=self._options.seconds,
            warm_up_seconds=WARM_UP_SECONDS,
        )
        note = f"load {os.getloadavg()[0]:.1f}"
        return [
            Figure(benchmark="people", name=name, value=window.rate, unit="/s", target=target, note=note),
            Figure(benchmark="people", name=f"{name}, p50", value=window.milliseconds(0.5), unit="ms"),
            Figure(
                benchmark="people", name=f"{name}, p99", value=window.milliseconds(0.99), unit="ms", target=below(100)
            ),
        ]

    def intake(self) -> list[Figure]:
        """Batches of 10,000 events with the outbox and without it, in turns, so that both meet the same machine."""
        self._console.print("[bold]intake[/] with the outbox, and without", highlight=False)
        rates: dict[str, list[float]] = {"on": [], "off": []}
        with self._bench(**self._telling) as on, self._bench() as off:
            for bench in (on, off):
                bench.prepare()
                _turn(bench)  # warms up
            for turn in range(TURNS):
                order = [("on", on), ("off", off)]
                for name, bench in order if turn % 2 else reversed(order):
                    rates[name].append(_turn(bench))
        ratios = [1 - with_outbox / without for with_outbox, without in zip(rates["on"], rates["off"], strict=True)]
        means = {name: statistics.mean(of_kind) for name, of_kind in rates.items()}
        return [
            Figure(
                benchmark="intake",
                name="slower with the outbox",
                value=statistics.median(ratios) * 100,
                unit="%",
                target=below(5),
                note=f"median of {TURNS} pairs; means: {means['on']:,.0f}/s with it, {means['off']:,.0f}/s without",
                series=tuple(rates["on"] + rates["off"]),
            )
        ]


def _turn(bench: Bench) -> float:
    """Events per second."""
    some = itertools.islice(bench.batches, BATCHES_A_TURN)
    window = bench.drive(some, bench.record_batch, connections=bench.options.in_flight)
    return window.rate * BATCH_EVENTS


def _wait_until_all_is_told(bench: Bench) -> None:
    """So that no load pays for the events of the one before."""
    began = time.perf_counter()
    while b"\ntallystick_outbox_waiting_events 0.0\n" not in bench.get("/metrics").body:
        if time.perf_counter() - began > STALL_SECONDS:
            raise BenchError(f"events still waited after {STALL_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)


class _Created(msgspec.Struct):
    """The answer of an account or an agent, as far as it matters."""

    id: str
    account_id: str | None = None


def _check(reply: Reply) -> None:
    _read(reply)


def _read(reply: Reply) -> _Created:
    return msgspec.json.decode(expect(reply, 200).body, type=_Created)


def _created(bench: Bench, requests: Iterator[Request]) -> list[_Created]:
    """In the order in which they were answered."""
    created: list[_Created] = []
    bench.drive(requests, lambda reply: created.append(_read(reply)), connections=8)
    return created


def _account(bench: Bench) -> Request:
    body = {"name": NAME, "email": f"{uuid4().hex}@example.org", "region": "emea", "vip": False}
    return render(bench.address, "POST", "/accounts", msgspec.json.encode(body))


def _agent(bench: Bench, account: str) -> Request:
    body = {"name": NAME, "email": f"{uuid4().hex}@example.org"}
    return render(bench.address, "POST", f"/accounts/{account}/agents", msgspec.json.encode(body))


# The broker


async def _broker(url: str, broker_url: str, count: int, console: Console) -> list[Figure]:
    """Events that wait are published, and messages that wait are recorded, by a service that has just begun to work."""
    settings = Settings(dev=True, enable_events=True, broker_url=broker_url, broker_timeout_seconds=1)
    async with open_service(settings, url, SystemClock()) as service:
        await _priced(service)
        console.print(f"[bold]events[/]: {count:,} to the broker", highlight=False)
        await _subscribe(broker_url)
        await _tell(service, count)
        published = await _seconds(service, lambda: _is_published(service.pool))
        console.print(f"[bold]usage[/]: {count:,} messages from the broker", highlight=False)
        await _send(broker_url, count)
        recorded = await _seconds(service, lambda: _is_recorded(service.pool, count))
    note = f"load {os.getloadavg()[0]:.1f}"
    return [
        Figure(
            benchmark="broker",
            name=f"{count:,} events published, confirmed and removed",
            value=count / published,
            unit="/s",
            target=at_least(5_000),
            note=note,
        ),
        Figure(
            benchmark="broker",
            name=f"{count:,} messages of one event recorded, charged and acknowledged",
            value=count / recorded,
            unit="/s",
            note=note,
        ),
    ]


async def _seconds(service: Service, is_done: Callable[[], Awaitable[bool]]) -> float:
    """How long the service works until it is done."""
    assert service.messaging is not None
    began = time.perf_counter()
    async with service.messaging.running():
        while not await is_done():
            if time.perf_counter() - began > STALL_SECONDS:
                raise BenchError(f"it was not done within {STALL_SECONDS:.0f} s")
            await asyncio.sleep(LOOK_SECONDS)
        return time.perf_counter() - began


async def _is_published(pool: Pool) -> bool:
    async with pool.connection() as conn:
        return not (await lag(conn, SystemClock().now())).waiting


async def _is_recorded(pool: Pool, count: int) -> bool:
    async with pool.connection() as conn:
        ((measurements,),) = await (await conn.execute("select sum(measurements) from usage_totals")).fetchall()
    return int(measurements or 0) >= count


async def _priced(service: Service) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        await service.meters.put(conn, Meter("tokens"))
        model = parse_model({"type": "per_unit", "amount": "2"})
        start = datetime.fromisoformat(EFFECTIVE_FROM)
        await service.pricing.create(conn, NewPrice("tokens", "", None, start, "CREDIT", MIN_QUANTUM, model))


async def _subscribe(broker_url: str) -> None:
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        exchange = await channel.declare_exchange(EVENTS, aio_pika.ExchangeType.TOPIC, durable=True)
        await (await channel.declare_queue(NAME, durable=True)).bind(exchange, "#")


async def _tell(service: Service, count: int) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        subjects = []
        for number in range(CUSTOMERS):
            new = NewCustomer(f"customer-{number}", "Ada Ltd", f"{number}@example.org", region="emea")
            subjects.append(Subject.of(await service.accounts.create(conn, new)))
        about = itertools.cycle(subjects)
        events = [_event(service, next(about)) for _ in range(count - CUSTOMERS)]
        await service.outbox.tell(conn, events)


def _event(service: Service, subject: Subject) -> Event:
    data: dict[str, Any] = {**ACCOUNT_CHANGED.data, "id": str(subject.id)}
    return Event(uuid4(), ACCOUNT_CHANGED.name, service.clock.now(), subject, data)


async def _send(broker_url: str, count: int) -> None:
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        await channel.declare_queue(USAGE, durable=True)
        messages = [_message(number) for number in range(count)]
        for start in range(0, count, CUSTOMERS):
            some = messages[start : start + CUSTOMERS]
            await asyncio.gather(*[channel.default_exchange.publish(message, USAGE) for message in some])


def _message(number: int) -> aio_pika.Message:
    event = {
        "specversion": "1.0",
        "source": "/bench",
        "id": str(uuid4()),
        "type": "tokens",
        "subject": f"customer-{number % CUSTOMERS}",
        "data": {"value": 1},
    }
    return aio_pika.Message(
        msgspec.json.encode(event),
        content_type="application/cloudevents+json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


if __name__ == "__main__":
    sys.exit(main())
