"""What the platform's administrators could not do before: tiers, kinds, prices and readings, listed and changed."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import httpx
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.metering.readings import Readings
from tallystick.service import Service, open_service
from tests.doubles.oidc_provider import CLIENT_ID, Provider
from tests.doubles.sweepable import Sweepable, item
from tests.web.conftest import NOW, asking, settings

ADMIN = "/admin"
PRICE = "/admin/price"
KIND = "/admin/kind"
NIL = str(UUID(int=0))
PER_730 = {"microcredits_per_unit": 1_000_000, "unit": 730}
ALWAYS = "2020-01-01T00:00:00Z"


def said(answer: httpx.Response) -> tuple[int, str]:
    """Status and sentence of a refusal, which is plain text."""
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.status_code, answer.text


async def price(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    """Creates one of the meter ``tokens``; what is answered."""
    answer = await client.post(PRICE, json={"meter": "tokens", "valid_from": ALWAYS, **PER_730, **more})
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def use(client: httpx.AsyncClient, *values: int, kind: str = "", customer: str = "ada", at: str = "") -> None:
    """Records usage of the meter ``tokens``, each value by itself."""
    for value in values:
        sent = {"id": f"{customer}-{kind}-{at}-{value}", "subject": customer, "type": "tokens"}
        answer = await client.post(
            "/api/v1/events",
            json={**sent, "time": at or "2026-11-20T11:00:00Z", "data": {"value": value, "kind": kind}},
        )
        assert answer.json()["accepted"] == 1, answer.text


async def charged(client: httpx.AsyncClient, customer: str = "ada") -> list[str | None]:
    """What each measurement cost, oldest first."""
    charges = (await client.get(f"/api/v1/customers/{customer}/charges")).json()["items"]
    return [charge["amount"] for charge in reversed(charges)]


@pytest.fixture
async def tokens(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a service with the meter ``tokens``, without a unit and without a price."""
    assert (await client.put("/api/v1/meters/tokens", json={})).status_code == 200
    return client


# Who is let in


@pytest.fixture
async def closed(service: Service, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service, dev=False, oidc_issuer=provider.url, cf_client_id=CLIENT_ID) as client:
        yield client


async def test_an_administrators_token_opens_and_a_readers_does_not(
    closed: httpx.AsyncClient, provider: Provider
) -> None:
    reader = {"Authorization": provider.bearer(NOW, scope=["usage.read"], customer_id="ada")}
    good = {"Authorization": provider.bearer(NOW)}
    for path in ("tier", "kind", "price", "reading", "org", "account-type"):
        assert said(await closed.get(f"{ADMIN}/{path}")) == (401, "missing bearer token")
        assert said(await closed.get(f"{ADMIN}/{path}", headers=reader)) == (403, "forbidden")
        answer = await closed.get(f"{ADMIN}/{path}", headers=good)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    refused = await closed.put(f"{ADMIN}/tier/gold", json={"credits": 1}, headers=reader)
    assert said(refused) == (403, "forbidden")


# Tiers


async def test_tiers_are_listed_and_changed(client: httpx.AsyncClient) -> None:
    for name in ("bronze", "gold"):
        assert (await client.post(f"{ADMIN}/tier", json={"name": name, "credits": 100})).status_code == 200
    first = (await client.get(f"{ADMIN}/tier", params={"limit": "1"})).json()
    second = (await client.get(f"{ADMIN}/tier", params={"limit": "1", "cursor": first["next"]})).json()
    assert [one["name"] for one in first["items"] + second["items"]] == ["bronze", "gold"]
    changed = await client.put(f"{ADMIN}/tier/gold", json={"credits": "0.5"})
    assert (changed.status_code, changed.json()["credits"]) == (200, "0.5")
    assert (await client.get(f"{ADMIN}/tier/gold")).json() == changed.json()
    assert said(await client.get(f"{ADMIN}/tier/lead")) == (404, "there is no tier 'lead'")
    refused = await client.put(f"{ADMIN}/tier/gold", json={"credits": 0})
    assert said(refused) == (422, "credits: Input should be greater than 0")
    assert said(await client.get(f"{ADMIN}/tier", params={"limit": "0"}))[0] == 422


# Prices


