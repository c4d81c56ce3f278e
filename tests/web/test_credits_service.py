"""What the credits service's callers depend on: its routes, shapes, statuses and texts."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx
import pytest

from tallystick.service import Service
from tests.web.conftest import asking

JOHN = "john@example.com"


async def post(client: httpx.AsyncClient, route: str, body: str, **headers: str) -> httpx.Response:
    """Sends JSON text as it is: Python's own numbers would lose digits before they were sent."""
    return await client.post(
        f"/api/v1/{route}", content=body.encode(), headers={"Content-Type": "application/json", **headers}
    )


async def balance(client: httpx.AsyncClient, user: str = JOHN) -> str:
    """The digits of the balance, as they stand in the answer."""
    text = (await post(client, "balance", f'{{"user_id":"{user}"}}')).text
    return text.partition('"balance":')[2].rstrip("}")


@pytest.fixture
async def john(client: httpx.AsyncClient) -> httpx.AsyncClient:
    await post(client, "accounts", f'{{"user_id":"{JOHN}","initial_balance":100}}')
    return client


async def test_the_flow_of_its_description(client: httpx.AsyncClient) -> None:
    opened = await post(client, "accounts", f'{{"user_id":"{JOHN}","initial_balance":0.00}}')
    assert opened.status_code == 201
    assert opened.text == (
        f'{{"account_id":177283652503392096144459372718382848509,"user_id":"{JOHN}","balance":0.00}}'
    )
    topped_up = await post(client, "topup", f'{{"user_id":"{JOHN}","amount":100.00}}')
    assert topped_up.status_code == 200
    assert topped_up.text == f'{{"user_id":"{JOHN}","amount_added":100.00,"new_balance":100.00}}'
    assert await balance(client) == "100.00"
    billed = await post(client, "bill", f'{{"user_id":"{JOHN}","amount":0.25,"description":"Gemini API call"}}')
    assert billed.status_code == 200
    assert billed.text == f'{{"user_id":"{JOHN}","amount_billed":0.25,"new_balance":99.75}}'
    assert billed.headers["content-type"] == "application/json"
    assert await balance(client) == "99.75"


async def test_an_account_opens_with_credits_in_it(client: httpx.AsyncClient) -> None:
    opened = await post(client, "accounts", '{"user_id":"a","initial_balance":"12.5"}')
    account_id = int.from_bytes(hashlib.sha256(b"a").digest()[:16], "big")
    assert opened.json() == {"account_id": account_id, "user_id": "a", "balance": 12.5}
    assert await balance(client, "a") == "12.50"


async def test_amounts_below_a_cent_are_charged_exactly(john: httpx.AsyncClient) -> None:
    billed = await post(john, "bill", f'{{"user_id":"{JOHN}","amount":0.0028}}')
    assert billed.text == f'{{"user_id":"{JOHN}","amount_billed":0.0028,"new_balance":99.9972}}'
    for _ in range(3):
        await post(john, "bill", f'{{"user_id":"{JOHN}","amount":0.000001}}')
    assert await balance(john) == "99.997197"


async def test_no_digit_passes_through_a_binary_float(client: httpx.AsyncClient) -> None:
    await post(client, "accounts", '{"user_id":"rich","initial_balance":999999999999999.999999}')
    assert await balance(client, "rich") == "999999999999999.999999"


async def test_whoever_has_less_than_the_amount_is_not_billed(john: httpx.AsyncClient) -> None:
    refused = await post(john, "bill", f'{{"user_id":"{JOHN}","amount":100.000001}}')
    assert refused.status_code == 402
    assert refused.json() == {"detail": "Insufficient balance: 100.000001 is needed, 100.00 is available"}
    assert await balance(john) == "100.00"


async def test_an_account_exists_once(john: httpx.AsyncClient) -> None:
    again = await post(john, "accounts", f'{{"user_id":"{JOHN}","initial_balance":5}}')
    assert again.status_code == 409
    assert again.json() == {"detail": f"Account for user {JOHN} already exists"}
    assert await balance(john) == "100.00"


async def test_an_unknown_account_is_404(client: httpx.AsyncClient) -> None:
    for route in ("balance", "topup", "bill"):
        missing = await post(client, route, '{"user_id":"ghost","amount":1}')
        assert missing.status_code == 404
        assert missing.json() == {"detail": "Account for user ghost not found"}


async def test_usage_of_the_same_key_is_paid_from_the_same_balance(john: httpx.AsyncClient) -> None:
    await john.put("/api/v1/meters/tokens", json={})
    price = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "1"}}
    await john.post("/api/v1/prices", json=price)
    event = {"id": "1", "subject": JOHN, "type": "tokens", "data": {"value": 40}}
    await john.post("/api/v1/events", json=event)
    assert await balance(john) == "60.00"


# What a request may hold


