"""The test clock through its routes, and what happens on the way: holds, grants, agreements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tallystick.service import Service, open_service
from tests.web.conftest import asking, settings

BEGIN = datetime(2026, 1, 1, 5, tzinfo=UTC)


@pytest.fixture
async def rehearsing(database_url: str) -> AsyncIterator[Service]:
    async with (
        open_service(settings(database_pool_size=4), database_url, rehearse_from=BEGIN) as service,
        service.at_work(worker=True),
    ):
        yield service


async def move(client: httpx.AsyncClient, now: str) -> httpx.Response:
    return await client.put("/api/v1/test-clock", json={"now": now})


async def test_holds_grants_and_agreements_happen_at_their_time(rehearsing: Service) -> None:
    async with asking(rehearsing) as client:

        async def post(path: str, body: dict[str, Any], method: str = "POST") -> Any:
            answer = await client.request(method, f"/api/v1/{path}", json=body)
            assert answer.is_success, answer.text
            return answer.json()

        async def balance() -> str:
            return str((await client.get("/api/v1/customers/ada")).json()["balances"][0]["balance"])

        await post("customers", {"key": "ada", "credit_policy": "prepaid"})
        await post("tiers/gold", {"credits": "100", "category": "paid"}, "PUT")
        await post("customers/ada/agreements", {"tier": "gold", "start": "2026-03-01", "end": "2026-03-15"})
        grant = {"asset": "CREDIT", "amount": "10", "expires_at": "2026-02-01T05:00:00Z"}
        await post("customers/ada/grants", grant)
        await post("customers/ada/holds", {"asset": "CREDIT", "amount": "4", "expires_in": 3600})

        moved = (await move(client, "2026-01-31T00:00:00Z")).json()
        assert (moved["since"], moved["now"]) == ("2026-01-01T05:00:00Z", "2026-01-31T00:00:00Z")
        assert moved["due"]["holds"] == 1
        assert await balance() == "10"
        assert (await move(client, "2026-02-01T05:00:00Z")).json()["due"]["grants"] == 1
        assert await balance() == "0"
        assert (await move(client, "2026-03-01T05:00:00Z")).json()["due"]["agreements"] == 1
        assert await balance() == "100"
        await move(client, "2026-03-16T00:00:00Z")
        assert await balance() == "0"
        history = (await client.get("/api/v1/customers/ada/transactions")).json()["items"]
        times = {item["created_at"] for item in history}
        assert times >= {"2026-02-01T05:00:00Z", "2026-03-01T05:00:00Z", "2026-03-15T04:00:00Z"}
        assert (await client.get("/api/v1/test-clock")).json() == {"now": "2026-03-16T00:00:00Z", "moving_to": None}
        assert (await client.get("/api/v1/verify")).json()["holds"]


async def test_moves_that_are_refused(rehearsing: Service) -> None:
    async with asking(rehearsing) as client:
        assert (await move(client, "2026-01-01T00:00:00-05:00")).status_code == 200  # where it stands
        back = await move(client, "2026-01-01T04:59:59Z")
        assert (back.status_code, back.json()["code"], back.json()["field"]) == (409, "conflict", "now")
        far = await move(client, "2036-01-01T00:00:00Z")
        assert (far.status_code, far.json()["code"], far.json()["field"]) == (422, "invalid_input", "now")
        for odd in ("2026-02-01", "2026-02-01T00:00:00", "soon", ""):
            refused = await move(client, odd)
            assert (refused.status_code, refused.json()["field"]) == (422, "now")


async def test_a_service_by_the_machines_clock_has_none(client: httpx.AsyncClient) -> None:
    for answer in (await client.get("/api/v1/test-clock"), await move(client, "2026-12-01T00:00:00Z")):
        assert answer.status_code == 404
        assert "tally serve --dev --clock INSTANT" in answer.json()["detail"]