async def test_a_price_is_kept_as_it_was_said(tokens: httpx.AsyncClient) -> None:
    created = await price(tokens, kind_natural_id="large", unit_of_measure="token")
    assert created == {
        "id": created["id"],
        "meter": "tokens",
        "kind_natural_id": "large",
        "customer": None,
        "unit_of_measure": "token",
        "microcredits_per_unit": 1_000_000,
        "unit": 730,
        "valid_from": ALWAYS,
        "valid_until": None,
        "asset": "CREDIT",
        "model": {"type": "per_unit", "amount": "1", "per": "730"},
    }
    assert (await tokens.get(f"{PRICE}/{created['id']}")).json() == created
    assert (await tokens.get("/api/v1/meters/tokens")).json()["unit"] == "token"


async def test_better_than_before_a_month_is_rounded_once(tokens: httpx.AsyncClient) -> None:
    """[B]: integer division of each measurement by itself lost what was left over, every hour."""
    await price(tokens)
    for value in range(1, 11):
        await use(tokens, value)
    bill = (await tokens.get("/api/v1/customers/ada/bill")).json()
    assert (bill["lines"][0]["quantity"], bill["totals"]) == ("55", [{"asset": "CREDIT", "amount": "0.075342"}])
    assert sum(value * 1_000_000 // 730 for value in range(1, 11)) == 75_337
    await use(tokens, 675)
    assert (await tokens.get("/api/v1/customers/ada/bill")).json()["totals"][0]["amount"] == "1"


async def test_better_than_before_prices_never_overlap(tokens: httpx.AsyncClient) -> None:
    """[B]: theirs kept several prices for one instant. Here each version ends where the next one begins."""
    starts = [f"2027-0{month}-01T00:00:00Z" for month in (3, 1, 4, 2)]
    prices = [{"meter": "tokens", "microcredits_per_unit": cost, "unit": 2} for cost in range(10)]
    answers = await asyncio.gather(
        *(tokens.post(PRICE, json={**one, "valid_from": start}) for one in prices for start in starts)
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 4 + [409] * 36
    kept = (await tokens.get(PRICE, params={"meter": "tokens"})).json()["items"]
    ranges = sorted((one["valid_from"], one["valid_until"]) for one in kept)
    assert ranges == list(pairwise([*sorted(starts), None]))


async def test_better_than_before_the_price_of_the_readings_time_is_used(
    tokens: httpx.AsyncClient, service: Service, clock: TestClock
) -> None:
    """[B]: of two consecutive prices, 8 and then 80 for 2 units, theirs charged the first one for both readings."""
    platform = Sweepable("cloud-foundry", items=[item("app", 7)])
    readings = Readings(service.pool, service.clock, service.intake, service.resources, service.customers, [platform])
    await tokens.put("/api/v1/meters/cfapps", json={"kind": "gauge", "unit": "MB·h"})
    change = (clock.now() + timedelta(hours=1)).isoformat()
    for cost, start in ((8, ALWAYS), (80, change)):
        terms = {"meter": "cfapps", "microcredits_per_unit": cost, "unit": 2, "unit_of_measure": "MB·h"}
        assert (await tokens.post(PRICE, json={**terms, "valid_from": start})).status_code == 201
    for _ in range(2):
        await readings.take(platform, periodic=True)
        clock.advance(timedelta(hours=1))
    assert await charged(tokens) == ["0.000028", "0.00028"]
    assert (await tokens.get("/api/v1/verify")).json()["holds"]


async def test_usage_is_charged_by_its_own_time_however_late_it_comes(tokens: httpx.AsyncClient) -> None:
    await price(tokens, microcredits_per_unit=8, unit=2)
    await price(tokens, microcredits_per_unit=80, unit=2, valid_from="2026-11-20T12:00:00Z")
    await use(tokens, 2, at="2026-11-20T12:00:00Z")
    await use(tokens, 2, at="2026-11-20T11:59:59.999999Z")
    assert await charged(tokens) == ["0.000008", "0.00008"]


async def test_a_price_is_changed_from_now_on(tokens: httpx.AsyncClient, clock: TestClock) -> None:
    old = await price(tokens, microcredits_per_unit=1_000_000, unit=1)
    await use(tokens, 1)
    changed = await tokens.put(f"{PRICE}/{old['id']}", json={"microcredits_per_unit": 2_000_000, "unit": 1})
    assert changed.status_code == 200, changed.text
    new = changed.json()
    assert (new["valid_from"], new["valid_until"], new["microcredits_per_unit"]) == (
        "2026-11-20T12:00:00Z",
        None,
        2_000_000,
    )
    assert (await tokens.get(f"{PRICE}/{old['id']}")).json() == old | {"valid_until": new["valid_from"]}
    clock.advance(timedelta(hours=1))
    await use(tokens, 2, at="2026-11-20T12:30:00Z")
    assert await charged(tokens) == ["1", "4"]


class Ticking(TestClock):
    """Never says the same time twice, as a real one."""

    def now(self) -> datetime:
        self.advance(timedelta(microseconds=1))
        return super().now()


async def test_from_now_on_is_no_moment_too_late(database_url: str) -> None:
    """Time passes between the request and its turn: what is to change from now on is not said to change the past."""
    opened = open_service(settings(database_pool_size=4), database_url, Ticking(NOW))
    async with opened as ticking, asking(ticking) as client:
        await client.put("/api/v1/meters/tokens", json={})
        path = f"{PRICE}/{(await price(client))['id']}"
        answers = await asyncio.gather(
            *(client.put(path, json={"microcredits_per_unit": cost, "unit": 1}) for cost in range(1, 6))
        )
        assert [answer.status_code for answer in answers] == [200] * 5
        versions = (await client.get(PRICE, params={"meter": "tokens"})).json()["items"]
        starts, ends = zip(*sorted((one["valid_from"], one["valid_until"]) for one in versions), strict=True)
        assert len(starts) == 6
        assert ends == (*starts[1:], None)


async def test_the_same_again_changes_nothing(tokens: httpx.AsyncClient, clock: TestClock) -> None:
    old = await price(tokens)
    assert await price(tokens) == old
    body = {"microcredits_per_unit": 1, "unit": 1}
    first = (await tokens.put(f"{PRICE}/{old['id']}", json=body)).json()
    clock.advance(timedelta(hours=1))
    again = (await tokens.put(f"{PRICE}/{old['id']}", json=body)).json()
    assert again == first
    later = await price(tokens, valid_from="2027-01-01T00:00:00Z", **body)
    assert await price(tokens, valid_from="2027-01-01T00:00:00Z", **body) == later != again
    assert len((await tokens.get(PRICE, params={"meter": "tokens"})).json()["items"]) == 3


async def test_what_was_charged_is_not_priced_anew(tokens: httpx.AsyncClient) -> None:
    old = await price(tokens)
    await use(tokens, 5)
    sentence = (
        "usage of meter 'tokens', kind '' has been charged since 2026-11-01T00:00:00+00:00 by the price in force,"
        " and stays charged: let the new price start now or later"
    )
    terms = {"microcredits_per_unit": 1, "unit": 1, "valid_from": "2026-11-01T00:00:00Z"}
    assert said(await tokens.put(f"{PRICE}/{old['id']}", json=terms)) == (409, sentence)
    for whose in ({}, {"customer": "ada"}):
        assert said(await tokens.post(PRICE, json={"meter": "tokens", **terms, **whose})) == (409, sentence)
    assert len((await tokens.get(PRICE, params={"meter": "tokens"})).json()["items"]) == 1


async def test_a_price_may_begin_in_the_past_where_nothing_was_charged(tokens: httpx.AsyncClient) -> None:
    await price(tokens, valid_from="2026-11-15T00:00:00Z")
    await use(tokens, 730, at="2026-11-10T00:00:00Z")
    assert await charged(tokens) == [None]
    earlier = await price(tokens, valid_from="2026-11-01T00:00:00Z", microcredits_per_unit=730)
    assert earlier["valid_until"] == "2026-11-15T00:00:00Z"
    assert await charged(tokens) == ["0.00073"]
    # A customer's own would also go before everybody's, which has charged since the 15th.
    whose = {"meter": "tokens", "customer": "ada", **PER_730}
    assert said(await tokens.post(PRICE, json={**whose, "valid_from": "2026-10-01T00:00:00Z"}))[0] == 409


async def test_a_customers_own_price_goes_before_everybodys(tokens: httpx.AsyncClient) -> None:
    await tokens.post("/api/v1/customers", json={"key": "bob"})
    await price(tokens, microcredits_per_unit=1_000_000, unit=1)
    own = await price(tokens, customer="bob", valid_from="2026-11-20T12:00:00Z", microcredits_per_unit=1, unit=1)
    assert own["customer"] == "bob"
    for customer in ("ada", "bob"):
        await use(tokens, 1, customer=customer, at="2026-11-20T12:00:00Z")
    assert (await charged(tokens, "ada"), await charged(tokens, "bob")) == (["1"], ["0.000001"])
    assert (await tokens.get(PRICE, params={"customer": "bob"})).json()["items"] == [own]


async def test_prices_come_in_pages_by_meter_and_kind(tokens: httpx.AsyncClient) -> None:
    made = [(await price(tokens, kind_natural_id=kind))["id"] for kind in ("", "x", "y")]
    seen: list[str] = []
    query = {"meter": "tokens", "limit": "1"}
    while True:
        page = (await tokens.get(PRICE, params=query)).json()
        seen += [one["id"] for one in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert seen == made
    for kind, ids in (("", made[:1]), ("x", made[1:2]), ("z", [])):
        found = (await tokens.get(PRICE, params={"meter": "tokens", "kind_natural_id": kind})).json()["items"]
        assert [one["id"] for one in found] == ids


async def test_prices_that_system_has_no_words_for_are_shown_as_they_are(tokens: httpx.AsyncClient) -> None:
    tiers = {"type": "graduated", "tiers": [{"up_to": "10", "amount": "0"}, {"up_to": None, "amount": "1"}]}
    for number, (model, asset) in enumerate(
        [
            (tiers, "CREDIT"),
            ({"type": "per_unit", "amount": "1", "free": "5"}, "CREDIT"),
            ({"type": "per_unit", "amount": "1"}, "USD"),
        ]
    ):
        start = f"2026-0{number + 1}-01T00:00:00Z"
        body = {"meter": "tokens", "effective_from": start, "asset": asset, "model": model}
        assert (await tokens.post("/api/v1/prices", json=body)).status_code == 201
    shown = (await tokens.get(PRICE, params={"meter": "tokens"})).json()["items"]
    assert [(one["microcredits_per_unit"], one["unit"]) for one in shown] == [(None, None)] * 3
    assert sorted((one["model"]["type"], one["asset"]) for one in shown) == [
        ("graduated", "CREDIT"),
        ("per_unit", "CREDIT"),
        ("per_unit", "USD"),
    ]


async def test_the_unit_is_the_meters(tokens: httpx.AsyncClient) -> None:
    await price(tokens, unit_of_measure="token")
    sentence = "unit_of_measure must be 'token', in which meter 'tokens' is measured"
    for wrong in ("", "word"):
        body = {"meter": "tokens", "valid_from": "2027-01-01T00:00:00Z", "unit_of_measure": wrong, **PER_730}
        assert said(await tokens.post(PRICE, json=body)) == (422, sentence)
    assert (await price(tokens, kind_natural_id="x"))["unit_of_measure"] == "token"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"meter": None}, "meter: must be a string"),
        ({"meter": "words"}, "meter names no meter: 'words'"),
        ({"customer": "nobody"}, "customer names no customer: 'nobody'"),
        ({"unit": 0}, "unit: Input should be greater than or equal to 1"),
        ({"unit": "730"}, "unit: Input should be a valid integer"),
        ({"unit": 10**13}, f"unit: Input should be less than or equal to {10**12}"),
        ({"microcredits_per_unit": -1}, "microcredits_per_unit: Input should be greater than or equal to 0"),
        ({"microcredits_per_unit": 0.5}, "microcredits_per_unit: Input should be a valid integer"),
        ({"microcredits_per_unit": True}, "microcredits_per_unit: Input should be a valid integer"),
        ({"valid_from": None}, "valid_from: must be an RFC 3339 instant with a zone, as 2026-01-31T23:59:59Z"),
        ({"valid_until": ALWAYS}, "valid_until: Extra inputs are not permitted"),
    ],
)
async def test_a_price_is_refused_with_field_and_rule(
    tokens: httpx.AsyncClient, change: dict[str, Any], sentence: str
) -> None:
    body = {"meter": "tokens", "valid_from": ALWAYS, **PER_730, **change}
    assert said(await tokens.post(PRICE, json=body)) == (422, sentence)
    assert (await tokens.get(PRICE, params={"meter": "tokens"})).json()["items"] == []