NO_AMOUNTS = [
    ("0", "Input should be greater than 0"),
    ("0.00", "Input should be greater than 0"),
    ("-1", "Input should be greater than 0"),
    ("0.0000001", "Decimal input should have no more than 6 decimal places"),
    ("1e-999999", "Decimal input should have no more than 6 decimal places"),
    ("1e400", "Input should be less than or equal to 1000000000000000"),
    ("1000000000000000.000001", "Input should be less than or equal to 1000000000000000"),
    ('"NaN"', "must be a plain decimal number, as 99.75"),
    ('"Infinity"', "must be a plain decimal number, as 99.75"),
    ('"1_000"', "must be a plain decimal number, as 99.75"),
    ('" 1"', "must be a plain decimal number, as 99.75"),
    ('"\u0661"', "must be a plain decimal number, as 99.75"),
    ('""', "must be a plain decimal number, as 99.75"),
    ("true", "must be a decimal number"),
    ("null", "must be a decimal number"),
    ("[1]", "must be a decimal number"),
]


@pytest.mark.parametrize("route", ["topup", "bill"])
async def test_an_amount_that_is_none_breaks_the_schema(john: httpx.AsyncClient, route: str) -> None:
    for amount, message in NO_AMOUNTS:
        refused = await post(john, route, f'{{"user_id":"{JOHN}","amount":{amount}}}')
        assert refused.status_code == 422, amount
        (fault,) = refused.json()["detail"]
        assert (fault["loc"], fault["msg"]) == (["body", "amount"], message), amount
    assert await balance(john) == "100.00"


async def test_a_number_that_is_not_json_breaks_the_schema(john: httpx.AsyncClient) -> None:
    for amount in ("NaN", "Infinity", "1e99999999999999999999999", "01", "1" * 5000, "0x1"):
        refused = await post(john, "bill", f'{{"user_id":"{JOHN}","amount":{amount}}}')
        assert refused.status_code == 422, amount
        (fault,) = refused.json()["detail"]
        assert (fault["type"], fault["loc"]) == ("json_invalid", ["body"])


async def test_a_number_may_be_spelt_in_many_ways(john: httpx.AsyncClient) -> None:
    for amount in ("1.10000000", "11e-1", '"1.1"', '"1.100"'):
        billed = await post(john, "bill", f'{{"user_id":"{JOHN}","amount":{amount}}}')
        assert '"amount_billed":1.10,' in billed.text, amount
    assert await balance(john) == "95.60"


async def test_a_user_id_must_be_one(client: httpx.AsyncClient) -> None:
    for user in ("", "  ", "x" * 257, r"a\u0000b", r"\ud800"):
        for route, more in (("accounts", ""), ("balance", ""), ("bill", ',"amount":1')):
            refused = await post(client, route, f'{{"user_id":"{user}"{more}}}')
            assert refused.status_code == 422, user
            assert refused.json()["detail"][0]["loc"] == ["body", "user_id"]


async def test_a_body_that_is_no_request_breaks_the_schema(client: httpx.AsyncClient) -> None:
    for body in ("", "{", "[]", "null", "1", '"text"', "{}", '{"user_id":1}', '{"user_id":null}'):
        refused = await post(client, "balance", body)
        assert refused.status_code == 422, body
        assert all({"type", "loc", "msg"} <= set(fault) for fault in refused.json()["detail"])


