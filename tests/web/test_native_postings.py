"""Native routes: who pays, when usage is posted, and what was."""

from __future__ import annotations

import httpx
import pytest

from tallystick.service import Service
from tests.jobs.conftest import until
from tests.metering.books import fetch

CUSTOMERS, POSTINGS = "/api/v1/customers", "/api/v1/postings"
OCTOBER = "2026-10-15T12:00:00Z"


@pytest.fixture
async def agency(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """``agency`` is posted monthly and pays for ``org``, whose tokens cost two credits each; it is November 20."""
    await client.put("/api/v1/meters/tokens", json={"unit": "t"})
    price = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "2"}}
    await client.post("/api/v1/prices", json=price)
    await client.post(CUSTOMERS, json={"key": "agency", "posting_policy": "monthly"})
    await client.post(CUSTOMERS, json={"key": "org", "payer": "agency"})
    return client


async def use(client: httpx.AsyncClient, value: int, time: str = OCTOBER, key: str = "org") -> None:
    event = {"specversion": "1.0", "source": "/test", "id": f"{time}/{value}/{key}", "type": "tokens", "subject": key}
    response = await client.post("/api/v1/events", json=event | {"time": time, "data": {"value": value}})
    assert response.status_code == 200, response.text


def assert_problem(response: httpx.Response, status: int, code: str, field: str) -> None:
    problem = response.json()
    assert (response.status_code, problem["code"], problem["field"]) == (status, code, field), problem


async def post(client: httpx.AsyncClient, service: Service, month: str | None = "2026-10") -> dict[str, object]:
    """Asks for a month to be posted, and has the job done."""
    asked = await client.post(POSTINGS, json={"month": month})
    assert asked.status_code == 202

    async def done() -> bool:
        return not await fetch(service, "select from procrastinate_jobs where status in ('todo', 'doing')")

    async with service.worker.running():
        await until(done)
    answer: dict[str, object] = asked.json()
    return answer


async def test_a_month_is_posted_and_shown(agency: httpx.AsyncClient, service: Service) -> None:
    await use(agency, 3)
    assert (await agency.get(POSTINGS)).json()["items"] == [
        {"month": "2026-10", "waiting": 1, "payers": 0, "supplements": 0, "last_posted_at": None}
    ]
    asked = await post(agency, service)
    assert (asked["duplicate"], asked["waiting"]) == (False, 1)
    assert (await agency.get(f"/api/v1/jobs/{asked['job']}")).json()["state"] == "done"
    page = (await agency.get(f"{CUSTOMERS}/agency/postings")).json()
    (posting,) = page["items"]
    assert posting == {
        "id": posting["id"],
        "month": "2026-10",
        "asset": "CREDIT",
        "number": 0,
        "amount": "6",
        "description": "Monthly usage 2026-10-01--2026-11-01",
        "posted_at": "2026-11-20T12:00:00Z",
    }
    lines = (await agency.get(f"{CUSTOMERS}/agency/postings/{posting['id']}/lines")).json()["items"]
    assert lines == [
        {
            "customer": "org",
            "meter": "tokens",
            "kind": "",
            "price": lines[0]["price"],
            "quantity_before": "0",
            "quantity_after": "3",
            "amount": "6",
        }
    ]
    assert (await agency.get(POSTINGS)).json()["items"][0]["waiting"] == 0
    (balance,) = (await agency.get(f"{CUSTOMERS}/agency")).json()["balances"]
    assert balance["used"] == "6"


async def test_pages_of_postings(agency: httpx.AsyncClient, service: Service) -> None:
    for value in (1, 2, 3):
        await use(agency, value)
        await post(agency, service, None)
    first = (await agency.get(f"{CUSTOMERS}/agency/postings", params={"limit": 2})).json()
    second = (await agency.get(f"{CUSTOMERS}/agency/postings", params={"limit": 2, "cursor": first["next"]})).json()
    assert [item["number"] for item in first["items"] + second["items"]] == [2, 1, 0]
    assert second["next"] is None
    for cursor in ("bm8", "WyIyMDI2LTEwLTAxIiwgIngiLCAiMSJd", "WyIyMDI2LTEwLTAxIiwgIjk5OTk5OTk5OTk5IiwgIjEiXQ"):
        refused = await agency.get(f"{CUSTOMERS}/agency/postings", params={"cursor": cursor})
        assert_problem(refused, 422, "invalid_input", "cursor")


async def test_a_month_that_cannot_be_posted(agency: httpx.AsyncClient) -> None:
    assert_problem(await agency.post(POSTINGS, json={"month": "2026-11"}), 422, "invalid_input", "month")
    assert_problem(await agency.post(POSTINGS, json={"month": "October"}), 422, "invalid_input", "month")


async def test_who_pays_is_changed(agency: httpx.AsyncClient) -> None:
    await use(agency, 4, key="new")
    changed = await agency.put(f"{CUSTOMERS}/new/payer", json={"payer": "agency"})
    assert changed.status_code == 200
    assert changed.json()["payer"] == "agency"
    (balance,) = (await agency.get(f"{CUSTOMERS}/agency")).json()["balances"]
    assert balance["used"] == "8"  # what it owed
    back = await agency.put(f"{CUSTOMERS}/new/payer", json={"payer": None})
    assert back.json()["payer"] is None
    assert_problem(await agency.put(f"{CUSTOMERS}/none/payer", json={"payer": None}), 404, "not_found", "key")
    assert_problem(await agency.put(f"{CUSTOMERS}/new/payer", json={"payer": "none"}), 422, "invalid_input", "payer")
    assert_problem(await agency.put(f"{CUSTOMERS}/agency/payer", json={"payer": "new"}), 409, "conflict", "payer")


async def test_the_posting_policy_is_changed(agency: httpx.AsyncClient) -> None:
    await use(agency, 1)
    changed = await agency.put(f"{CUSTOMERS}/agency/posting-policy", json={"posting_policy": "immediate"})
    assert changed.json()["posting_policy"] == "immediate"
    (balance,) = (await agency.get(f"{CUSTOMERS}/agency")).json()["balances"]
    assert balance["used"] == "2"
    await agency.post(CUSTOMERS, json={"key": "prepaid", "credit_policy": "prepaid"})
    refused = await agency.put(f"{CUSTOMERS}/prepaid/posting-policy", json={"posting_policy": "monthly"})
    assert_problem(refused, 422, "invalid_input", "posting_policy")