async def test_a_price_that_is_not_there_cannot_be_changed(tokens: httpx.AsyncClient) -> None:
    assert said(await tokens.get(f"{PRICE}/{NIL}")) == (404, f"there is no price {NIL}")
    assert said(await tokens.put(f"{PRICE}/{NIL}", json=PER_730)) == (404, f"there is no price {NIL}")
    assert said(await tokens.get(f"{PRICE}/x"))[0] == 422
    assert said(await tokens.get(PRICE, params={"cursor": "x"}))[0] == 422


# Kinds


async def test_better_than_before_what_needs_a_price_is_listed_and_charged_once_it_has_one(
    tokens: httpx.AsyncClient,
) -> None:
    """[B]: kinds that usage brought were created empty, to be completed later; nothing showed which they were."""
    await use(tokens, 5, 7, kind="plan-1")
    await use(tokens, 11, kind="plan-1", customer="bob")
    (needs,) = (await tokens.get(KIND, params={"unpriced": "true"})).json()["items"]
    assert needs == {
        "meter": "tokens",
        "kind": "plan-1",
        "name": None,
        "created_at": "2026-11-20T12:00:00Z",
        "priced_from": None,
        "unpriced": {
            "customers": 2,
            "measurements": 3,
            "quantity": "23",
            "first_month": "2026-11",
            "last_month": "2026-11",
        },
    }
    named = await tokens.put(f"{KIND}/tokens", params={"kind": "plan-1"}, json={"name": "micro.psql"})
    assert (named.status_code, named.json()) == (200, needs | {"name": "micro.psql"})

    await price(tokens, kind_natural_id="plan-1", microcredits_per_unit=1_000_000, unit=1)
    assert (await tokens.get(KIND, params={"unpriced": "true"})).json() == {"items": [], "next": None}
    assert (await charged(tokens, "ada"), await charged(tokens, "bob")) == (["5", "7"], ["11"])
    kind = (await tokens.get(f"{KIND}/tokens", params={"kind": "plan-1"})).json()
    assert (kind["name"], kind["priced_from"], kind["unpriced"]) == ("micro.psql", ALWAYS, None)


