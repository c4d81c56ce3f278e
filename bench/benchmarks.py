"""The named benchmarks. Each takes a `Bench` and returns its figures; a wrong result raises `BenchError`."""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from bench import readings, samples, workloads
from bench.client import BenchError, Reply, Request, Window, expect, render
from bench.report import Figure, at_least, at_most, below
from bench.sampling import by_group
from bench.server import Service, own_service
from bench.session import MILLION, Bench, decode_recorded
from bench.workloads import BATCH_EVENTS, CUSTOMERS, WALLETS

FULL_FILL: Final = 20_000_000
FLATNESS_MILLIONS: Final = 10  # shorter fills say nothing about flatness
FLATNESS_TURNS: Final = 4
START_ROUNDS: Final = 3
WARM_UP_SECONDS: Final = 3.0
SETUP_CONNECTIONS: Final = 8
VERIFY_TIMEOUT_SECONDS: Final = 3600.0
BUSINESS_ZONE: Final = ZoneInfo("America/New_York")  # the service's default


class Balance(msgspec.Struct):
    """The reply of POST /api/v1/balance; its other fields are of no interest here."""

    balance: Decimal


class Verdict(msgspec.Struct):
    """The reply of GET /api/v1/verify."""

    holds: bool
    checks: list[dict[str, Any]]


def _busy(shares: dict[str, float]) -> str:
    """One line about who kept the processors busy."""
    if not shares:
        return ""
    return "cores: " + ", ".join(f"{name} {share:.2f}" for name, share in by_group(shares).items())


# --- intake ----------------------------------------------------------------------------------------------------------


def flat(bench: Bench) -> list[Figure]:
    """The filled store and an empty one, in turns, so that both meet the same machine: the rate must be the same."""
    if bench.service is None or bench.accepted < FLATNESS_MILLIONS * MILLION:
        return []
    rates: dict[str, list[float]] = {"empty": [], "filled": []}
    with own_service(Path(bench.service.command[0]), None) as service:
        empty = Bench(service.address, bench.options, bench.console, bench.runner, service)
        empty.prepare()
        for turn in range(FLATNESS_TURNS):
            order = [("empty", empty), ("filled", bench)]
            for name, store in order if turn % 2 else reversed(order):
                rates[name].append(_turn(store))
    before, after = statistics.mean(rates["empty"]), statistics.mean(rates["filled"])
    return [
        Figure(
            benchmark="flat",
            name=f"slower with {bench.accepted // MILLION} M stored",
            value=(1 - after / before) * 100,
            unit="%",
            target=at_most(15),
            note=f"means of {FLATNESS_TURNS} turns each: empty store {before:,.0f}/s, filled store {after:,.0f}/s",
            series=tuple(rates["empty"] + rates["filled"]),
        )
    ]


def _turn(store: Bench) -> float:
    """Events per second."""
    window = store.drive(
        iter(store.batches),
        store.record_batch,
        connections=store.options.in_flight,
        seconds=store.options.seconds,
        warm_up_seconds=WARM_UP_SECONDS,
    )
    return window.rate * BATCH_EVENTS


def batches(bench: Bench) -> list[Figure]:
    """Batches of 10,000 events, several in flight."""
    stored = bench.accepted
    window = bench.drive(
        iter(bench.batches),
        bench.record_batch,
        connections=bench.options.in_flight,
        seconds=bench.options.seconds,
        warm_up_seconds=WARM_UP_SECONDS,
    )
    _resend(bench)
    shares = bench.processors(window)
    return [
        Figure(
            benchmark="batches",
            name="events accepted",
            value=window.rate * BATCH_EVENTS,
            unit="/s",
            target=at_least(50_000),
            note=f"on top of {stored:,}; {_busy(shares)}",
            processors=shares,
        ),
        Figure(benchmark="batches", name="batch of 10,000, p50", value=window.milliseconds(0.5), unit="ms"),
        Figure(benchmark="batches", name="batch of 10,000, p99", value=window.milliseconds(0.99), unit="ms"),
    ]


def _resend(bench: Bench) -> None:
    """What is sent twice must be recognised, or the rate would be worth nothing."""
    request = bench.batches.take()
    bench.record_batch(bench.call(request))
    again = decode_recorded(bench.call(request).body)
    if again.accepted != 0 or again.duplicates != BATCH_EVENTS:
        raise BenchError(f"a resent batch was answered with {again.accepted} accepted, {again.duplicates} duplicates")


