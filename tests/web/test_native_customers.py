"""Customers: balances, grants, usage, charges and bills."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.convertors import CONVERTOR_TYPES

CUSTOMERS = "/api/v1/customers"


def at(key: str, *more: str) -> str:
    return "/".join((CUSTOMERS, quote(key, safe=""), *more))


async def use(client: httpx.AsyncClient, key: str, value: object, time: str, number: int = 1) -> None:
    event = {"id": f"{time}-{number}", "subject": key, "type": "tokens", "time": time, "data": {"value": value}}
    assert (await client.post("/api/v1/events", json=event)).json()["accepted"] == 1


@pytest.fixture
async def priced(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Tokens cost two credits each."""
    await client.put("/api/v1/meters/tokens", json={"unit": "t", "name": "AI tokens"})
    price = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z"}
    await client.post("/api/v1/prices", json=price | {"model": {"type": "per_unit", "amount": "2"}})
    return client


async def test_a_customer_is_created_and_shown(client: httpx.AsyncClient) -> None:
    await client.post(CUSTOMERS, json={"key": "org"})
    asked = {
        "key": "p1",
        "name": "Project 1",
        "email": "p1@example.com",
        "parent": "org",
        "payer": "org",
        "credit_policy": "prepaid",
    }
    created = await client.post(CUSTOMERS, json=asked)
    assert created.status_code == 201
    shown = created.json()
    assert {name: shown[name] for name in shown if name != "id"} == {
        **asked,
        "posting_policy": "immediate",
        "region": "nam",
        "vip": False,
        "created_at": "2026-11-20T12:00:00Z",
        "balances": [],
    }
    assert (await client.get(at("p1"))).json() == shown
    bare = (await client.post(CUSTOMERS, json={"key": "bare"})).json()
    assert (bare["credit_policy"], bare["name"], bare["email"], bare["parent"]) == ("postpaid", None, None, None)


async def test_a_customer_is_refused_with_field_and_rule(client: httpx.AsyncClient) -> None:
    await client.post(CUSTOMERS, json={"key": "taken", "email": "taken@example.com"})
    for body, status, field in (
        ({}, 422, "key"),
        ({"key": ""}, 422, "key"),
        ({"key": 1}, 422, "key"),
        ({"key": "k" * 257}, 422, "key"),
        ({"key": "a\0"}, 422, "key"),
        ({"key": "k", "name": "n" * 257}, 422, "name"),
        ({"key": "k", "email": "nobody"}, 422, "email"),
        ({"key": "k", "parent": "ghost"}, 422, "parent"),
        ({"key": "k", "payer": "ghost"}, 422, "payer"),
        ({"key": "k", "credit_policy": "generous"}, 422, "credit_policy"),
        ({"key": "k", "id": "1"}, 422, "id"),
        ({"key": "taken"}, 409, "key"),
        ({"key": "k", "email": "TAKEN@example.com"}, 409, "email"),
    ):
        refused = await client.post(CUSTOMERS, json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), (body, refused.text)
    for what in ((), ("usage",), ("charges",), ("bill",)):
        missing = await client.get(at("nobody", *what))
        assert (missing.status_code, missing.json()["detail"]) == (404, "there is no customer 'nobody'")


async def test_keys_of_customers_may_hold_anything(client: httpx.AsyncClient) -> None:
    for key in ("a/b", "a/usage", "john@example.com", "50%", "%2F", "ü 🙂", "?#", "grants", "a\\b"):
        assert (await client.post(CUSTOMERS, json={"key": key})).status_code == 201
        granted = await client.post(at(key, "grants"), json={"asset": "CREDIT", "amount": "1"})
        assert granted.status_code == 201, key
        assert (await client.get(at(key))).json()["key"] == key
        for what in ("usage", "bill"):
            assert (await client.get(at(key, what))).json()["customer"] == key
        assert (await client.get(at(key, "charges"))).json() == {"items": [], "next": None}


async def test_a_grant_is_added_to_the_balance(priced: httpx.AsyncClient) -> None:
    await priced.post(CUSTOMERS, json={"key": "p1"})
    granted = await priced.post(at("p1", "grants"), json={"asset": "CREDIT", "amount": "200", "reason": "start"})
    assert granted.status_code == 201
    told = granted.json()
    assert {name: told[name] for name in ("customer", "asset", "amount", "reason", "balance")} == {
        "customer": "p1",
        "asset": "CREDIT",
        "amount": "200",
        "reason": "start",
        "balance": "200",
    }
    await use(priced, "p1", "2.5", "2026-11-02T00:00:00Z")
    await priced.post(at("p1", "grants"), json={"asset": "USD", "amount": "0.000001"})
    assert (await priced.get(at("p1"))).json()["balances"] == [
        {"asset": "CREDIT", "balance": "195", "held": "0", "available": "195", "used": "5", "granted": "200"},
        {
            "asset": "USD",
            "balance": "0.000001",
            "held": "0",
            "available": "0.000001",
            "used": "0",
            "granted": "0.000001",
        },
    ]


