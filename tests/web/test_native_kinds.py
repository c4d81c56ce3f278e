"""Kinds as native routes: what needs a price, and names."""

from __future__ import annotations

import httpx

from tallystick.service import Service
from tests.web.conftest import asking

KINDS = "/api/v1/kinds"


async def use(client: httpx.AsyncClient, kind: str) -> None:
    sent = {"id": kind, "subject": "ada", "type": "models", "data": {"value": 5, "kind": kind}}
    assert (await client.post("/api/v1/events", json=sent)).json()["accepted"] == 1


async def test_what_needs_a_price_is_listed_until_it_has_one(client: httpx.AsyncClient) -> None:
    for kind in ("large", "small"):
        await use(client, kind)
    first = (await client.get(KINDS, params={"unpriced": "true", "limit": "1"})).json()
    second = (await client.get(KINDS, params={"unpriced": "true", "cursor": first["next"]})).json()
    large, small = first["items"] + second["items"]
    waits = {"customers": 1, "measurements": 1, "quantity": "5", "first_month": "2026-11", "last_month": "2026-11"}
    assert (large["kind"], small["kind"], large["unpriced"], small["unpriced"]) == ("large", "small", waits, waits)
    body = {"meter": "models", "kind": "large", "effective_from": "2026-01-01T00:00:00Z"}
    await client.post("/api/v1/prices", json=body | {"model": {"type": "per_unit", "amount": "1"}})
    assert (await client.get(KINDS, params={"unpriced": "true"})).json() == {"items": [small], "next": None}
    every = (await client.get(KINDS, params={"meter": "models"})).json()["items"]
    assert [(kind["kind"], kind["priced_from"]) for kind in every] == [
        ("large", "2026-01-01T00:00:00Z"),
        ("small", None),
    ]


async def test_a_kind_is_named(client: httpx.AsyncClient) -> None:
    await client.put("/api/v1/meters/models", json={})
    for kind, name in (("", "all models"), ("a/b é", "A to B")):
        query = {"kind": kind} if kind else {}
        named = await client.put(f"{KINDS}/models", params=query, json={"name": name})
        assert (named.status_code, named.json()["kind"], named.json()["name"]) == (200, kind, name)
        assert (await client.get(f"{KINDS}/models", params=query)).json() == named.json()
    nameless = await client.put(f"{KINDS}/models", json={"name": None})
    assert nameless.json()["name"] is None


async def test_what_is_wrong_is_said(client: httpx.AsyncClient) -> None:
    await client.put("/api/v1/meters/models", json={})
    missing = await client.get(f"{KINDS}/models", params={"kind": "x"})
    assert (missing.status_code, missing.json()["field"]) == (404, "kind")
    assert (await client.put(f"{KINDS}/nothing", json={"name": "x"})).status_code == 404
    for body, field in (({}, "name"), ({"name": ""}, "name"), ({"name": 5}, "name"), ({"title": "x"}, "name")):
        refused = await client.put(f"{KINDS}/models", json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), body
    for query in ({"cursor": "x"}, {"limit": "0"}, {"unpriced": "perhaps"}, {"meter": ""}):
        assert (await client.get(KINDS, params=query)).status_code == 422, query


async def test_they_are_for_administrators(service: Service) -> None:
    async with asking(service, dev=False, api_keys="shop", admin_api_keys="boss") as client:  # pragma: allowlist secret
        assert (await client.get(KINDS, headers={"Authorization": "Bearer shop"})).status_code == 403
        assert (await client.get(KINDS, headers={"Authorization": "Bearer boss"})).status_code == 200
