"""Readings of a large Cloud Foundry platform: a double of its API in a process of its own, and a service to read it."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.client import Address, BenchError, Request, render
from bench.report import Figure, below
from bench.server import Service, own_service
from bench.session import Bench
from bench.workloads import EFFECTIVE_FROM
from tests.doubles.capi import CLIENT_ID, CLIENT_SECRET, Capi

APPS: Final = 40_000
SERVICES: Final = 10_000
PRICES: Final = (("cfapps", ""), ("cfservices", "plan"))
TIMEOUT_SECONDS: Final = 300.0


class Taken(msgspec.Struct):
    """The answer of POST /api/v1/readings, as far as it matters."""

    state: str
    items: int
    recorded: int
    unpriced: int
    failures: list[Any]


def reading(bench: Bench) -> list[Figure]:
    """50,000 resources of a platform: asked for, recorded, placed and charged; the first reading creates them."""
    if bench.service is None:
        return []
    with _platform() as platform, _reader(bench, platform) as service:
        reader = Bench(service.address, bench.options, bench.console, bench.runner, service)
        for meter, kind in PRICES:
            price = {"meter": meter, "kind": kind, "effective_from": EFFECTIVE_FROM, "model": _MODEL}
            reader.call(_post(service.address, "/api/v1/prices", price), 201)
        first = _take(reader)
        again = [_take(reader) for _ in range(3)]
        _verify(reader)
    return [
        _figure(f"{APPS + SERVICES:,} new resources", first),
        _figure(f"{APPS + SERVICES:,} known resources", statistics.median(again), tuple(again)),
    ]


def _figure(name: str, seconds: float, series: tuple[float, ...] = ()) -> Figure:
    return Figure(
        benchmark="reading",
        name=name,
        value=seconds,
        unit="s",
        target=below(10),
        note="with asking the platform, whose API runs on the same machine",
        series=series,
    )


_MODEL: Final = {"type": "per_unit", "amount": "1", "per": "730"}


@contextlib.contextmanager
def _platform() -> Iterator[Capi]:
    platform = Capi()
    try:
        platform.tell("populate", apps=APPS, services=SERVICES)
        yield platform
    finally:
        platform.close()


@contextlib.contextmanager
def _reader(bench: Bench, platform: Capi) -> Iterator[Service]:
    """A service with an account at the platform."""
    assert bench.service is not None
    account = {"CF_API_URL": platform.url, "CF_CLIENT_ID": CLIENT_ID, "CF_CLIENT_SECRET": CLIENT_SECRET}
    before = dict(os.environ)
    os.environ.update(account)
    try:
        with own_service(Path(bench.service.command[0]), None) as service:
            yield service
    finally:
        os.environ.clear()
        os.environ.update(before)


def _take(reader: Bench) -> float:
    """Seconds of one reading, all of which must be new and charged."""
    began = time.perf_counter()
    request = _post(reader.address, "/api/v1/readings", {"source": "cloud-foundry"})
    reply = reader.call(request, 201, timeout_seconds=TIMEOUT_SECONDS)
    seconds = time.perf_counter() - began
    taken = msgspec.json.decode(reply.body, type=Taken)
    if taken != Taken("complete", APPS + SERVICES, APPS + SERVICES, 0, []):
        raise BenchError(f"the reading came to {taken}")
    return seconds


def _verify(reader: Bench) -> None:
    verdict = msgspec.json.decode(reader.get("/api/v1/verify", timeout_seconds=TIMEOUT_SECONDS).body)
    if not verdict["holds"]:
        raise BenchError(f"the books do not hold: {verdict}")


def _post(address: Address, path: str, body: dict[str, Any]) -> Request:
    return render(address, "POST", path, msgspec.json.encode(body))