async def test_amounts_of_grants_are_exact_and_positive(client: httpx.AsyncClient) -> None:
    await client.post(CUSTOMERS, json={"key": "p1"})

    async def grant(amount: str) -> httpx.Response:
        body = b'{"asset":"CREDIT","amount":%s}' % amount.encode()
        return await client.post(at("p1", "grants"), content=body, headers={"Content-Type": "application/json"})

    for amount, kept in (
        ("0.1", "0.1"),
        ('"0.1"', "0.1"),
        ("12", "12"),
        ("123456789012.123456", "123456789012.123456"),
    ):
        assert (await grant(amount)).json()["amount"] == kept
    for amount in ("0", '"0"', "-1", "1e400", "1e-7", "1e-999999", '"1e3"', '"x"', "true", "null", "{}"):
        refused = await grant(amount)
        assert (refused.status_code, refused.json()["field"]) == (422, "amount"), amount
    unknown = await client.post(at("p1", "grants"), json={"asset": "XAU", "amount": "1"})
    assert (unknown.status_code, unknown.json()["field"]) == (422, "asset")
    nobody = await client.post(at("nobody", "grants"), json={"asset": "CREDIT", "amount": "1"})
    assert (nobody.status_code, nobody.json()["code"]) == (404, "customer_not_found")


