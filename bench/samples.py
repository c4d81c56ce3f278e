"""Usage as samples of running totals: Prometheus remote write, and InfluxDB's line protocol, 5,000 in a batch.

What is sent is what an OpenStack cloud has: a thousand projects at forty locations, each with a total that rises. A
sender spreads its series over shards, and has one batch of each in flight, as Prometheus does: at full load over up to
50 shards, and a batch has the last few scrapes of a shard's series. As in `workloads`, all samples have the same width
and a batch is a template whose times and values are patched column by column.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

import cramjam
import msgspec

from bench import workloads
from bench.client import Address, BenchError, Reply, Request, Window, expect, render_head
from bench.report import Figure, at_least
from bench.session import Bench

BATCH_SAMPLES: Final = 5_000
PROJECTS: Final = 1_000
LOCATIONS: Final = 40
SERIES: Final = PROJECTS * LOCATIONS
METRIC: Final = "project_vcpu_usage"
NO_USAGE: Final = "node_load1_average"  # what Prometheus measures besides; as long as the other
MIXED: Final = 10  # of so many projects, one has usage in the mixed load
START: Final = datetime(2026, 5, 2, tzinfo=UTC)  # all steps of a run lie in this month
STEP_SECONDS: Final = 60
STEP_HOURS: Final = Decimal("0.25")  # by so much each total rises in a step; exact in binary too
WARM_UP_SECONDS: Final = 3.0
CHECKED_PROJECTS: Final = 20
TARGET: Final = at_least(60_000)

REMOTE_WRITE: Final = "/api/v1/prometheus/write"
LINE_PROTOCOL: Final = "/write"


@dataclass(frozen=True, slots=True)
class Spread:
    """How a sender spreads its series: over so many shards, with a batch of each in flight at most."""

    shards: int

    @property
    def series(self) -> int:
        """Of one shard."""
        return SERIES // self.shards

    @property
    def steps(self) -> int:
        """Samples of each series in a batch."""
        return BATCH_SAMPLES // self.series


BUSY: Final = Spread(shards=32)
"""A sender with more to send than is taken: 1,250 series in a batch, four scrapes of each."""

WIDE: Final = Spread(shards=8)
"""Each sample of a batch is another series'."""


