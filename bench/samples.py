"""Usage as samples of running totals: Prometheus remote write, and InfluxDB's line protocol, 5,000 in a batch.

What is sent is what an OpenStack cloud has: a thousand projects at several locations, each with a total that rises.
The series of a batch are those of one shard of Prometheus, and the next batch is another shard's, so that batches in
flight are of different series, as they are with a real sender. As in `workloads`, all samples have the same width and a
batch is a template whose times and values are patched column by column.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
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
LOCATIONS: Final = BATCH_SAMPLES // PROJECTS  # of one shard
SHARDS: Final = 8
METRIC: Final = "project_vcpu_usage"
NO_USAGE: Final = "node_load1_average"  # what Prometheus measures besides; as long as the other
MIXED: Final = 10  # of so many projects, one has usage in the mixed load
START: Final = datetime(2026, 5, 2, tzinfo=UTC)  # all steps of a run lie in this month
STEP_SECONDS: Final = 60
STEP_HOURS: Final = Decimal("0.25")  # by so much each total rises in a step; exact in binary too
WARM_UP_SECONDS: Final = 3.0
CHECKED_PROJECTS: Final = 20

REMOTE_WRITE: Final = "/api/v1/prometheus/write"
LINE_PROTOCOL: Final = "/write"


@dataclass(slots=True)
class Sender:
    """Batches of one run, with projects that nobody has used before."""

    address: Address
    path: str
    usage_of: int = 1  # one project of so many has usage, the others series that no rule maps
    run: str = field(default_factory=lambda: workloads.uuid7(time.time_ns() // 1_000_000).decode())
    sent: int = 0

    def project(self, number: int) -> str:
        return f"{self.run}-{number:04d}"

    def labels(self, shard: int) -> list[dict[str, str]]:
        """Of each series of a shard, those that exporter and Prometheus give it."""
        return [
            {
                "__name__": NO_USAGE if number % self.usage_of else METRIC,
                "domain_id": "default",
                "domain_name": "elixir",
                "instance": "usage_exporter:8080",
                "job": "project_usages",
                "location": f"site-{shard}",
                "location_id": f"{shard * LOCATIONS + location:04d}",
                "project_id": f"{number:032x}",
                "project_name": self.project(number),
            }
            for location in range(LOCATIONS)
            for number in range(PROJECTS)
        ]

    def __iter__(self) -> Iterator[Request]:
        shards = [self.template(self.labels(shard)) for shard in range(SHARDS)]
        while True:
            step, shard = divmod(self.sent, SHARDS)
            self.sent += 1
            yield self.request(shards[shard], step)

    def template(self, series: list[dict[str, str]]) -> bytearray:
        raise NotImplementedError

    def request(self, template: bytearray, step: int) -> Request:
        raise NotImplementedError

    def due(self) -> Decimal:
        """The hours that each project has used once everything sent is answered; first values are baselines."""
        steps = [(self.sent - shard - 1) // SHARDS for shard in range(SHARDS)]
        return sum((STEP_HOURS * LOCATIONS * step for step in steps), Decimal(0))


class PrometheusSender(Sender):
    """Remote write 1.0, as Prometheus sends it: compressed messages of one sample for each series."""

    def template(self, series: list[dict[str, str]]) -> bytearray:
        sample = b"\x12\x10\x09" + bytes(8) + b"\x10" + bytes(6)
        messages = [b"".join(_part(0x0A, _label(*pair)) for pair in labels.items()) + sample for labels in series]
        return bytearray(b"".join(_part(0x0A, message) for message in messages))

    def request(self, template: bytearray, step: int) -> Request:
        stride = len(template) // BATCH_SAMPLES
        values = struct.pack(f"<{BATCH_SAMPLES}d", *_values(step))
        time_ms = b"\x10" + _varint(_second(step) * 1000)
        for byte in range(8):
            template[stride - len(time_ms) - 8 + byte :: stride] = values[byte::8]
        for column, each in enumerate(time_ms, stride - len(time_ms)):
            template[column::stride] = bytes([each]) * BATCH_SAMPLES
        body = bytes(cramjam.snappy.compress_raw(bytes(template)))
        head = render_head(self.address, "POST", self.path, len(body), "application/x-protobuf")
        return Request(head, body)


class LineSender(Sender):
    """The same samples as InfluxDB mirrors them."""

    def template(self, series: list[dict[str, str]]) -> bytearray:
        tags = [",".join(f"{name}={text}" for name, text in labels.items()) for labels in series]
        return bytearray("".join(f"{METRIC},{each} value=000000.00 {0:019d}\n" for each in tags).encode())

    def request(self, template: bytearray, step: int) -> Request:
        stride = len(template) // BATCH_SAMPLES
        texts = "".join([f"{value:.2f}" for value in _values(step)]).encode()
        width = len(texts) // BATCH_SAMPLES
        time_ns = f" {_second(step) * 10**9:019d}\n".encode()
        for column in range(width):
            template[stride - len(time_ns) - width + column :: stride] = texts[column::width]
        for column, byte in enumerate(time_ns, stride - len(time_ns)):
            template[column::stride] = bytes([byte]) * BATCH_SAMPLES
        return Request(render_head(self.address, "POST", self.path, len(template), "text/plain"), bytes(template))


def _values(step: int) -> list[float]:
    """Where the totals of a batch stand: each somewhere else, all between 100,000 and 1,000,000, and exact."""
    rise = float(STEP_HOURS) * step
    return [100_000 + 137.25 * number + rise for number in range(BATCH_SAMPLES)]


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
    """Prometheus remote write, 5,000 samples of as many series in a request: all usage, then a tenth of them."""
    name, note = "remote_write", f"{SHARDS * BATCH_SAMPLES:,} series of {PROJECTS:,} projects, each a counter"
    mixed = _drive(bench, PrometheusSender(bench.address, REMOTE_WRITE, usage_of=MIXED), 204)
    return [
        *_figures(name, note, bench, _drive(bench, PrometheusSender(bench.address, REMOTE_WRITE), 204)),
        Figure(
            benchmark=name,
            name="samples taken, one in ten usage",
            value=mixed.rate * BATCH_SAMPLES,
            unit="/s",
            note="the others are of series that no rule maps",
        ),
    ]


def line_protocol(bench: Bench) -> list[Figure]:
    """InfluxDB's line protocol, 5,000 lines of as many series in a request, several in flight."""
    name, note = "line_protocol", "the same series as remote_write"
    return _figures(name, note, bench, _drive(bench, LineSender(bench.address, LINE_PROTOCOL), 202))