async def test_kinds_are_refused_in_this_surfaces_words(tokens: httpx.AsyncClient) -> None:
    assert said(await tokens.get(f"{KIND}/tokens", params={"kind": "x"})) == (404, "meter 'tokens' has no kind 'x'")
    assert said(await tokens.put(f"{KIND}/words", json={"name": "x"})) == (404, "there is no meter 'words'")
    assert said(await tokens.put(f"{KIND}/tokens", json={"name": ""})) == (422, "name: must not be empty")
    assert said(await tokens.get(KIND, params={"unpriced": "perhaps"}))[0] == 422


# Readings


async def test_readings_are_listed_with_their_counts_and_failures(service: Service) -> None:
    source = Sweepable(items=[item("a", 512), item("b", 256, None, fault="no space")], broken={"cfservices": "500"})
    readings = Readings(service.pool, service.clock, service.intake, service.resources, service.customers, [source])
    taken = await readings.take(source, periodic=True)
    async with asking(dataclasses.replace(service, readings=readings)) as client:
        for path in ("reading", f"reading/{taken.id}"):
            here = (await client.get(f"{ADMIN}/{path}")).json()
            assert here == (await client.get(f"/api/v1/{path.replace('reading', 'readings')}")).json()
        (listed,) = (await client.get(f"{ADMIN}/reading", params={"state": "partial"})).json()["items"]
        assert (listed["items"], listed["recorded"], listed["without_customer"]) == (2, 1, 1)
        assert listed["failures"] == [{"part": "cfservices", "detail": "500"}]
        assert said(await client.get(f"{ADMIN}/reading/{NIL}")) == (404, f"there is no reading {NIL}")
        assert said(await client.get(f"{ADMIN}/reading", params={"state": "done"}))[0] == 422
