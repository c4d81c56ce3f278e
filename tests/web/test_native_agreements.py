"""Tiers and agreements over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.service import Service

TIERS = "/api/v1/tiers"
CUSTOMERS = "/api/v1/customers"
NIL = "00000000-0000-0000-0000-000000000000"


def at(*more: str, key: str = "ada") -> str:
    return "/".join((CUSTOMERS, quote(key, safe=""), "agreements", *more))


@pytest.fixture
async def ada(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client, a customer and a tier."""
    await client.post(CUSTOMERS, json={"key": "ada"})
    await client.put(f"{TIERS}/gold", json={"credits": "100"})
    return client


async def agree(client: httpx.AsyncClient, start: str, end: str, **headers: str) -> dict[str, Any]:
    made = await client.post(at(), json={"tier": "gold", "start": start, "end": end}, headers=headers)
    assert made.status_code == 201, made.text
    return made.json()  # type: ignore[no-any-return]


async def balance(client: httpx.AsyncClient) -> str:
    (standing,) = (await client.get(f"{CUSTOMERS}/ada")).json()["balances"]
    return str(standing["balance"])


async def test_a_tier_is_put_changed_and_shown(ada: httpx.AsyncClient, clock: TestClock) -> None:
    made = (await ada.get(f"{TIERS}/gold")).json()
    assert made == {
        "name": "gold",
        "credits": "100",
        "asset": "CREDIT",
        "category": "promotional",
        "priority": 100,
        "created_at": "2026-11-20T12:00:00Z",
    }
    clock.advance(timedelta(days=1))
    body = {"credits": "0.000001", "asset": "USD", "category": "paid", "priority": 0}
    assert (await ada.put(f"{TIERS}/gold", json=body)).json() == made | body
    odd = "a/b ü"
    assert (await ada.put(f"{TIERS}/{quote(odd, safe='')}", json={"credits": 1})).json()["name"] == odd
    listed = (await ada.get(TIERS, params={"limit": "1"})).json()
    assert [tier["name"] for tier in listed["items"]] == [odd]
    rest = (await ada.get(TIERS, params={"cursor": listed["next"]})).json()
    assert [tier["name"] for tier in rest["items"]] == ["gold"]


async def test_a_tier_is_refused_with_field_and_rule(ada: httpx.AsyncClient) -> None:
    for body, field in (
        ({}, "credits"),
        ({"credits": "0"}, "credits"),
        ({"credits": "-1"}, "credits"),
        ({"credits": "0.0000001"}, "credits"),
        ({"credits": "1", "asset": "XAU"}, "asset"),
        ({"credits": "1", "category": "gift"}, "category"),
        ({"credits": "1", "priority": 1001}, "priority"),
        ({"credits": "1", "colour": "red"}, "colour"),
    ):
        refused = await ada.put(f"{TIERS}/silver", json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), (body, refused.text)
    assert (await ada.get(f"{TIERS}/silver")).status_code == 404


async def test_days_begin_at_midnight_in_the_business_zone(ada: httpx.AsyncClient) -> None:
    made = await agree(ada, "2026-12-01", "2027-07-01")
    assert (made["start"], made["end"]) == ("2026-12-01T05:00:00Z", "2027-07-01T04:00:00Z")
    exact = await agree(ada, "2026-12-01T00:00:00+01:00", "2027-07-01T12:30:00.5Z")
    assert (exact["start"], exact["end"]) == ("2026-11-30T23:00:00Z", "2027-07-01T12:30:00.500000Z")


