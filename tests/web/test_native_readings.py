"""Readings as routes: listed with counts and failures, shown in full, taken by hand."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.metering.readings import Readings
from tallystick.service import Service
from tests.doubles.sweepable import Sweepable, item
from tests.web.conftest import asking

READINGS = "/api/v1/readings"


@pytest.fixture
def source() -> Sweepable:
    return Sweepable(items=[item("a", 512), item("b", 256, None, fault="no space")], broken={"cfservices": "500"})


@pytest.fixture
async def service(service: Service, source: Sweepable) -> Service:
    readings = Readings(service.pool, service.clock, service.intake, service.resources, service.customers, [source])
    return dataclasses.replace(service, readings=readings)


async def test_a_reading_by_hand_is_shown_in_full(client: httpx.AsyncClient) -> None:
    answer = await client.post(READINGS, json={"source": "platform"})
    assert answer.status_code == 201, answer.text
    taken = answer.json()
    counts = {
        "items": 2,
        "recorded": 1,
        "repeated": 0,
        "quarantined": 1,
        "without_customer": 1,
        "unpriced": 1,
        "faults": 1,
    }
    assert taken == {
        "id": taken["id"],
        "source": "platform",
        "interval_start": None,
        "at": "2026-11-20T12:00:00Z",
        "state": "partial",
        "attempts": 1,
        "ended_at": "2026-11-20T12:00:00Z",
        "failures": [{"part": "cfservices", "detail": "500"}],
        **counts,
        "meters": [{"meter": "cfapps", **counts}],
        "items_with_faults": [{"meter": "cfapps", "resource": "b", "detail": "no space"}],
    }
    assert (await client.get(f"{READINGS}/{taken['id']}")).json() == taken
    (listed,) = (await client.get(READINGS)).json()["items"]
    assert listed == {name: value for name, value in taken.items() if name not in ("meters", "items_with_faults")}
    (usage,) = (await client.get("/api/v1/customers/ada/usage")).json()["lines"]
    assert (usage["meter"], usage["quantity"]) == ("cfapps", "512")


async def test_readings_come_in_pages_by_source_and_state(
    client: httpx.AsyncClient, service: Service, source: Sweepable, clock: TestClock
) -> None:
    for _ in range(2):
        await service.readings.take(source, periodic=True)
        await service.readings.take(Sweepable("other"), periodic=True)
        clock.advance(timedelta(hours=1))

    async def listed(**query: Any) -> list[tuple[str, str]]:
        page = (await client.get(READINGS, params=query)).json()
        return [(reading["source"], reading["state"]) for reading in page["items"]]

    assert sorted(await listed()) == [("other", "complete")] * 2 + [("platform", "partial")] * 2
    assert await listed(source="other") == [("other", "complete")] * 2
    assert await listed(state="partial") == [("platform", "partial")] * 2
    assert await listed(source="other", state="failed") == []
    first = (await client.get(READINGS, params={"limit": "3"})).json()
    second = (await client.get(READINGS, params={"limit": "3", "cursor": first["next"]})).json()
    assert len({reading["id"] for reading in first["items"] + second["items"]}) == 4
    assert second["next"] is None


async def test_the_same_key_is_the_same_reading(client: httpx.AsyncClient, source: Sweepable) -> None:
    source.broken = {}
    headers = {"Idempotency-Key": "tuesday"}
    first, again = [await client.post(READINGS, json={"source": "platform"}, headers=headers) for _ in range(2)]
    assert (first.status_code, first.json()) == (201, again.json())
    assert source.sweeps == 1
    other = await client.post(READINGS, json={"source": "platform"}, headers={"Idempotency-Key": "wednesday"})
    assert other.json()["id"] != first.json()["id"]
    refused = await client.post(READINGS, json={"source": "platform"}, headers={"Idempotency-Key": " "})
    assert refused.status_code == 422


async def test_while_a_source_is_read_another_reading_by_hand_is_refused(
    client: httpx.AsyncClient, source: Sweepable
) -> None:
    source.goes_on.clear()
    first = asyncio.create_task(client.post(READINGS, json={"source": "platform"}))
    await source.began.wait()
    refused = await client.post(READINGS, json={"source": "platform"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert [reading["state"] for reading in (await client.get(READINGS)).json()["items"]] == ["running"]
    source.goes_on.set()
    assert (await first).status_code == 201


async def test_what_is_wrong_is_said(client: httpx.AsyncClient) -> None:
    nil = "00000000-0000-0000-0000-000000000000"
    unknown = await client.post(READINGS, json={"source": "moon"})
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "there is no source 'moon'")
    assert (await client.get(f"{READINGS}/{nil}")).status_code == 404
    assert (await client.get(f"{READINGS}/nothing")).status_code == 422
    for query in ({"state": "done"}, {"cursor": "x"}, {"source": ""}, {"limit": "0"}):
        assert (await client.get(READINGS, params=query)).status_code == 422, query
    for body in ({}, {"source": " "}, {"source": 1}, {"source": "platform", "periodic": True}):
        assert (await client.post(READINGS, json=body)).status_code == 422, body


async def test_readings_are_for_administrators(service: Service) -> None:
    async with asking(service, dev=False, api_keys="shop", admin_api_keys="boss") as client:  # pragma: allowlist secret
        for key, status in (("shop", 403), ("boss", 200)):
            assert (await client.get(READINGS, headers={"Authorization": f"Bearer {key}"})).status_code == status
