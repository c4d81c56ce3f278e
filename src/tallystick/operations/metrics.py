"""Metrics for Prometheus, put together when somebody asks: the rooms count plainly, only this module knows the format.

Nothing here is kept between two scrapes, and no label has a value that a caller could make up: there are only so many
series, however much traffic there is. Counts are those of this process; Prometheus adds those of several.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import psycopg
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

import tallystick
from tallystick.database.group_commit import GroupCommit
from tallystick.database.pool import Connection, Pool
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.counting import Distribution
from tallystick.ledger.contract import Ledger
from tallystick.ledger.desk import Desk
from tallystick.ledger.tigerbeetle.promises import Lag
from tallystick.metering.pulls import Pulls
from tallystick.metering.service import IntakeQueue
from tallystick.metering.sources.prometheus import Reader
from tallystick.notices.service import count_of
from tallystick.operations.health import PATIENCE_SECONDS, Lagging, Reached
from tallystick.operations.traffic import Traffic
from tallystick.outbox import service as outbox
from tallystick.outbox.webhooks import queue as webhooks

_SQL = Queries(Path(__file__).with_name("metrics.sql"))

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus's text format, which every version of it reads."""

MAX_QUARANTINE_COUNTED: Final = 100_000
"""A scrape counts no further; whoever has so many pieces knows enough."""

MILLISECONDS: Final = 1000

NEVER_BEHIND: Final = Lag(waiting=0, oldest_seconds=0, refused=0)

Source = Callable[[Connection], Awaitable[Iterable[Metric]]]
"""Reads metrics of a room from the database, in few short statements."""


class Metrics:
    """What there is to tell about this process and its database."""

    def __init__(
        self,
        pool: Pool,
        intake: IntakeQueue,
        desk: Desk,
        ledger: Ledger,
        traffic: Traffic,
        sources: Sequence[Source] = (),
    ) -> None:
        """``sources`` are asked at each scrape; all of them together get ``PATIENCE_SECONDS``."""
        self._pool = pool
        self._intake = intake
        self._desk = desk
        self._ledger = ledger if isinstance(ledger, Lagging) else None
        self._traffic = traffic
        self._sources = (self._ledger_lag, _quarantine, *sources)
        self._process = CollectorRegistry(auto_describe=False)  # the library's own one is for the whole interpreter
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)

    async def text(self) -> bytes:
        """The metrics in Prometheus's text format.

        What stands in the database is left out, and ``tallystick_database_up`` is 0, if it does not answer in time.
        """
        families = _Families([*await self._stored(), *self._counted(), *self._process.collect()])
        return await asyncio.to_thread(generate_latest, families)  # text of hundreds of kilobytes, while others go on

    async def _stored(self) -> list[Metric]:
        found: list[Metric] = []
        up = True
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._pool.connection() as conn:
                for source in self._sources:
                    found.extend(await source(conn))
        except (TimeoutError, psycopg.OperationalError, psycopg.InterfaceError):
            up = False
            found.clear()
        return [_gauge("tallystick_database_up", "Whether the database answered within two seconds.", int(up)), *found]

    async def _ledger_lag(self, conn: Connection) -> list[Metric]:
        """Zeros where the database itself is the ledger: it is never behind."""
        lag = await self._ledger.lag(conn) if self._ledger else NEVER_BEHIND
        away = self._ledger is not None and self._ledger.away
        return [
            _gauge("tallystick_ledger_up", "Whether the ledger answers.", int(not away)),
            _gauge("tallystick_ledger_lag_seconds", "Age of the oldest transfer that waits.", lag.oldest_seconds),
            _gauge("tallystick_ledger_waiting_transfers", "Transfers promised, not posted yet.", lag.waiting),
            _gauge("tallystick_ledger_refused_transfers", "Promises that the ledger refused.", lag.refused),
        ]

    def _counted(self) -> Iterator[Metric]:
        build = {"version": tallystick.__version__, "python": platform.python_version()}
        yield InfoMetricFamily("tallystick_build", "What runs.", value=build)
        yield from self._usage()
        yield from _queues([*self._intake.lanes, self._desk.group])
        yield from _http(self._traffic)
        yield from _connections(self._pool.get_stats())

    def _usage(self) -> Iterator[Metric]:
        """Of each door, what its receipts added up to since the start."""
        for name, documentation in (
            ("accepted", "Measurements that were new, those without a price among them."),
            ("charged", "Measurements that were new and have a price."),
            ("unpriced", "Measurements that were new and have no price yet."),
            ("duplicates", "Measurements that were known already."),
            ("rejected", "Pieces that could not be read and went into quarantine."),
        ):
            family = CounterMetricFamily(f"tallystick_intake_{name}", documentation, labels=["door"])
            for door, received in self._intake.received.items():
                family.add_metric([door], getattr(received, name))
            yield family


def ignored_samples(reader: Reader) -> Source:
    """What Prometheus sent that is no usage."""

    async def source(_: Connection) -> list[Metric]:
        text = "Samples that were left alone: no rule maps their series, or it has ended."
        return [CounterMetricFamily("tallystick_prometheus_ignored_samples", text, value=reader.ignored)]

    return source