def fill(bench: Bench) -> list[Figure]:
    """Fill the store through the same route; the rate must stay the same from the first million to the last."""
    count = bench.options.fill // BATCH_EVENTS
    if count == 0:
        return []
    began = time.perf_counter()
    answered = 0

    def record(reply: Reply) -> None:
        nonlocal answered
        bench.record_batch(reply)
        answered += BATCH_EVENTS
        if answered % MILLION == 0:
            mean = answered / (time.perf_counter() - began)
            bench.console.print(f"  {answered // MILLION} M stored, {mean:,.0f} events/s on average", highlight=False)

    window = bench.drive(itertools.islice(bench.batches, count), record, connections=bench.options.in_flight)
    shares = bench.processors(window)
    rates = rates_per_million(window)
    figures = [
        Figure(
            benchmark="fill",
            name=f"{count * BATCH_EVENTS:,} events accepted",
            value=window.rate * BATCH_EVENTS,
            unit="/s",
            note=_busy(shares),
            series=rates,
            processors=shares,
        )
    ]
    if len(rates) >= FLATNESS_MILLIONS:
        figures += _flatness(rates)
    return figures


def rates_per_million(window: Window) -> tuple[float, ...]:
    """Events per second of each full million, by the times of the replies."""
    per_million = MILLION // BATCH_EVENTS
    marks = [window.began, *sorted(window.finishes)[per_million - 1 :: per_million]]
    return tuple(MILLION / (end - begin) for begin, end in itertools.pairwise(marks))


def _flatness(rates: tuple[float, ...]) -> list[Figure]:
    """The first and the last tenth, minutes apart: what the machine did in between is in them too."""
    tenth = len(rates) // 10
    first, last = statistics.harmonic_mean(rates[:tenth]), statistics.harmonic_mean(rates[-tenth:])
    return [
        Figure(
            benchmark="fill",
            name="slower at the end",
            value=(1 - last / first) * 100,
            unit="%",
            note=f"first tenth {first:,.0f}/s, last tenth {last:,.0f}/s",
        ),
        Figure(benchmark="fill", name="slowest million", value=min(rates), unit="/s"),
    ]


def singles(bench: Bench) -> list[Figure]:
    """Single events on many connections."""
    window = _many_connections(bench, workloads.single_events(bench.address), bench.record_single)
    return _rate_and_latency("singles", "single events", bench, window, rate=2500, p99_ms=60)


def _many_connections(bench: Bench, requests: Iterator[Request], check: Callable[[Reply], None]) -> Window:
    return bench.drive(
        requests,
        check,
        connections=bench.options.connections,
        seconds=bench.options.seconds,
        warm_up_seconds=WARM_UP_SECONDS,
    )


def _rate_and_latency(
    benchmark: str, what: str, bench: Bench, window: Window, *, rate: float, p99_ms: float | None = None
) -> list[Figure]:
    shares = bench.processors(window)
    return [
        Figure(
            benchmark=benchmark,
            name=what,
            value=window.rate,
            unit="/s",
            target=at_least(rate),
            note=_busy(shares),
            processors=shares,
        ),
        Figure(benchmark=benchmark, name=f"{what}, p50", value=window.milliseconds(0.5), unit="ms"),
        Figure(
            benchmark=benchmark,
            name=f"{what}, p99",
            value=window.milliseconds(0.99),
            unit="ms",
            target=None if p99_ms is None else below(p99_ms),
        ),
    ]


# --- wallets ---------------------------------------------------------------------------------------------------------