async def test_a_body_must_say_that_it_is_json(client: httpx.AsyncClient) -> None:
    """Else a page of a foreign site could make a browser send it."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused = await client.post(
            "/api/v1/balance", content=b'{"user_id":"a"}', headers={"Content-Type": content_type}
        )
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["msg"] == "Content-Type must be application/json"


async def test_a_description_may_say_anything_that_can_be_kept(john: httpx.AsyncClient) -> None:
    for description, status in (("π\n\t🙂" * 100, 200), ("x" * 1001, 422), ("\0", 422), (None, 200)):
        body: dict[str, Any] = {"user_id": JOHN, "amount": 1, "description": description}
        assert (await john.post("/api/v1/bill", json=body)).status_code == status


async def test_names_of_users_come_back_as_they_were_sent(client: httpx.AsyncClient) -> None:
    user = 'π "quoted" \\ </script> 🙂\n'
    assert (await client.post("/api/v1/accounts", json={"user_id": user})).json()["user_id"] == user
    again = await client.post("/api/v1/accounts", json={"user_id": user})
    assert again.json() == {"detail": f"Account for user {user} already exists"}


# Once


async def test_an_idempotency_key_moves_money_once(john: httpx.AsyncClient) -> None:
    body = f'{{"user_id":"{JOHN}","amount":10}}'
    first = await post(john, "bill", body, **{"Idempotency-Key": "call-1"})
    await post(john, "topup", body)
    again = await post(john, "bill", body, **{"Idempotency-Key": "call-1"})
    assert (again.status_code, again.text) == (first.status_code, first.text)
    assert await balance(john) == "100.00"


async def test_an_idempotency_key_belongs_to_one_request(john: httpx.AsyncClient) -> None:
    await post(john, "bill", f'{{"user_id":"{JOHN}","amount":10}}', **{"Idempotency-Key": "call-1"})
    other = await post(john, "bill", f'{{"user_id":"{JOHN}","amount":11}}', **{"Idempotency-Key": "call-1"})
    assert other.status_code == 409
    assert other.json() == {"detail": "Idempotency-Key was used for another request before"}
    assert await balance(john) == "90.00"


async def test_a_refusal_under_an_idempotency_key_stands(john: httpx.AsyncClient) -> None:
    body = f'{{"user_id":"{JOHN}","amount":150}}'
    first = await post(john, "bill", body, **{"Idempotency-Key": "k"})
    await post(john, "topup", f'{{"user_id":"{JOHN}","amount":100}}')
    again = await post(john, "bill", body, **{"Idempotency-Key": "k"})
    assert (first.status_code, again.status_code, again.text) == (402, 402, first.text)
    opened = [await post(john, "accounts", '{"user_id":"new"}', **{"Idempotency-Key": "n"}) for _ in range(2)]
    assert [answer.status_code for answer in opened] == [201, 201]


async def test_an_idempotency_key_must_be_one(john: httpx.AsyncClient) -> None:
    for key in ("", " ", "k" * 257):
        refused = await post(john, "bill", f'{{"user_id":"{JOHN}","amount":1}}', **{"Idempotency-Key": key})
        assert refused.status_code == 422
        assert "Idempotency-Key must" in refused.json()["detail"]


async def test_bills_at_the_same_time_never_overdraw(john: httpx.AsyncClient) -> None:
    body = f'{{"user_id":"{JOHN}","amount":7}}'
    answers = await asyncio.gather(*(post(john, "bill", body) for _ in range(40)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 14 + [402] * 26
    assert await balance(john) == "2.00"
    verdict = (await john.get("/api/v1/verify")).json()
    assert verdict["holds"], verdict


# Who may call


CLIENTS: dict[str, Any] = {"api_keys": "secret"}  # pragma: allowlist secret
ADMINS: dict[str, Any] = {"admin_api_keys": "boss"}  # pragma: allowlist secret

REFUSED_CALLERS: list[tuple[dict[str, Any], str | None, int, str]] = [
    (CLIENTS, None, 401, "Missing Authorization header"),
    (CLIENTS, "secret", 401, "Invalid Authorization header format. Use: Bearer <api_key>"),
    (CLIENTS, "Basic secret", 401, "Invalid Authorization header format. Use: Bearer <api_key>"),
    (CLIENTS, "Bearer ", 401, "Invalid Authorization header format. Use: Bearer <api_key>"),
    (CLIENTS, "Bearer wrong", 403, "Invalid API key"),
    (CLIENTS | ADMINS, "Bearer boss", 403, "Invalid API key"),
    (ADMINS, "Bearer boss", 503, "Service not configured - no API keys available"),
    ({"dev": False}, "Bearer any", 503, "Service not configured - no API keys available"),
    (CLIENTS | {"dev": False}, None, 401, "Missing Authorization header"),
]


async def test_callers_without_the_right_key_are_told_so(service: Service) -> None:
    for chosen, authorization, status, text in REFUSED_CALLERS:
        headers = {} if authorization is None else {"Authorization": authorization}
        async with asking(service, **chosen) as client:
            for route in ("accounts", "balance", "topup", "bill"):
                refused = await client.post(f"/api/v1/{route}", json={}, headers=headers)
                assert (refused.status_code, refused.json()) == (status, {"detail": text}), (chosen, authorization)
                assert refused.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
            assert (await client.get("/api/v1/health")).status_code == 200


async def test_each_of_several_keys_is_let_in(service: Service) -> None:
    async with asking(service, api_keys="one, two ,three") as client:  # pragma: allowlist secret
        for number, key in enumerate(("one", "two", "three")):
            answer = await client.post(
                "/api/v1/accounts", json={"user_id": str(number)}, headers={"Authorization": f"bearer {key}"}
            )
            assert answer.status_code == 201


async def test_browsers_of_allowed_origins_may_ask_before_they_have_a_key(service: Service) -> None:
    origin = "https://app.example.com"
    async with asking(service, **CLIENTS, cors_allowed_origins=f"{origin},https://b.example") as client:
        preflight = await client.options(
            "/api/v1/bill",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == origin
        refused = await client.post("/api/v1/bill", json={}, headers={"Origin": origin})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == origin
        foreign = await client.options(
            "/api/v1/bill", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        )
        assert foreign.status_code == 400


async def test_statuses_that_no_route_foresees_keep_the_shape(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/bill")).json() == {"detail": "Method Not Allowed"}