def pull_lag(clock: Clock, pulls: Pulls) -> Source:
    """How far sources that are asked for periods are behind."""

    async def source(conn: Connection) -> list[Metric]:
        lag = GaugeMetricFamily(
            "tallystick_pull_lag_seconds", "Time since the first instant that was not asked for.", labels=["source"]
        )
        now = clock.now()
        for progress in await pulls.all(conn):
            lag.add_metric([progress.source], max(0, (now - progress.until) // timedelta(seconds=1)))
        return [lag]

    return source


def outbox_lag(clock: Clock, broker: Reached | None) -> Source:
    """How far the broker is behind; nothing where there is none."""

    async def source(conn: Connection) -> list[Metric]:
        if broker is None:
            return []
        lag = await outbox.lag(conn, clock.now())
        return [
            _gauge("tallystick_broker_up", "Whether the broker answers this process.", int(not broker.away)),
            _gauge("tallystick_outbox_lag_seconds", "Age of the oldest event that waits.", lag.oldest_seconds),
            _gauge("tallystick_outbox_waiting_events", f"Events that wait, up to {outbox.MAX_COUNTED}.", lag.waiting),
        ]

    return source


def webhook_lag() -> Source:
    """How many webhooks there are, and how much waits for those that are told."""

    async def source(conn: Connection) -> list[Metric]:
        lag = await webhooks.lag(conn)
        endpoints = GaugeMetricFamily("tallystick_webhooks", "Webhooks, by state.", labels=["state"])
        for state, count in (await webhooks.count_endpoints(conn)).items():
            endpoints.add_metric([state], count)
        waiting = f"Deliveries that wait, up to {webhooks.MAX_COUNTED}."
        return [
            endpoints,
            _gauge("tallystick_webhook_lag_seconds", "Age of the oldest delivery that waits.", lag.oldest_seconds),
            _gauge("tallystick_webhook_waiting_deliveries", waiting, lag.waiting),
        ]

    return source


async def notice_counts(conn: Connection) -> list[Metric]:
    """What was raised and has not reached anybody."""
    family = GaugeMetricFamily("tallystick_notices", "Notices that nobody has got, by state.", labels=["state"])
    for state, count in (await count_of(conn, ("waiting", "failed", "unaddressed"))).items():
        family.add_metric([state], count)
    return [family]


class _Families(Collector):
    """Metrics that have been read already, for the library's formatter."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _quarantine(conn: Connection) -> list[Metric]:
    row = await (await conn.execute(_SQL.quarantined, {"limit": MAX_QUARANTINE_COUNTED})).fetchone()
    text = f"Pieces that wait in quarantine, up to {MAX_QUARANTINE_COUNTED}."
    return [_gauge("tallystick_quarantine_pieces", text, row[0] if row else 0)]


def _queues(queues: list[GroupCommit[Any, Any]]) -> Iterator[Metric]:
    """Items are measurements in the queues of intake, orders in that of the desk."""
    waiting = GaugeMetricFamily("tallystick_queue_items", "Items that wait.", labels=["queue"])
    limit = GaugeMetricFamily("tallystick_queue_limit_items", "Items at which a queue refuses more.", labels=["queue"])
    items = HistogramMetricFamily("tallystick_group_items", "Items that shared a transaction.", labels=["queue"])
    seconds = HistogramMetricFamily("tallystick_group_seconds", "Time that a group took.", labels=["queue"])
    for queue in queues:
        waiting.add_metric([queue.name], queue.queued_weight)
        limit.add_metric([queue.name], queue.max_queued_weight)
        _add(items, [queue.name], queue.weights)
        _add(seconds, [queue.name], queue.seconds)
    yield from (waiting, limit, items, seconds)


def _http(traffic: Traffic) -> Iterator[Metric]:
    seconds = HistogramMetricFamily(
        "tallystick_http_request_duration_seconds",
        "Time from the head of a request to the end of its answer, by template of the path.",
        labels=["route", "method", "status"],
    )
    for (route, method, leading_digit), durations in traffic.seconds.items():
        _add(seconds, [route, method, f"{leading_digit}xx"], durations)
    yield seconds
    errors = CounterMetricFamily("tallystick_http_errors", "Requests that were refused or failed.", labels=["code"])
    for code, count in traffic.errors.items():
        errors.add_metric([code], count)
    yield errors


def _connections(stats: Mapping[str, int]) -> Iterator[Metric]:
    """The pool's own figures; one that has not happened yet is not among them."""
    for name, key, documentation in (
        ("connections", "pool_size", "Connections to the database."),
        ("idle_connections", "pool_available", "Connections that nobody uses."),
        ("waiting_requests", "requests_waiting", "Requests that wait for a connection."),
    ):
        yield _gauge(f"tallystick_database_pool_{name}", documentation, stats.get(key, 0))
    for name, key, documentation, divisor in (
        ("requests", "requests_num", "Requests for a connection.", 1),
        ("queued_requests", "requests_queued", "Requests that had to wait for a connection.", 1),
        ("failed_requests", "requests_errors", "Requests that got no connection.", 1),
        ("lost_connections", "connections_lost", "Connections that were found broken.", 1),
        ("wait_seconds", "requests_wait_ms", "Time that requests waited for a connection.", MILLISECONDS),
        ("usage_seconds", "usage_ms", "Time that connections were in use.", MILLISECONDS),
    ):
        yield CounterMetricFamily(f"tallystick_database_pool_{name}", documentation, stats.get(key, 0) / divisor)


def _gauge(name: str, documentation: str, value: int) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _add(family: HistogramMetricFamily, labels: list[str], distribution: Distribution) -> None:
    """Prometheus's buckets hold all that lies below their bound, not only what lies between it and the last one."""
    bounds = [*map(str, distribution.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(distribution.counts), strict=True))
    family.add_metric(labels, buckets, distribution.total)