@dataclass(slots=True)
class Sender:
    """Batches of one run, with projects that nobody has used before."""

    address: Address
    path: str
    spread: Spread = BUSY
    usage_of: int = 1  # one project of so many has usage, the others series that no rule maps
    run: str = field(default_factory=lambda: workloads.uuid7(time.time_ns() // 1_000_000).decode())
    sent: int = 0

    def project(self, number: int) -> str:
        return f"{self.run}-{number:04d}"

    def labels(self) -> list[dict[str, str]]:
        """Of each series, those that exporter and Prometheus give it, in the order in which shards share them."""
        series = [
            {
                "__name__": NO_USAGE if number % self.usage_of else METRIC,
                "domain_id": "default",
                "domain_name": "elixir",
                "instance": "usage_exporter:8080",
                "job": "project_usages",
                "location": f"site-{location:02d}",
                "location_id": f"{location:04d}",
                "project_id": f"{number:032x}",
                "project_name": self.project(number),
            }
            for location in range(LOCATIONS)
            for number in range(PROJECTS)
        ]
        random.Random(1).shuffle(series)  # as a hash does
        return series

    def __iter__(self) -> Iterator[Request]:
        labels, size = self.labels(), self.spread.series
        shards = [self.template(labels[start : start + size]) for start in range(0, SERIES, size)]
        while True:
            batch, shard = divmod(self.sent, self.spread.shards)
            self.sent += 1
            yield self.request(shards[shard], batch * self.spread.steps)

    def template(self, series: list[dict[str, str]]) -> bytearray:
        """A batch of a shard, one scrape after the other, whose times and values are filled in later."""
        return bytearray(b"".join(map(self.sample, series)) * self.spread.steps)

    def sample(self, labels: dict[str, str]) -> bytes:
        raise NotImplementedError

    def request(self, template: bytearray, first_step: int) -> Request:
        raise NotImplementedError

    def patch(self, template: bytearray, first_step: int, time_of: Callable[[int], bytes], values: bytes) -> None:
        """Fills in the values, and behind each the time of its step."""
        stride, scrape = len(template) // BATCH_SAMPLES, len(template) // self.spread.steps
        for step in range(self.spread.steps):
            instant = time_of(_second(first_step + step))
            end = (step + 1) * scrape
            for column, byte in enumerate(instant, end - scrape + stride - len(instant)):
                template[column:end:stride] = bytes([byte]) * self.spread.series
        width = len(values) // BATCH_SAMPLES
        for column, start in enumerate(range(stride - len(instant) - width, stride - len(instant))):
            template[start::stride] = values[column::width]

    def values(self, first_step: int) -> list[float]:
        """Where the totals of a batch stand: each somewhere else, all between 100,000 and 1,000,000, and exact."""
        rises = [float(STEP_HOURS) * step for step in range(first_step, first_step + self.spread.steps)]
        return [100_000 + 137.25 * number + rise for rise in rises for number in range(self.spread.series)]

    @property
    def steps(self) -> list[int]:
        """How many samples were sent of each series of a shard, by shard."""
        shards = self.spread.shards
        return [(self.sent - shard + shards - 1) // shards * self.spread.steps for shard in range(shards)]

    def due(self, project: int) -> tuple[Decimal, int]:
        """Hours and samples of a project once everything sent is answered; first values are baselines."""
        size = self.spread.series
        shards = [
            place // size
            for place, labels in enumerate(self.labels())
            if labels["project_name"] == self.project(project)
        ]
        samples = [self.steps[shard] for shard in shards]
        return sum((STEP_HOURS * (count - 1) for count in samples), Decimal(0)), sum(samples)


class PrometheusSender(Sender):
    """Remote write 1.0, as Prometheus sends it: compressed messages, each of one sample of a series."""

    def sample(self, labels: dict[str, str]) -> bytes:
        sample = b"\x12\x10\x09" + bytes(8) + b"\x10" + bytes(6)
        return _part(0x0A, b"".join(_part(0x0A, _label(*pair)) for pair in labels.items()) + sample)

    def request(self, template: bytearray, first_step: int) -> Request:
        values = struct.pack(f"<{BATCH_SAMPLES}d", *self.values(first_step))
        self.patch(template, first_step, lambda second: b"\x10" + _varint(second * 1000), values)
        body = bytes(cramjam.snappy.compress_raw(bytes(template)))
        head = render_head(self.address, "POST", self.path, len(body), "application/x-protobuf")
        return Request(head, body)


class LineSender(Sender):
    """The same samples as InfluxDB mirrors them."""

    def sample(self, labels: dict[str, str]) -> bytes:
        tags = ",".join(f"{name}={text}" for name, text in labels.items())
        return f"{METRIC},{tags} value=000000.00 {0:019d}\n".encode()

    def request(self, template: bytearray, first_step: int) -> Request:
        values = "".join([f"{value:.2f}" for value in self.values(first_step)]).encode()
        self.patch(template, first_step, lambda second: f" {second * 10**9:019d}\n".encode(), values)
        return Request(render_head(self.address, "POST", self.path, len(template), "text/plain"), bytes(template))


def _second(step: int) -> int:
    return int(START.timestamp()) + step * STEP_SECONDS


def _label(name: str, value: str) -> bytes:
    return _part(0x0A, name.encode()) + _part(0x12, value.encode())


def _part(tag: int, content: bytes) -> bytes:
    """A field of Protocol Buffers that has a length."""
    return bytes([tag]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


# --- the benchmarks --------------------------------------------------------------------------------------------------


def remote_write(bench: Bench) -> list[Figure]:
    """Prometheus remote write, 5,000 samples in a request: all usage, of few series and of many; then a tenth of it."""
    name = "remote_write"
    busy = _drive(bench, PrometheusSender(bench.address, REMOTE_WRITE), 204)
    wide = _drive(bench, PrometheusSender(bench.address, REMOTE_WRITE, WIDE), 204)
    mixed = _drive(bench, PrometheusSender(bench.address, REMOTE_WRITE, WIDE, usage_of=MIXED), 204)
    return [
        *_figures(name, bench, busy),
        _wide(name, wide),
        Figure(
            benchmark=name,
            name="samples taken, one in ten usage",
            value=mixed.rate * BATCH_SAMPLES,
            unit="/s",
            note="the others are of series that no rule maps",
        ),
    ]


def line_protocol(bench: Bench) -> list[Figure]:
    """InfluxDB's line protocol, 5,000 lines in a request: of few series and of many."""
    name = "line_protocol"
    busy = _drive(bench, LineSender(bench.address, LINE_PROTOCOL), 202)
    wide = _drive(bench, LineSender(bench.address, LINE_PROTOCOL, WIDE), 202)
    return [*_figures(name, bench, busy), _wide(name, wide)]


def _drive(bench: Bench, sender: Sender, status: int) -> Window:
    def check(reply: Reply) -> None:
        expect(reply, status)

    requests = iter(sender)
    for _ in range(sender.spread.shards):  # the first values are baselines: of each series, before any other
        check(bench.call(next(requests), status))
    window = bench.drive(
        requests,
        check,
        connections=sender.spread.shards,
        seconds=bench.options.seconds,
        warm_up_seconds=WARM_UP_SECONDS,
    )
    _check_usage(bench, sender)
    bench.accepted += BATCH_SAMPLES * sender.sent // sender.usage_of
    return window


def _figures(name: str, bench: Bench, window: Window) -> list[Figure]:
    return [
        Figure(
            benchmark=name,
            name="samples charged",
            value=window.rate * BATCH_SAMPLES,
            unit="/s",
            target=TARGET,
            note=f"{SERIES:,} counters of {PROJECTS:,} projects; {BUSY.shards} batches of {BUSY.series:,} in flight",
            processors=bench.processors(window),
        ),
        Figure(benchmark=name, name=f"batch of {BATCH_SAMPLES:,}, p50", value=window.milliseconds(0.5), unit="ms"),
        Figure(benchmark=name, name=f"batch of {BATCH_SAMPLES:,}, p99", value=window.milliseconds(0.99), unit="ms"),
    ]


def _wide(name: str, window: Window) -> Figure:
    return Figure(
        benchmark=name,
        name="samples charged, each of another series",
        value=window.rate * BATCH_SAMPLES,
        unit="/s",
        target=TARGET,
        note=f"{WIDE.shards} batches in flight",
    )


def _check_usage(bench: Bench, sender: Sender) -> None:
    """Projects must have used exactly what was sent, or the rate would be worth nothing."""
    for number in range(0, PROJECTS, PROJECTS // CHECKED_PROJECTS):
        due = sender.due(number)
        path = f"/api/v1/customers/{quote(sender.project(number))}/usage?month={START:%Y-%m}"
        used: Any = msgspec.json.decode(bench.get(path).body)
        quantity = sum((Decimal(each["quantity"]) for each in used["lines"]), Decimal(0))
        measurements = sum(each["measurements"] for each in used["lines"])
        if (quantity, measurements) != due:
            raise BenchError(f"project {number} has {quantity} hours of {measurements} samples instead of {due}")
