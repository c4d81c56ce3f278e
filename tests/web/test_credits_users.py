"""The administrators' part of the credits service: users and their transactions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.service import Service
from tests.web.conftest import asking

USERS = "/api/v1/users"
JOHN = "john@example.com"
SECOND = timedelta(seconds=1)


def at(user: str, *more: str) -> str:
    return "/".join((USERS, quote(user, safe=""), *more))


async def post(client: httpx.AsyncClient, route: str, **body: Any) -> None:
    answer = await client.post(f"/api/v1/{route}", json=body)
    assert answer.is_success, answer.text


@pytest.fixture
async def john(client: httpx.AsyncClient, clock: TestClock) -> httpx.AsyncClient:
    """John opened with 10, topped up 90 and was billed a quarter and less than a cent, a second apart."""
    await post(client, "accounts", user_id=JOHN, initial_balance="10")
    clock.advance(SECOND)
    await post(client, "topup", user_id=JOHN, amount="90.00")
    clock.advance(SECOND)
    await post(client, "bill", user_id=JOHN, amount="0.25", description="Gemini API call")
    clock.advance(SECOND)
    await post(client, "bill", user_id=JOHN, amount="0.0028")
    return client


async def test_a_user_to_the_byte(john: httpx.AsyncClient) -> None:
    answer = await john.get(at(JOHN))
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == (
        f'{{"user_id":"{JOHN}","display_name":null,"created_at":"2026-11-20T12:00:00+00:00","balance":99.7472}}'
    )


async def test_transactions_to_the_byte(john: httpx.AsyncClient) -> None:
    answer = await john.get(at(JOHN, "transactions"), params={"page_size": "2"})
    ids = [one["id"] for one in answer.json()["transactions"]]
    assert answer.text == (
        f'{{"transactions":[{{"id":"{ids[0]}","user_id":"{JOHN}","type":"bill","amount":0.0028,"description":null,'
        f'"balance_after":99.7472,"created_at":"2026-11-20T12:00:03+00:00"}},'
        f'{{"id":"{ids[1]}","user_id":"{JOHN}","type":"bill","amount":0.25,"description":"Gemini API call",'
        '"balance_after":99.75,"created_at":"2026-11-20T12:00:02+00:00"}],"total":4,"page":1,"page_size":2}'
    )
    answer = await john.get(at(JOHN, "transactions"), params={"page": "2", "page_size": "2"})
    facts = [(one["type"], one["amount"], one["balance_after"]) for one in answer.json()["transactions"]]
    assert facts == [("topup", 90, 100), ("topup", 10, 10)]
    assert '"amount":90.00,' in answer.text
    assert '"balance_after":10.00,' in answer.text


async def test_whatever_moves_the_balance_is_a_topup_or_a_bill(john: httpx.AsyncClient) -> None:
    await john.put("/api/v1/meters/tokens", json={})
    price = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "1"}}
    await john.post("/api/v1/prices", json=price)
    for number, value in enumerate((200, -50)):
        event = {"id": str(number), "subject": JOHN, "type": "tokens", "data": {"value": value}}
        assert (await john.post("/api/v1/events", json=event)).json()["accepted"] == 1
    await john.post(
        f"/api/v1/customers/{quote(JOHN)}/grants", json={"asset": "CREDIT", "amount": "5", "reason": "sorry"}
    )
    await john.post(f"/api/v1/customers/{quote(JOHN)}/grants", json={"asset": "USD", "amount": "1000"})
    found = (await john.get(at(JOHN, "transactions"), params={"page_size": "3"})).json()
    assert found["total"] == 7  # credits only
    assert [
        (one["type"], one["amount"], one["balance_after"], one["description"]) for one in found["transactions"]
    ] == [
        ("topup", 5, -45.2528, "sorry"),
        ("topup", 50, -50.2528, None),
        ("bill", 200, -100.2528, None),
    ]
    assert (await john.get(at(JOHN))).json()["balance"] == -45.2528


async def test_users_come_newest_first(john: httpx.AsyncClient, clock: TestClock) -> None:
    clock.advance(SECOND)
    await post(john, "accounts", user_id="empty")
    clock.advance(SECOND)
    await post(john, "customers", key="named", name="Project 1")
    clock.advance(SECOND)
    await post(john, "customers", key="paid for", payer=JOHN)
    answer = await john.get(USERS)
    listed = answer.json()
    assert {name: listed[name] for name in ("total", "page", "page_size")} == {"total": 4, "page": 1, "page_size": 20}
    facts = [(one["user_id"], one["display_name"], one["balance"]) for one in listed["users"]]
    assert facts == [
        ("paid for", None, 99.7472),
        ("named", "Project 1", None),
        ("empty", None, 0),
        (JOHN, None, 99.7472),
    ]
    assert '"balance":0.00}' in answer.text
    for one in listed["users"]:
        assert (await john.get(at(one["user_id"]))).json() == one
    pages = [(await john.get(USERS, params={"page": page, "page_size": 3})).json()["users"] for page in (1, 2, 3)]
    assert pages == [listed["users"][:3], listed["users"][3:], []]


async def test_users_do_not_see_each_others_transactions(john: httpx.AsyncClient) -> None:
    await post(john, "accounts", user_id="jane", initial_balance="1")
    (only,) = (await john.get(at("jane", "transactions"))).json()["transactions"]
    assert (only["user_id"], only["amount"], only["balance_after"]) == ("jane", 1, 1)
    await post(john, "accounts", user_id="empty")
    empty = await john.get(at("empty", "transactions"))
    assert empty.text == '{"transactions":[],"total":0,"page":1,"page_size":20}'


@pytest.mark.parametrize("path", [USERS, at(JOHN, "transactions")])
async def test_pages_are_put_within_their_bounds(john: httpx.AsyncClient, path: str) -> None:
    for page, page_size, shown in (
        ("0", "0", (1, 1)),
        ("-5", "-1", (1, 1)),
        ("1", "100", (1, 100)),
        ("1", "101", (1, 100)),
        ("2", "999999999999999999999", (2, 100)),
        ("9" * 30, "20", (2**53 - 1, 20)),
    ):
        answer = await john.get(path, params={"page": page, "page_size": page_size})
        assert answer.status_code == 200, answer.text
        assert (answer.json()["page"], answer.json()["page_size"]) == shown
    for wrong in ("", "x", "1.5", "1" * 5000):
        for name in ("page", "page_size"):
            refused = await john.get(path, params={name: wrong})
            assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["query", name])


async def test_a_user_that_is_none(client: httpx.AsyncClient) -> None:
    for user in ("ghost", "a/b", "ü 🙂", "x" * 300, "\0", " "):
        for path in (at(user), at(user, "transactions")):
            missing = await client.get(path)
            assert (missing.status_code, missing.json()) == (404, {"detail": f"User '{user}' not found"})
    assert (await client.get(USERS)).text == '{"users":[],"total":0,"page":1,"page_size":20}'
    assert (await client.post(USERS, json={})).json() == {"detail": "Method Not Allowed"}


# Who may call


CLIENTS: dict[str, Any] = {"api_keys": "secret"}  # pragma: allowlist secret
ADMINS: dict[str, Any] = {"admin_api_keys": "boss"}  # pragma: allowlist secret

CALLERS: list[tuple[dict[str, Any], str | None, int, str | None]] = [
    (ADMINS, "Bearer boss", 200, None),
    (CLIENTS | ADMINS, "Bearer boss", 200, None),
    ({}, None, 200, None),
    (CLIENTS | ADMINS, None, 401, "Missing Authorization header"),
    (CLIENTS | ADMINS, "boss", 401, "Invalid Authorization header format. Use: Bearer <api_key>"),
    (CLIENTS | ADMINS, "Bearer wrong", 403, "Invalid API key"),
    (CLIENTS | ADMINS, "Bearer secret", 403, "Admin API key required for this endpoint"),
    (CLIENTS, "Bearer secret", 503, "Admin API keys not configured for this endpoint"),
    ({"dev": False}, "Bearer any", 503, "Admin API keys not configured for this endpoint"),
]


async def test_only_administrators_may_look_at_users(service: Service, john: httpx.AsyncClient) -> None:
    for chosen, authorization, status, text in CALLERS:
        headers = {} if authorization is None else {"Authorization": authorization}
        async with asking(service, **chosen) as client:
            for path in (USERS, at(JOHN), at(JOHN, "transactions")):
                answer = await client.get(path, headers=headers)
                assert answer.status_code == status, (chosen, authorization)
                assert text is None or answer.json() == {"detail": text}
                assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
            other = await client.get("/api/v1/users-elsewhere", headers=headers)
            assert other.headers["content-type"] == "application/problem+json"  # compared by whole segments
