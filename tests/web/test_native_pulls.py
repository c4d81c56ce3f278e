"""Usage is pulled by the clock, and operators see how far that has come."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tallystick.service import Service, open_service
from tests.doubles.prometheus_api import Fault, PrometheusApi
from tests.web.conftest import asking, settings

BEGIN = datetime(2026, 1, 1, 5, 20, tzinfo=UTC)
AWAY: Fault = (503, {}, b"")
LABELS = json.dumps({"__name__": "project_vcpu_usage", "location_id": "8676", "project_name": "p"})


def counter(query: str, second: int) -> dict[str, str | None]:
    """One vCPU hour in every hour of the year."""
    hours = (second - int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())) // 3600
    return {LABELS: str(hours)} if query == "project_vcpu_usage" else {}


@pytest.fixture
def api() -> Iterator[PrometheusApi]:
    with PrometheusApi(counter, token="secret") as started:
        yield started


@pytest.fixture
async def rehearsing(database_url: str, api: PrometheusApi) -> AsyncIterator[Service]:
    chosen = settings(database_pool_size=4, job_attempts=3, prometheus_url=api.url, prometheus_token="secret")
    async with (
        open_service(chosen, database_url, rehearse_from=BEGIN) as service,
        service.at_work(worker=True),
    ):
        yield service


async def get(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(f"/api/v1/{path}")
    assert answer.is_success, answer.text
    return answer.json()


async def move(client: httpx.AsyncClient, now: str) -> None:
    assert (await client.put("/api/v1/test-clock", json={"now": now})).is_success


async def used(client: httpx.AsyncClient) -> str:
    return str((await get(client, "customers/p"))["balances"][0]["used"])


async def lag_seconds(client: httpx.AsyncClient) -> str:
    lines = (await client.get("/metrics")).text.splitlines()
    (line,) = [line for line in lines if line.startswith("tallystick_pull_lag_seconds{")]
    return line.removeprefix('tallystick_pull_lag_seconds{source="prometheus"} ')


async def test_it_is_pulled_every_hour_and_shown_how_far(rehearsing: Service, api: PrometheusApi) -> None:
    async with asking(rehearsing) as client:
        begun = {"source": "prometheus", "since": "2026-01-01T05:20:00Z", "step_seconds": 3600}
        (pull,) = (await get(client, "pulls"))["items"]
        assert pull == begun | {"until": "2026-01-01T05:20:00Z", "moved_at": "2026-01-01T05:20:00Z"}
        await move(client, "2026-01-02T00:06:00Z")
        (pull,) = (await get(client, "pulls"))["items"]
        assert pull == begun | {"until": "2026-01-02T01:00:00Z", "moved_at": "2026-01-02T00:05:00Z"}
        assert await used(client) == "18"  # of 06:00, which is the baseline, to 24:00
        assert await lag_seconds(client) == "0.0"
        jobs = (await get(client, "jobs?limit=100"))["items"]
        assert [job["state"] for job in jobs if job["name"] == "pull-usage"] == ["done"] * 19


async def test_what_was_missed_is_caught_up_with_and_the_failures_are_listed(
    rehearsing: Service, api: PrometheusApi
) -> None:
    async with asking(rehearsing) as client:
        await move(client, "2026-01-01T08:30:00Z")
        api.faults = [AWAY] * (3 * 3)  # three attempts in each of three hours
        await move(client, "2026-01-01T11:30:00Z")
        assert (await used(client), await lag_seconds(client)) == ("2", "9000.0")
        dead = (await get(client, "jobs?state=dead"))["items"]
        assert [(job["name"], job["error"]) for job in dead] == [
            ("pull-usage", "prometheus_unavailable: Prometheus answered 503")
        ] * 3
        await move(client, "2026-01-04T00:30:00Z")
        assert await used(client) == "66"
        assert (await get(client, "verify"))["holds"]


async def test_who_names_no_prometheus_is_not_woken_for_it(database_url: str) -> None:
    async with (
        open_service(settings(database_pool_size=4), database_url, rehearse_from=BEGIN) as service,
        service.at_work(worker=True),
        asking(service) as client,
    ):
        await move(client, "2026-01-01T07:00:00Z")
        assert {job["name"] for job in (await get(client, "jobs"))["items"]} == {"measure-usage"}
        assert (await get(client, "pulls")) == {"items": []}
        assert "pull_lag_seconds{" not in (await client.get("/metrics")).text


async def test_pulls_are_for_administrators(service: Service) -> None:
    async with asking(service, dev=False, api_keys="shop", admin_api_keys="boss") as client:  # pragma: allowlist secret
        for key, status in (("shop", 403), ("boss", 200)):
            answer = await client.get("/api/v1/pulls", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == status