def bill(bench: Bench) -> list[Figure]:
    """Bills of prepaid wallets: spread over many, then all on one."""
    run = workloads.uuid7(time.time_ns() // 1_000_000).decode()
    users = [f"bench-{run}-{number:04d}" for number in range(WALLETS)]
    many = _bill_wallets(bench, users)
    one = _bill_wallets(bench, [f"bench-{run}-one"])
    return [
        *_rate_and_latency("bill", "over 1,000 wallets", bench, many, rate=2500),
        *_rate_and_latency("bill", "on one wallet", bench, one, rate=1500),
    ]


def _bill_wallets(bench: Bench, users: list[str]) -> Window:
    """Open the wallets, bill them in turn, and check that exactly what was answered was taken."""
    bench.drive(
        workloads.account_requests(bench.address, users),
        lambda reply: void(expect(reply, 201)),
        connections=SETUP_CONNECTIONS,
    )
    answered = 0

    def check(reply: Reply) -> None:
        nonlocal answered
        expect(reply, 200)
        answered += 1

    window = _many_connections(bench, workloads.bill_requests(bench.address, users), check)
    left = _balance(bench, users)
    due = workloads.INITIAL_BALANCE * len(users) - Decimal(workloads.BILL_AMOUNT) * answered
    if left != due:
        raise BenchError(f"after {answered} bills the wallets hold {left} instead of {due}")
    return window


def _balance(bench: Bench, users: list[str]) -> Decimal:
    """What the wallets hold together."""
    balances: list[Decimal] = []
    bench.drive(
        workloads.balance_requests(bench.address, users),
        lambda reply: balances.append(msgspec.json.decode(expect(reply, 200).body, type=Balance).balance),
        connections=SETUP_CONNECTIONS,
    )
    return sum(balances, Decimal(0))


def void(_: object) -> None:
    """Drop a result where a callback must return nothing."""


# --- reads, start, memory, books -------------------------------------------------------------------------------------


def reads(bench: Bench) -> list[Figure]:
    """A customer's bill of the month, and its balances, one request after the other over all customers."""
    month = datetime.fromtimestamp(bench.batches.second, UTC).astimezone(BUSINESS_ZONE).strftime("%Y-%m")
    figures = []
    for name, suffix in (("month's bill", f"/bill?month={month}"), ("balance", "")):
        paths = (f"/api/v1/customers/{workloads.customer_key(number)}{suffix}" for number in range(CUSTOMERS))
        requests = itertools.cycle([render(bench.address, "GET", path) for path in paths])
        window = bench.drive(
            requests, lambda reply: void(expect(reply, 200)), seconds=bench.options.seconds / 4, warm_up_seconds=1.0
        )
        figures += [
            Figure(
                benchmark="reads",
                name=f"{name}, {label}",
                value=window.milliseconds(quantile),
                unit="ms",
                target=below(10),
                note=f"{len(window.finishes):,} reads; this run stored {bench.accepted:,} measurements",
            )
            for label, quantile in (("p50", 0.5), ("p99", 0.99))
        ]
    return figures


def start(bench: Bench) -> list[Figure]:
    """From `tally serve --dev` to the first answered ping: in new folders, then in the one that the run has filled."""
    if bench.service is None:
        return []
    fresh = [_fresh_start(bench.service, number) for number in range(START_ROUNDS)]
    existing = []
    for _ in range(START_ROUNDS):
        bench.service.stop()
        existing.append(bench.service.start())
    note = f"this run stored {bench.accepted:,} measurements"
    return [
        _start_figure("fresh data folder", fresh, 6, ""),
        _start_figure("existing data folder", existing, 3, note),
    ]


def _fresh_start(model: Service, number: int) -> float:
    folder = model.log_path.with_name(f"fresh-{number}")
    service = Service(model.command, folder, model.log_path.with_name(f"fresh-{number}.log"))
    try:
        return service.start()
    finally:
        service.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _start_figure(name: str, seconds: list[float], target: float, note: str) -> Figure:
    return Figure(
        benchmark="start",
        name=f"{name}, median of {len(seconds)}",
        value=statistics.median(seconds),
        unit="s",
        target=below(target),
        note=note,
        series=tuple(seconds),
    )


def memory(bench: Bench) -> list[Figure]:
    """The most memory that the server and PostgreSQL took together at any moment of the run."""
    peak = bench.sampler.peak if bench.sampler else None
    if peak is None:
        return []
    parts = ", ".join(f"{group} {size / 2**20:,.0f}" for group, size in sorted(peak.pss.items()))
    resident = f"{peak.rss.total() / 2**20:,.0f}"
    return [
        Figure(
            benchmark="memory",
            name="server and PostgreSQL, peak PSS",
            value=peak.pss.total() / 2**20,
            unit="MiB",
            target=below(1024),
            note=f"{parts}; RSS, which counts shared pages once per process, adds up to {resident}",
        )
    ]


def verify(bench: Bench) -> list[Figure]:
    """The books must hold after all this."""
    began = time.perf_counter()
    reply = bench.get("/api/v1/verify", timeout_seconds=VERIFY_TIMEOUT_SECONDS)
    seconds = time.perf_counter() - began
    verdict = msgspec.json.decode(reply.body, type=Verdict)
    if not verdict.holds:
        broken = [check for check in verdict.checks if not check.get("holds")]
        raise BenchError(f"the books do not hold: {broken}")
    checked = sum(int(check.get("checked", 0)) for check in verdict.checks)
    note = f"{len(verdict.checks)} checks over {checked:,} things hold"
    return [Figure(benchmark="verify", name="the books hold", value=seconds, unit="s", note=note)]


BENCHMARKS: Final[dict[str, Callable[[Bench], list[Figure]]]] = {
    "fill": fill,
    "flat": flat,
    "batches": batches,
    "singles": singles,
    "remote_write": samples.remote_write,
    "line_protocol": samples.line_protocol,
    "reading": readings.reading,
    "bill": bill,
    "reads": reads,
    "start": start,
    "memory": memory,
    "verify": verify,
}
"""In the order in which they run: all that comes after `fill` is measured on what it stored."""
