"""Meters and prices."""

from __future__ import annotations

from typing import Any

import httpx

TOKENS = {"kind": "delta", "unit": "t", "aggregation": "sum", "name": "tok", "description": "AI tokens"}
PER_UNIT = {"type": "per_unit", "amount": "1", "per": "730"}


def price(**more: Any) -> dict[str, Any]:
    return {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z", "model": PER_UNIT} | more


async def test_a_meter_is_put_and_shown(client: httpx.AsyncClient) -> None:
    put = await client.put("/api/v1/meters/tokens", json=TOKENS)
    gaps = {"on_gap": "free", "max_gap_hours": 24, "interval_minutes": 60}
    shown = {"key": "tokens", "on_drop": "rebase", **gaps, **TOKENS}
    assert (put.status_code, put.json()) == (200, shown)
    assert (await client.get("/api/v1/meters/tokens")).json() == shown
    changed = await client.put("/api/v1/meters/tokens", json={"kind": "gauge", "aggregation": "max"})
    assert changed.json()["kind"] == "gauge"
    missing = await client.get("/api/v1/meters/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_keys_of_meters_may_hold_anything(client: httpx.AsyncClient) -> None:
    for key in ("a/b", "a%2Fb", "50%", "é ü", "?#&", ".."):
        path = httpx.URL("http://tally").copy_with(raw_path=_path("/api/v1/meters/", key))
        assert (await client.put(path, json={})).json()["key"] == key
        assert (await client.get(path)).json()["key"] == key


def _path(prefix: str, key: str) -> bytes:
    return prefix.encode() + b"".join(b"%%%02X" % byte for byte in key.encode())


async def test_how_a_meter_counts_stands_once_it_has_measurements(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/events", json={"id": "1", "subject": "ada", "type": "tokens", "data": {"value": 1}})
    refused = await client.put("/api/v1/meters/tokens", json={"kind": "counter"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    renamed = await client.put("/api/v1/meters/tokens", json={"name": "new name"})
    assert renamed.status_code == 200


async def test_a_meter_that_breaks_its_rules_is_refused_with_the_field(client: httpx.AsyncClient) -> None:
    for body, field in (
        ({"kind": "speed"}, "kind"),
        ({"aggregation": "median"}, "aggregation"),
        ({"kind": "counter", "aggregation": "max"}, "aggregation"),
        ({"unit": "x" * 257}, "unit"),
        ({"name": "a\0b"}, "name"),
        ({"name": None}, "name"),
        ({"desciption": "misspelt"}, "desciption"),
    ):
        refused = await client.put("/api/v1/meters/tokens", json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), body
        assert refused.headers["content-type"] == "application/problem+json"
    for key in ("%00", "%20", "x" * 257, "%FF", "%ED%A0%80"):
        refused = await client.put(httpx.URL(f"http://tally/api/v1/meters/{key}"), json={})
        assert (refused.status_code, refused.json()["field"]) == (422, "key"), key


async def test_a_price_is_created_and_listed(client: httpx.AsyncClient) -> None:
    await client.put("/api/v1/meters/tokens", json=TOKENS)
    created = await client.post("/api/v1/prices", json=price(kind="gpt", quantum="0.01"))
    assert created.status_code == 201
    body = created.json()
    assert {name: body[name] for name in body if name != "id"} == {
        "meter": "tokens",
        "kind": "gpt",
        "customer": None,
        "effective_from": "2026-01-01T00:00:00Z",
        "asset": "CREDIT",
        "quantum": "0.01",
        "model": PER_UNIT,
        "created_at": "2026-11-20T12:00:00Z",
    }
    listed = (await client.get("/api/v1/prices", params={"meter": "tokens"})).json()
    assert listed == {"items": [body], "next": None}


async def test_every_model_is_taken_with_numbers_of_either_kind(client: httpx.AsyncClient) -> None:
    await client.put("/api/v1/meters/tokens", json=TOKENS)
    tiers = b'[{"up_to":100,"amount":0},{"up_to":null,"amount":0.07,"per":"1","flat":1}]'
    for number, (sent, kept) in enumerate(
        (
            (b'{"type":"per_unit","amount":0.1}', {"type": "per_unit", "amount": "0.1", "per": "1"}),
            (b'{"type":"package","amount":"5","size":1e3}', {"type": "package", "amount": "5", "size": "1000"}),
            (b'{"type":"dynamic"}', {"type": "dynamic"}),
            (
                b'{"type":"graduated","tiers":' + tiers + b"}",
                {
                    "type": "graduated",
                    "tiers": [
                        {"up_to": "100", "amount": "0", "per": "1", "flat": "0"},
                        {"up_to": None, "amount": "0.07", "per": "1", "flat": "1"},
                    ],
                },
            ),
        )
    ):
        body = (
            b'{"meter":"tokens","kind":"%d","effective_from":"2026-01-01T00:00:00+01:00","quantum":0.5,"model":%s}'
            % (
                number,
                sent,
            )
        )
        created = await client.post("/api/v1/prices", content=body, headers={"Content-Type": "application/json"})
        assert created.status_code == 201, created.text
        assert (created.json()["model"], created.json()["quantum"]) == (kept, "0.5")
        assert created.json()["effective_from"] == "2025-12-31T23:00:00Z"


async def test_a_price_that_starts_in_the_past_charges_what_waits(client: httpx.AsyncClient) -> None:
    event = {"id": "1", "subject": "ada", "type": "tokens", "time": "2026-11-02T00:00:00Z", "data": {"value": 730}}
    assert (await client.post("/api/v1/events", json=event)).json()["unpriced"] == 1
    assert (await client.get("/api/v1/customers/ada")).json()["balances"] == []
    await client.post("/api/v1/prices", json=price())
    (balance,) = (await client.get("/api/v1/customers/ada")).json()["balances"]
    assert (balance["balance"], balance["used"]) == ("-1", "1")
    verdict = (await client.get("/api/v1/verify")).json()
    assert verdict["holds"], verdict


async def test_a_price_is_refused_with_field_and_rule(client: httpx.AsyncClient) -> None:
    await client.put("/api/v1/meters/tokens", json=TOKENS)
    for more, field in (
        ({"meter": "nothing"}, "meter"),
        ({"meter": None}, "meter"),
        ({"customer": "nobody"}, "customer"),
        ({"asset": "XAU"}, "asset"),
        ({"kind": "k" * 257}, "kind"),
        ({"effective_from": "2026-01-01"}, "effective_from"),
        ({"effective_from": "2026-01-01T00:00:00"}, "effective_from"),
        ({"effective_from": "0001-01-01T00:00:00+23:00"}, "effective_from"),
        ({"effective_from": 1767225600}, "effective_from"),
        ({"quantum": "0.0000001"}, "quantum"),
        ({"quantum": "0"}, "quantum"),
        ({"quantum": True}, "quantum"),
        ({"model": None}, "model"),
        ({"model": {"type": "free"}}, "model.type"),
        ({"model": {"type": "per_unit"}}, "model.amount"),
        ({"model": {"type": "per_unit", "amount": "1e400"}}, "model.amount"),
        ({"model": {"type": "per_unit", "amount": "1", "per": "0"}}, "model.per"),
        ({"model": {"type": "per_unit", "amount": "1", "pre": "0"}}, "model"),
        ({"model": {"type": "volume", "tiers": [{"up_to": None}, {"up_to": None}]}}, "model.tiers[0].up_to"),
        ({"currency": "USD"}, "currency"),
    ):
        refused = await client.post("/api/v1/prices", json=price(**more))
        assert (refused.status_code, refused.json()["field"]) == (422, field), (more, refused.text)
    assert (await client.post("/api/v1/prices", json=price())).status_code == 201
    twice = await client.post("/api/v1/prices", json=price())
    assert (twice.status_code, twice.json()["field"]) == (409, "effective_from")


async def test_lists_come_in_pages(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await client.put(f"/api/v1/meters/m{number}", json={})
        await client.post("/api/v1/prices", json=price(meter=f"m{number}"))
    for path, expected in (("/api/v1/meters", 7), ("/api/v1/prices", 7)):
        seen: list[str] = []
        cursor = None
        while True:
            query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            page = (await client.get(path, params=query)).json()
            assert len(page["items"]) <= 2
            seen += [item.get("key") or item["id"] for item in page["items"]]
            if (cursor := page["next"]) is None:
                break
        assert len(seen) == len(set(seen)) == expected
        for query in ({"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"limit": "9" * 5000}):
            refused = await client.get(path, params=query)
            assert (refused.status_code, refused.json()["field"]) == (422, "limit")
        for wrong in ("", "x", "!!", "W10", "x" * 5000, "é", "\0"):
            refused = await client.get(path, params={"cursor": wrong})
            assert (refused.status_code, refused.json()["field"]) == (422, "cursor"), wrong
