"""What the platform's customers could not see before, who may see it, and a customer's books in that system's words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tallystick.kernel.calendar import parse_month
from tallystick.kernel.clock import TestClock
from tallystick.metering.readings import Readings
from tallystick.service import Service
from tests.doubles.oidc_provider import CLIENT_ID, Provider
from tests.doubles.sweepable import Sweepable, item
from tests.web.conftest import NOW, asking
from tests.web.test_platform_admin import price, said, use

FORBIDDEN = (403, "forbidden")


@pytest.fixture
async def books(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A service of which ``ada``, with 100 credits, has used 5 tokens of a priced kind and 7 of an unpriced one."""
    await client.put("/api/v1/meters/tokens", json={"unit": "token"})
    await client.post("/api/v1/customers", json={"key": "ada", "name": "Ada"})
    await client.post("/api/v1/customers/ada/grants", json={"asset": "CREDIT", "amount": "100"})
    await price(client, microcredits_per_unit=3, unit=2)
    await use(client, 5)
    await use(client, 7, kind="plan-1")
    await client.put("/api/v1/kinds/tokens", params={"kind": "plan-1"}, json={"name": "micro"})
    return client


# What they see


async def test_better_than_before_customers_see_their_usage_as_the_bill_has_it(books: httpx.AsyncClient) -> None:
    """[B]: theirs had only drawn what customers could see."""
    line = {"meter": "tokens", "unit_of_measure": "token", "measurements": 1}
    shown = (await books.get("/customer/ada/usage")).json()
    assert shown == {
        "customer": "ada",
        "month": "2026-11",
        "start": "2026-11-01T04:00:00Z",
        "end": "2026-12-01T05:00:00Z",
        "amount_microcredits": 8,  # 7.5, half to even
        "lines": [
            {
                **line,
                "kind_natural_id": "",
                "kind_name": None,
                "quantity": "5",
                "asset": "CREDIT",
                "amount_microcredits": 8,
            },
            {
                **line,
                "kind_natural_id": "plan-1",
                "kind_name": "micro",
                "quantity": "7",
                "asset": None,
                "amount_microcredits": None,
            },
        ],
    }
    assert (await books.get("/customer/ada/usage", params={"month": "2026-11"})).json() == shown
    october = (await books.get("/customer/ada/usage", params={"month": "2026-10"})).json()
    assert (october["lines"], october["amount_microcredits"], october["end"]) == ([], 0, shown["start"])
    assert said(await books.get("/customer/ada/usage", params={"month": "now"})) == (
        422,
        "month must be a month as YYYY-MM",
    )


async def test_what_is_priced_in_another_asset_is_no_microcredits(books: httpx.AsyncClient) -> None:
    dollars = {"meter": "tokens", "kind": "plan-1", "effective_from": "2026-01-01T00:00:00Z", "asset": "USD"}
    await books.post("/api/v1/prices", json={**dollars, "model": {"type": "per_unit", "amount": "1"}})
    shown = (await books.get("/customer/ada/usage")).json()
    assert shown["amount_microcredits"] == 8
    assert [(line["asset"], line["amount_microcredits"]) for line in shown["lines"]] == [("CREDIT", 8), ("USD", None)]


async def test_better_than_before_customers_see_their_balance(books: httpx.AsyncClient) -> None:
    assert (await books.get("/customer/ada/balance")).json() == {
        "customer": "ada",
        "payer": "ada",
        "balance_microcredits": 99_999_992,
        "held_microcredits": 0,
        "available_microcredits": 99_999_992,
        "granted_microcredits": 100_000_000,
        "used_microcredits": 8,
        "expired_microcredits": 0,
    }
    await books.post("/api/v1/customers", json={"key": "org", "payer": "ada"})
    empty = (await books.get("/customer/org/balance")).json()
    assert (empty["payer"], {empty[name] for name in empty if name.endswith("_microcredits")}) == ("ada", {0})


async def test_better_than_before_customers_see_the_prices_in_force_for_them(
    books: httpx.AsyncClient, clock: TestClock
) -> None:
    async def shown(**query: str) -> list[tuple[Any, ...]]:
        page = (await books.get("/customer/ada/price", params=query)).json()
        names = ("meter", "kind_natural_id", "customer", "microcredits_per_unit", "unit", "valid_until")
        return [tuple(one[name] for name in names) for one in page["items"] if one["meter"] == "tokens"]

    assert await shown() == [("tokens", "", None, 3, 2, None)]
    tomorrow, later = "2026-11-21T12:00:00Z", "2026-12-24T00:00:00Z"
    await price(books, customer="ada", valid_from=tomorrow, microcredits_per_unit=1, unit=1)
    await price(books, customer="ada", valid_from=later, microcredits_per_unit=2, unit=1)
    await price(books, kind_natural_id="plan-1", valid_from=later, microcredits_per_unit=9, unit=1)
    await books.post("/api/v1/customers", json={"key": "bob"})
    await price(books, customer="bob", valid_from=NOW.isoformat(), microcredits_per_unit=5, unit=1)
    assert await shown() == [("tokens", "", None, 3, 2, tomorrow)]
    clock.advance(timedelta(days=1))
    assert await shown() == [("tokens", "", "ada", 1, 1, later)]
    clock.advance(timedelta(days=60))
    assert await shown() == [("tokens", "", "ada", 2, 1, None), ("tokens", "plan-1", None, 9, 1, None)]


