"""Everything is killed while a platform is read, again and again; in the end each reading has counted once."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.doubles.capi import CLIENT_ID, CLIENT_SECRET, Capi
from tests.system.conftest import MakeServer, Server

pytestmark = pytest.mark.integration

ROUNDS = int(os.environ.get("TALLY_CRASH_ROUNDS", "5"))
SEED = int(os.environ.get("TALLY_CRASH_SEED", "1"))
APPS, SERVICES = 400, 200
ORGANIZATIONS = ("org-0", "org-1")
READINGS = "/api/v1/readings"
SOURCE = {"source": "cloud-foundry"}
PATIENCE_SECONDS = 60


@pytest.fixture
def platform() -> Iterator[Capi]:
    platform = Capi()
    platform.tell("populate", apps=APPS, services=SERVICES)
    yield platform
    platform.close()


@pytest.fixture
def server(make_server: MakeServer, platform: Capi) -> Server:
    server = make_server()
    account = {"CF_API_URL": platform.url, "CF_CLIENT_ID": CLIENT_ID, "CF_CLIENT_SECRET": CLIENT_SECRET}
    server.settings = {f"TALLY_{name}": value for name, value in account.items()}
    return server.start()


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_every_reading_counts_once_however_often_everything_is_killed(server: Server) -> None:
    dice = random.Random(SEED)
    for meter, kind in (("cfapps", ""), ("cfservices", "plan")):
        price = {"type": "per_unit", "amount": "1", "per": "730"}
        server.post(
            "/api/v1/prices",
            {"meter": meter, "kind": kind, "effective_from": "2020-01-01T00:00:00Z", "model": price},
        )
    began = time.monotonic()
    expected = _take(server, "undisturbed")
    took = time.monotonic() - began
    assert (expected["state"], expected["recorded"]) == ("complete", APPS + SERVICES)

    for number in range(ROUNDS):
        asking = threading.Thread(target=_ask, args=(server.url, f"reading {number}"))
        asking.start()
        time.sleep(dice.uniform(0, took))  # to hit any step of it
        server.kill()
        asking.join(PATIENCE_SECONDS)
        server.start()
        taken = _take(server, f"reading {number}")
        assert (taken["state"], taken["recorded"]) == ("complete", APPS + SERVICES)

    charges = [charge for key in ORGANIZATIONS for charge in _charges(server, key)]
    times = Counter((charge["meter"], charge["resource"]) for charge in charges)
    assert set(times.values()) == {ROUNDS + 1}
    assert len(times) == APPS + SERVICES
    by_meter: Counter[str] = Counter()
    for charge in charges:
        by_meter[charge["meter"]] += Decimal(charge["quantity"])  # type: ignore[assignment]
    assert by_meter["cfservices"] == SERVICES * (ROUNDS + 1)
    assert by_meter["cfapps"] == sum(n % 3 for n in range(APPS)) * _megabytes(charges) * (ROUNDS + 1)
    assert server.get("/api/v1/verify")["holds"]


def _take(server: Server, key: str) -> dict[str, Any]:
    taken: dict[str, Any] = server.post(READINGS, SOURCE, **{"Idempotency-Key": key})
    return taken


def _ask(url: str, key: str) -> None:
    """Whether this is answered does not matter."""
    try:
        httpx.post(f"{url}{READINGS}", json=SOURCE, headers={"Idempotency-Key": key}, timeout=PATIENCE_SECONDS)
    except httpx.TransportError:
        return


def _charges(server: Server, key: str) -> Iterator[dict[str, Any]]:
    cursor: dict[str, str] = {}
    while True:
        page = server.get(f"/api/v1/customers/{key}/charges", limit="1000", **cursor)
        yield from page["items"]
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}


def _megabytes(charges: list[dict[str, Any]]) -> Decimal:
    """The memory of one instance: app 1 has one."""
    return next(Decimal(charge["quantity"]) for charge in charges if charge["resource"] == "app-000001")