def _drive(bench: Bench, sender: Sender, status: int) -> Window:
    def check(reply: Reply) -> None:
        expect(reply, status)
        bench.accepted += BATCH_SAMPLES // sender.usage_of

    requests = iter(sender)
    for _ in range(SHARDS):  # the first values are baselines: of each series, before any other
        check(bench.call(next(requests), status))
    window = bench.drive(
        requests,
        check,
        connections=bench.options.in_flight,
        seconds=bench.options.seconds,
        warm_up_seconds=WARM_UP_SECONDS,
    )
    _check_usage(bench, sender)
    return window


def _figures(name: str, note: str, bench: Bench, window: Window) -> list[Figure]:
    return [
        Figure(
            benchmark=name,
            name="samples charged",
            value=window.rate * BATCH_SAMPLES,
            unit="/s",
            target=at_least(60_000),
            note=note,
            processors=bench.processors(window),
        ),
        Figure(benchmark=name, name=f"batch of {BATCH_SAMPLES:,}, p50", value=window.milliseconds(0.5), unit="ms"),
        Figure(benchmark=name, name=f"batch of {BATCH_SAMPLES:,}, p99", value=window.milliseconds(0.99), unit="ms"),
    ]


def _check_usage(bench: Bench, sender: Sender) -> None:
    """Projects must have used exactly what was sent, or the rate would be worth nothing."""
    due = sender.due()
    for number in range(0, PROJECTS, PROJECTS // CHECKED_PROJECTS):
        path = f"/api/v1/customers/{quote(sender.project(number))}/usage?month={START:%Y-%m}"
        used: Any = msgspec.json.decode(bench.get(path).body)
        quantity = sum((Decimal(each["quantity"]) for each in used["lines"]), Decimal(0))
        measurements = sum(each["measurements"] for each in used["lines"])
        if (quantity, measurements) != (due, sender.sent * LOCATIONS):
            raise BenchError(f"project {number} has {quantity} hours of {measurements} samples instead of {due}")