async def test_prices_in_force_come_in_pages(books: httpx.AsyncClient) -> None:
    for kind in ("a", "b"):
        await price(books, kind_natural_id=kind)
    seen: list[tuple[str, str]] = []
    query = {"limit": "1"}
    while True:
        page = (await books.get("/customer/ada/price", params=query)).json()
        seen += [(one["meter"], one["kind_natural_id"]) for one in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert len(seen) == len(set(seen))
    assert [kind for meter, kind in seen if meter == "tokens"] == ["", "a", "b"]


async def test_a_customer_is_named_by_its_key_or_its_id(books: httpx.AsyncClient) -> None:
    customer_id = (await books.get("/api/v1/customers/ada")).json()["id"]
    for what in ("usage", "balance", "price"):
        assert (await books.get(f"/customer/{customer_id}/{what}")).json() == (
            await books.get(f"/customer/ada/{what}")
        ).json()
        for unknown in ("nobody", "00000000-0000-0000-0000-000000000000"):
            assert said(await books.get(f"/customer/{unknown}/{what}")) == (404, f"there is no customer '{unknown}'")


# Who may see it


@pytest.fixture
async def closed(books: httpx.AsyncClient, service: Service, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that service, closed to whoever shows no token."""
    await books.post("/api/v1/customers", json={"key": "bob"})
    async with asking(service, dev=False, oidc_issuer=provider.url, cf_client_id=CLIENT_ID) as client:
        yield client


async def ask(client: httpx.AsyncClient, provider: Provider, path: str, **claims: Any) -> httpx.Response:
    token = provider.bearer(NOW, **{"scope": ["usage.read"], **claims})
    return await client.get(path, headers={"Authorization": token})


@pytest.mark.parametrize("what", ["usage", "balance", "price"])
async def test_a_reader_sees_the_customer_whom_the_token_names_and_nobody_else(
    closed: httpx.AsyncClient, books: httpx.AsyncClient, provider: Provider, what: str
) -> None:
    ada_id = (await books.get("/api/v1/customers/ada")).json()["id"]
    for claim in ("ada", ada_id):
        for name in ("ada", ada_id):
            answer = await ask(closed, provider, f"/customer/{name}/{what}", customer_id=claim)
            assert (answer.status_code, answer.json()) == (200, (await books.get(f"/customer/ada/{what}")).json())
        for other in ("bob", "nobody", "00000000-0000-0000-0000-000000000000"):
            refused = await ask(closed, provider, f"/customer/{other}/{what}", customer_id=claim)
            assert said(refused) == FORBIDDEN
            assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="usage.read"'
    nobody = await ask(closed, provider, f"/customer/nobody/{what}", customer_id="nobody")
    assert said(nobody) == (404, "there is no customer 'nobody'")
    assert said(await ask(closed, provider, f"/customer/ada/{what}", customer_id="nobody")) == FORBIDDEN


async def test_who_is_let_in(closed: httpx.AsyncClient, provider: Provider) -> None:
    path = "/customer/ada/balance"
    for name in ("ada", "bob"):
        assert (await ask(closed, provider, f"/customer/{name}/balance", scope=["usage.admin"])).status_code == 200
    assert said(await closed.get(path)) == (401, "missing bearer token")
    assert said(await closed.get("/customer/nothing")) == (401, "missing bearer token")
    assert said(await ask(closed, provider, path, customer_id="ada", aud="other")) == (401, "invalid token")
    for claim in (7, ["ada"], "", "a\0"):
        assert said(await ask(closed, provider, path, customer_id=claim)) == (401, "cannot parse claims")
    for claims in ({}, {"customer_id": None}, {"org_id": "ada"}, {"scope": ["openid"], "customer_id": "ada"}):
        assert said(await ask(closed, provider, path, **claims)) == FORBIDDEN
    assert said(await ask(closed, provider, "/admin/customer/ada/transaction", customer_id="ada")) == FORBIDDEN


async def test_another_claim_may_name_the_customer(
    service: Service, books: httpx.AsyncClient, provider: Provider
) -> None:
    chosen = {"oidc_issuer": provider.url, "cf_client_id": CLIENT_ID, "oidc_customer_claim": "org_id"}
    async with asking(service, dev=False, **chosen) as client:
        assert (await ask(client, provider, "/customer/ada/usage", org_id="ada")).status_code == 200
        assert said(await ask(client, provider, "/customer/ada/usage", customer_id="ada")) == FORBIDDEN


# That system's books


async def test_account_types_and_transactions(books: httpx.AsyncClient, service: Service, clock: TestClock) -> None:
    types = (await books.get("/admin/account-type")).json()["items"]
    assert {one["id"]: (one["name"], one["normal"]) for one in types} == {
        200: ("liabilities", -1),
        201: ("credit_pool", -1),
        400: ("expenses", 1),
        401: ("credits_used", 1),
    }
    await books.post("/api/v1/customers", json={"key": "org", "posting_policy": "monthly"})
    await use(books, 100, customer="org")
    clock.set(datetime(2026, 12, 1, 11, 1, tzinfo=UTC))
    await service.postings.post(parse_month("2026-11"))
    (posted,) = (await books.get("/admin/customer/org/transaction")).json()["items"]
    assert posted == {
        "id": posted["id"],
        "occurred_at": "2026-12-01T05:00:00Z",
        "type": "usage_post",
        "description": "Monthly usage 2026-11-01--2026-12-01",
        "entries": [
            {"account_type": 201, "direction": -1, "amount_microcredits": 150},
            {"account_type": 401, "direction": 1, "amount_microcredits": 150},
        ],
    }
    first = (await books.get("/admin/customer/ada/transaction", params={"limit": "1"})).json()
    second = (await books.get("/admin/customer/ada/transaction", params={"cursor": first["next"]})).json()
    assert [one["type"] for one in first["items"] + second["items"]] == ["usage", "grant"]
    assert said(await books.get("/admin/customer/nobody/transaction")) == (404, "there is no customer 'nobody'")
    assert said(await books.get("/admin/customer/ada/transaction", params={"cursor": "x"}))[0] == 422


# Organizations


@pytest.fixture
async def platform(books: httpx.AsyncClient, service: Service) -> httpx.AsyncClient:
    """A client of that service, which has read a platform with two organizations."""
    await books.put("/api/v1/meters/cfapps", json={"kind": "gauge"})
    await price(books, meter="cfapps", microcredits_per_unit=1_000_000, unit=1)
    source = Sweepable("cloud-foundry", items=[item("app-1", 7, "org-1"), item("app-2", 1, "org-2")])
    readings = Readings(service.pool, service.clock, service.intake, service.resources, service.customers, [source])
    await readings.take(source, periodic=False)
    return books


async def test_organizations_are_listed_and_mapped(platform: httpx.AsyncClient) -> None:
    listed = (await platform.get("/admin/org")).json()
    assert listed["next"] is None
    assert listed["items"] == [
        {"id": guid, "name": None, "customer": None, "created_at": "2026-11-20T12:00:00Z"}
        for guid in ("org-1", "org-2")
    ]
    for _ in range(2):
        mapped = await platform.put("/admin/org/org-1", json={"customer": "ada"})
        assert (mapped.status_code, mapped.json()) == (200, listed["items"][0] | {"customer": "ada"})
    assert (await platform.get("/admin/org/org-1")).json() == mapped.json()
    for wanted, guids in (("true", ["org-1"]), ("false", ["org-2"])):
        found = (await platform.get("/admin/org", params={"mapped": wanted})).json()["items"]
        assert [one["id"] for one in found] == guids
    assert (await platform.get("/customer/org-1/balance")).json()["payer"] == "ada"
    assert (await platform.get("/customer/ada/balance")).json()["used_microcredits"] == 7_000_008

    alone = await platform.put("/admin/org/org-1", json={"customer": None})
    assert alone.json() == listed["items"][0]
    assert (await platform.get("/customer/ada/balance")).json()["used_microcredits"] == 7_000_008
    assert (await platform.get("/api/v1/verify")).json()["holds"]


async def test_what_cannot_be_mapped_is_said(platform: httpx.AsyncClient) -> None:
    await platform.put("/admin/org/org-2", json={"customer": "ada"})
    for guid, body, expected in (
        ("ada", {"customer": None}, (404, "there is no organization 'ada'")),
        ("nobody", {"customer": "ada"}, (404, "there is no organization 'nobody'")),
        ("org-1", {"customer": "nobody"}, (422, "payer names no customer: 'nobody'")),
        ("org-1", {"customer": "org-2"}, (422, "payer must pay for itself, which 'org-2' does not")),
        ("org-1", {"customer": ""}, (422, "customer: must not be empty")),
        ("org-1", {}, (422, "customer: Field required")),
        ("org-1", {"customer_id": "ada"}, (422, "customer: Field required")),
    ):
        assert said(await platform.put(f"/admin/org/{guid}", json=body)) == expected
    assert said(await platform.get("/admin/org/ada")) == (404, "there is no organization 'ada'")
    assert (await platform.get("/admin/org/org-1")).json()["customer"] is None