async def test_a_grant_under_an_idempotency_key_is_given_once(client: httpx.AsyncClient) -> None:
    await client.post(CUSTOMERS, json={"key": "p1"})
    body, headers = {"asset": "CREDIT", "amount": "10"}, {"Idempotency-Key": "november"}
    answers = [await client.post(at("p1", "grants"), json=body, headers=headers) for _ in range(3)]
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    assert (await client.get(at("p1"))).json()["balances"][0]["granted"] == "10"
    other = await client.post(at("p1", "grants"), json=body | {"amount": "11"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    for key in ("", "k" * 257):
        refused = await client.post(at("p1", "grants"), json=body, headers={"Idempotency-Key": key})
        assert (refused.status_code, refused.json()["field"]) == (422, "Idempotency-Key")


async def test_a_bill_is_the_usage_of_a_business_month(priced: httpx.AsyncClient) -> None:
    # The business zone is New York's: November begins at 04:00 UTC there.
    await use(priced, "p1", 1, "2026-11-01T03:59:59Z")
    await use(priced, "p1", 10, "2026-11-01T04:00:00Z")
    await use(priced, "p1", "0.25", "2026-11-30T23:00:00Z")
    bill = (await priced.get(at("p1", "bill"), params={"month": "2026-11"})).json()
    (line,) = bill.pop("lines")
    assert bill == {
        "customer": "p1",
        "month": "2026-11",
        "start": "2026-11-01T04:00:00Z",
        "end": "2026-12-01T05:00:00Z",
        "state": "draft",
        "totals": [{"asset": "CREDIT", "amount": "20.5"}],
    }
    assert {name: line[name] for name in line if name != "price"} == {
        "meter": "tokens",
        "kind": "",
        "name": "AI tokens",
        "unit": "t",
        "quantity": "10.25",
        "measurements": 2,
        "model": {"type": "per_unit", "amount": "2", "per": "1"},
        "asset": "CREDIT",
        "amount": "20.5",
    }
    october = (await priced.get(at("p1", "bill"), params={"month": "2026-10"})).json()
    assert october["totals"] == [{"asset": "CREDIT", "amount": "2"}]
    this_month = (await priced.get(at("p1", "bill"))).json()
    assert this_month["month"] == "2026-11"
    usage = (await priced.get(at("p1", "usage"), params={"month": "2026-11"})).json()
    assert usage["lines"] == [line]


async def test_usage_without_a_price_has_no_amount(client: httpx.AsyncClient) -> None:
    await use(client, "p1", 3, "2026-11-02T00:00:00Z")
    bill = (await client.get(at("p1", "bill"))).json()
    (line,) = bill["lines"]
    assert (line["quantity"], line["amount"], line["asset"], line["price"], line["model"]) == (
        "3",
        None,
        None,
        None,
        None,
    )
    assert bill["totals"] == []
    (charge,) = (await client.get(at("p1", "charges"))).json()["items"]
    assert (charge["amount"], charge["transfer"]) == (None, None)


async def test_a_month_must_be_one(client: httpx.AsyncClient) -> None:
    await client.post(CUSTOMERS, json={"key": "p1"})
    for month in ("", "2026-13", "2026-00", "2026", "2026-11-01", "0000-01", "9999-12", "٢٠٢٦-11", "x" * 9999, "\0"):
        for what in ("bill", "usage"):
            refused = await client.get(at("p1", what), params={"month": month})
            assert (refused.status_code, refused.json()["field"]) == (422, "month"), month


async def test_charges_come_newest_first_in_pages(priced: httpx.AsyncClient) -> None:
    for day in range(1, 8):
        await use(priced, "p1", day, f"2026-11-0{day}T12:00:00Z")
    seen: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {"limit": "3", "since": "2026-11-02T12:00:00Z", "until": "2026-11-07T12:00:00Z"}
        page = (await priced.get(at("p1", "charges"), params=query | ({"cursor": cursor} if cursor else {}))).json()
        seen += page["items"]
        if (cursor := page["next"]) is None:
            break
    assert [charge["at"] for charge in seen] == [f"2026-11-0{day}T12:00:00Z" for day in (6, 5, 4, 3, 2)]
    newest = seen[0]
    assert {
        name: newest[name] for name in ("meter", "kind", "resource", "agent", "value", "quantity", "asset", "amount")
    } == {
        "meter": "tokens",
        "kind": "",
        "resource": "",
        "agent": "",
        "value": "6",
        "quantity": "6",
        "asset": "CREDIT",
        "amount": "12",
    }
    for name in ("since", "until"):
        for wrong in ("", "yesterday", "2026-11-02", "2026-11-02T12:00:00", "99999-01-01T00:00:00Z"):
            refused = await priced.get(at("p1", "charges"), params={name: wrong})
            assert (refused.status_code, refused.json()["field"]) == (422, name), wrong


async def test_a_charge_is_explained(priced: httpx.AsyncClient) -> None:
    await use(priced, "p1", 4, "2026-11-01T12:00:00Z")
    await use(priced, "p1", "2.5", "2026-11-02T12:00:00Z")
    charge = (await priced.get(at("p1", "charges"))).json()["items"][0]
    told = (await priced.get(f"/api/v1/charges/{charge['id']}")).json()
    assert (told["id"], told["quantity"], told["amount"]) == (charge["id"], "2.5", "5")
    assert (told["total_before"], told["total_after"]) == ("4", "6.5")
    assert told["arithmetic"][-1] == "charge = F(6.5) - F(4) = 13 - 8 = 5 CREDIT"
    assert told["transfers"][0]["id"] == charge["transfer"]
    for wrong in ("x", "1.2", charge["id"] + ".", "%00"):
        refused = await priced.get(f"/api/v1/charges/{wrong}")
        assert (refused.status_code, refused.json()["field"]) == (422, "charge"), wrong
    nil = "00000000-0000-0000-0000-000000000000"
    assert (await priced.get(f"/api/v1/charges/{nil}.{nil}")).status_code == 404


async def test_the_books_are_proved(priced: httpx.AsyncClient) -> None:
    await use(priced, "p1", 4, "2026-11-01T12:00:00Z")
    verdict = (await priced.get("/api/v1/verify")).json()
    assert verdict["holds"] is True
    assert verdict["checks"]
    assert all(set(check) == {"name", "holds", "checked", "detail"} for check in verdict["checks"])
    assert (await priced.get("/api/v1/verify", params={"customer": "p1"})).json()["holds"] is True
    assert (await priced.get("/api/v1/verify", params={"customer": "nobody"})).status_code == 404
    assert (await priced.get("/api/v1/verify", params={"customer": "\0"})).status_code == 422


async def test_customers_come_in_pages(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await client.post(CUSTOMERS, json={"key": f"c{number}"})
    first = (await client.get(CUSTOMERS, params={"limit": "2"})).json()
    second = (await client.get(CUSTOMERS, params={"limit": "2", "cursor": first["next"]})).json()
    assert [customer["key"] for customer in first["items"] + second["items"]] == ["c0", "c1", "c2"]
    assert second["next"] is None


def test_an_address_made_from_a_key_leads_back_to_it() -> None:
    convertor = CONVERTOR_TYPES["key"]
    for key in ("ada", "a/b", "50 % off?", "å@example.org", "\udcff"):
        address = convertor.to_string(key)
        assert "/" not in address
        assert convertor.convert(address) == key