async def test_the_way_of_an_agreement(ada: httpx.AsyncClient, service: Service, clock: TestClock) -> None:
    made = await agree(ada, "2026-11-21T12:00:00Z", "2026-11-23T12:00:00Z")
    assert {name: made[name] for name in made if name not in ("id", "start", "end")} == {
        "customer": "ada",
        "tier": "gold",
        "state": "planned",
        "grant": None,
        "created_at": "2026-11-20T12:00:00Z",
    }
    assert (await ada.get(at(made["id"]))).json() == made
    clock.advance(timedelta(days=1))
    await service.due.run_due()
    active = (await ada.get(at(made["id"]))).json()
    assert active["state"] == "active"
    grant = (await ada.get(f"{CUSTOMERS}/ada/grants/{active['grant']}")).json()
    assert (grant["remaining"], grant["expires_at"], grant["reason"]) == ("100", made["end"], "tier gold")
    clock.advance(timedelta(days=2))
    await service.due.run_due()
    (ended,) = (await ada.get(at())).json()["items"]
    assert (ended["state"], await balance(ada)) == ("ended", "0")


async def test_an_agreement_is_ended_early(ada: httpx.AsyncClient, service: Service) -> None:
    made = await agree(ada, "2026-11-01", "2026-12-01")
    assert (made["state"], await balance(ada)) == ("active", "100")
    for end, status in (("2026-11-20", 422), ("2026-11-20T12:00:00Z", 200), ("2026-11-20T12:00:00Z", 200)):
        changed = await ada.patch(at(made["id"]), json={"end": end})
        assert changed.status_code == status, changed.text
    assert (changed.json()["state"], changed.json()["end"]) == ("ended", "2026-11-20T12:00:00Z")
    await service.due.run_due()
    assert await balance(ada) == "0"
    late = await ada.patch(at(made["id"]), json={"end": "2026-12-24"})
    assert (late.status_code, late.json()["code"]) == (409, "conflict")


async def test_under_a_key_it_is_made_once_and_the_answer_stays(
    ada: httpx.AsyncClient, service: Service, clock: TestClock
) -> None:
    headers = {"Idempotency-Key": "agreement 7"}
    made = await agree(ada, "2026-11-21", "2026-12-01", **headers)
    clock.advance(timedelta(days=30))
    await service.due.run_due()
    assert await agree(ada, "2026-11-21", "2026-12-01", **headers) == made
    assert len((await ada.get(at())).json()["items"]) == 1
    other = await ada.post(at(), json={"tier": "gold", "start": "2026-11-21", "end": "2026-12-02"}, headers=headers)
    assert other.status_code == 409


async def test_an_agreement_is_refused_with_field_and_rule(ada: httpx.AsyncClient) -> None:
    good = {"tier": "gold", "start": "2026-11-21", "end": "2026-12-01"}
    for change, field in (
        ({"tier": "lead"}, "tier"),
        ({"tier": ""}, "tier"),
        ({"start": "2026-12-01"}, "end"),
        ({"start": "2026-11-01", "end": "2026-11-20"}, "end"),
        ({"start": "2026-02-30"}, "start"),
        ({"start": "2026-11-21T00:00:00"}, "start"),
        ({"start": "20261121"}, "start"),
        ({"start": 20261121}, "start"),
        ({"start": None}, "start"),
        ({"start": "0001-01-01"}, "start"),
        ({"end": "9999-12-31"}, "end"),
        ({"end": "٢٠٢٦-12-01"}, "end"),
        ({"state": "active"}, "state"),
    ):
        refused = await ada.post(at(), json={**good, **change})
        assert (refused.status_code, refused.json()["field"]) == (422, field), (change, refused.text)
    assert (await ada.get(at())).json() == {"items": [], "next": None}


async def test_what_is_not_there_is_named(ada: httpx.AsyncClient) -> None:
    made = await agree(ada, "2026-11-21", "2026-12-01")
    await ada.post(CUSTOMERS, json={"key": "eve"})
    good = {"tier": "gold", "start": "2026-11-21", "end": "2026-12-01"}
    assert (await ada.post(at(key="nobody"), json=good)).status_code == 404
    for address in (at(NIL), at(made["id"], key="eve"), at(made["id"], key="nobody")):
        assert (await ada.get(address)).status_code == 404, address
        assert (await ada.patch(address, json={"end": "2026-12-01"})).status_code == 404, address
    assert (await ada.get(at(key="nobody"))).status_code == 404
    assert (await ada.get(at("x"))).status_code == 422
