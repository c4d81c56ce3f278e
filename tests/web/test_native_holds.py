"""Holds over HTTP: placed, listed, settled, released, and refused with field and rule."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.ledger.hold_model import MAX_SECONDS
from tallystick.service import Service

CUSTOMERS = "/api/v1/customers"


def at(key: str, *more: str) -> str:
    return "/".join((CUSTOMERS, quote(key, safe=""), "holds", *more))


async def customer(client: httpx.AsyncClient, key: str = "ada", credits_: str = "10", policy: str = "prepaid") -> None:
    await client.post(CUSTOMERS, json={"key": key, "credit_policy": policy})
    await client.post(f"{CUSTOMERS}/{quote(key, safe='')}/grants", json={"asset": "CREDIT", "amount": credits_})


async def standing(client: httpx.AsyncClient, key: str = "ada") -> tuple[str, str, str, str]:
    """Balance, held, available and used credits."""
    (shown,) = (await client.get(f"{CUSTOMERS}/{key}")).json()["balances"]
    return shown["balance"], shown["held"], shown["available"], shown["used"]


async def place(client: httpx.AsyncClient, amount: str = "4", key: str = "ada", **more: Any) -> dict[str, Any]:
    answer = await client.post(at(key), json={"amount": amount, **more})
    assert answer.status_code == 201, answer.text
    placed: dict[str, Any] = answer.json()
    return placed


async def expire(service: Service, clock: TestClock, after: timedelta) -> None:
    clock.advance(after)
    async with service.pool.connection() as conn, conn.transaction():
        await service.holds.run_due(conn, clock.now(), 100)


async def test_a_hold_is_placed_and_settled(client: httpx.AsyncClient, clock: TestClock) -> None:
    await customer(client)
    hold = await place(client, "4.5", description="a long answer", expires_in=60)
    assert {name: hold[name] for name in hold if name != "id"} == {
        "customer": "ada",
        "asset": "CREDIT",
        "amount": "4.5",
        "state": "open",
        "description": "a long answer",
        "settled_amount": "0",
        "excess": "0",
        "created_at": "2026-11-20T12:00:00Z",
        "expires_at": "2026-11-20T12:01:00Z",
        "closed_at": None,
    }
    assert await standing(client) == ("10", "4.5", "5.5", "0")
    assert (await client.get(at("ada", hold["id"]))).json() == hold
    clock.advance(timedelta(seconds=10))
    settled = await client.post(at("ada", hold["id"], "settle"), json={"amount": "1.25"})
    assert settled.status_code == 200
    assert settled.json() == hold | {"state": "settled", "settled_amount": "1.25", "closed_at": "2026-11-20T12:00:10Z"}
    assert await standing(client) == ("8.75", "0", "8.75", "1.25")
    assert (await client.get(at("ada", hold["id"]))).json() == settled.json()


async def test_a_hold_is_released(client: httpx.AsyncClient) -> None:
    await customer(client)
    hold = await place(client)
    for _ in range(2):
        released = await client.delete(at("ada", hold["id"]))
        assert released.status_code == 200
        assert released.json() == hold | {"state": "released", "closed_at": "2026-11-20T12:00:00Z"}
    assert await standing(client) == ("10", "0", "10", "0")


async def test_an_excess_is_charged_or_refused_as_asked(client: httpx.AsyncClient) -> None:
    await customer(client)
    hold = await place(client, "4")
    settle = at("ada", hold["id"], "settle")
    refused = await client.post(settle, json={"amount": "12", "on_excess": "refuse"})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, "exceeds_hold", "amount")
    assert await standing(client) == ("10", "4", "6", "0")
    settled = (await client.post(settle, json={"amount": "12"})).json()
    assert (settled["settled_amount"], settled["excess"]) == ("4", "8")
    assert await standing(client) == ("-2", "0", "-2", "12")


async def test_a_closed_hold_says_what_it_is(client: httpx.AsyncClient, service: Service, clock: TestClock) -> None:
    await customer(client)
    settled, released, expired = [(await place(client, "1", expires_in=1))["id"] for _ in range(3)]
    await client.post(at("ada", settled, "settle"), json={"amount": "1"})
    await client.delete(at("ada", released))
    await expire(service, clock, timedelta(seconds=1))
    for hold, state in ((settled, "settled"), (released, "released"), (expired, "expired")):
        refused = await client.post(at("ada", hold, "settle"), json={"amount": "0.5"})
        problem = refused.json()
        assert (refused.status_code, problem["code"], problem["field"]) == (409, f"hold_{state}", "id")
        assert (await client.get(at("ada", hold))).json()["state"] == state
    assert (await client.delete(at("ada", expired))).json()["code"] == "hold_expired"
    assert await standing(client) == ("9", "0", "9", "1")


async def test_fifty_holds_at_once_hold_what_is_there_and_no_more(client: httpx.AsyncClient) -> None:
    await customer(client)
    answers = await asyncio.gather(*(client.post(at("ada"), json={"amount": "1.00"}) for _ in range(50)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(402)) == (10, 40)
    refused = next(answer.json() for answer in answers if answer.status_code == 402)
    assert refused["code"] == "insufficient_credits"
    assert refused["detail"] == "Insufficient balance: 1.00 is needed, 0.00 is available"
    assert await standing(client) == ("10", "10", "0", "0")


async def test_a_held_credit_cannot_be_billed(client: httpx.AsyncClient) -> None:
    await customer(client)
    hold = await place(client, "9")
    bill = {"user_id": "ada", "amount": 2}
    assert (await client.post("/api/v1/bill", json=bill)).status_code == 402
    await client.delete(at("ada", hold["id"]))
    assert (await client.post("/api/v1/bill", json=bill)).json()["new_balance"] == 8


async def test_holds_are_listed_newest_first_page_by_page(client: httpx.AsyncClient, clock: TestClock) -> None:
    await customer(client)
    await customer(client, "eve")
    await place(client, "1", key="eve")
    ids = []
    for _ in range(5):
        ids.append((await place(client, "1"))["id"])
        clock.advance(timedelta(seconds=1))
    await client.delete(at("ada", ids[1]))
    await client.post(at("ada", ids[3], "settle"), json={"amount": "1"})

    async def listed(limit: int, **query: Any) -> list[str]:
        found: list[str] = []
        while True:
            page = (await client.get(at("ada"), params={"limit": limit, **query})).json()
            assert len(page["items"]) <= limit
            found += [hold["id"] for hold in page["items"]]
            if page["next"] is None:
                return found
            query["cursor"] = page["next"]

    for limit in (1, 2, 100):
        assert await listed(limit) == ids[::-1]
        assert await listed(limit, state="open") == [ids[4], ids[2], ids[0]]
    assert await listed(2, state="settled") == [ids[3]]
    assert await listed(2, state="released") == [ids[1]]
    assert await listed(2, state="expired") == []
    for query, field in (({"state": "lost"}, "state"), ({"cursor": "x"}, "cursor"), ({"limit": 0}, "limit")):
        refused = await client.get(at("ada"), params=query)
        assert (refused.status_code, refused.json()["field"]) == (422, field)


async def test_what_is_asked_is_checked_with_field_and_rule(client: httpx.AsyncClient) -> None:
    await customer(client)
    for body, field in (
        ({}, "amount"),
        ({"amount": "0"}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "0.0000001"}, "amount"),
        ({"amount": "1000000000000001"}, "amount"),
        ({"amount": "much"}, "amount"),
        ({"amount": "1", "asset": "XAU"}, "asset"),
        ({"amount": "1", "expires_in": 0}, "expires_in"),
        ({"amount": "1", "expires_in": MAX_SECONDS + 1}, "expires_in"),
        ({"amount": "1", "expires_in": "60"}, "expires_in"),
        ({"amount": "1", "expires_in": 1.5}, "expires_in"),
        ({"amount": "1", "description": "x" * 1001}, "description"),
        ({"amount": "1", "state": "open"}, "state"),
    ):
        refused = await client.post(at("ada"), json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), (body, refused.text)
    hold = (await place(client, "0.000001", expires_in=MAX_SECONDS))["id"]
    for body, field in (({}, "amount"), ({"amount": "0"}, "amount"), ({"amount": "1", "on_excess": "x"}, "on_excess")):
        refused = await client.post(at("ada", hold, "settle"), json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), (body, refused.text)
    assert (await client.get(at("ada", "no-uuid"))).json()["field"] == "hold_id"
    assert (await client.get(at("ada", hold))).json()["state"] == "open"


async def test_what_does_not_exist_is_named(client: httpx.AsyncClient) -> None:
    await customer(client)
    await customer(client, "eve")
    hold = (await place(client))["id"]
    for key, hold_id, code in (
        ("nobody", hold, "not_found"),
        ("eve", hold, "hold_not_found"),
        ("ada", str(uuid4()), "hold_not_found"),
    ):
        for answer in (
            await client.get(at(key, hold_id)),
            await client.post(at(key, hold_id, "settle"), json={"amount": "1"}),
            await client.delete(at(key, hold_id)),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, code)
    for answer in (await client.get(at("nobody")), await client.post(at("nobody"), json={"amount": "1"})):
        assert (answer.status_code, answer.json()["detail"]) == (404, "there is no customer 'nobody'")


async def test_under_an_idempotency_key_everything_is_done_once(client: httpx.AsyncClient) -> None:
    await customer(client)

    async def thrice(method: str, path: str, key: str, body: Any = None) -> dict[str, Any]:
        answers = [await client.request(method, path, json=body, headers={"Idempotency-Key": key}) for _ in range(3)]
        assert len({(answer.status_code, answer.text) for answer in answers}) == 1
        first: dict[str, Any] = answers[0].json()
        return first

    hold = await thrice("POST", at("ada"), "place", {"amount": "4"})
    other = await thrice("POST", at("ada"), "place another", {"amount": "5"})
    await thrice("POST", at("ada"), "too much", {"amount": "2"})
    assert await standing(client) == ("10", "9", "1", "0")
    settle = at("ada", hold["id"], "settle")
    assert (await thrice("POST", settle, "settle", {"amount": "3"}))["state"] == "settled"
    assert (await thrice("DELETE", at("ada", other["id"]), "release"))["state"] == "released"
    assert (await thrice("POST", at("ada"), "place", {"amount": "4"})) == hold, "for good"
    for method, path, key, body in (
        ("POST", at("ada"), "place", {"amount": "4.1"}),
        ("POST", settle, "settle", {"amount": "2"}),
        ("DELETE", at("ada", hold["id"]), "release", None),
        ("POST", at("ada"), "release", {"amount": "4"}),
    ):
        assert (await thrice(method, path, key, body))["code"] == "conflict"
    for method, path, body in (("POST", at("ada"), {"amount": "1"}), ("DELETE", at("ada", hold["id"]), None)):
        refused = await client.request(method, path, json=body, headers={"Idempotency-Key": "k" * 257})
        assert (refused.status_code, refused.json()["field"]) == (422, "Idempotency-Key")
    assert await standing(client) == ("7", "0", "7", "3")


@pytest.mark.parametrize("key", ["a/b", "50%", "holds", "ü 🙂"])
async def test_keys_of_customers_may_hold_anything(client: httpx.AsyncClient, key: str) -> None:
    await customer(client, key)
    hold = await place(client, "1", key=key)
    assert (await client.get(at(key))).json()["items"] == [hold]
    assert (await client.post(at(key, hold["id"], "settle"), json={"amount": "1"})).json()["customer"] == key


async def test_a_hold_may_be_of_any_asset(client: httpx.AsyncClient) -> None:
    await client.post(CUSTOMERS, json={"key": "ada", "credit_policy": "prepaid"})
    await client.post(f"{CUSTOMERS}/ada/grants", json={"asset": "USD", "amount": "5"})
    assert (await client.post(at("ada"), json={"amount": "1"})).status_code == 402
    hold = await place(client, "5", asset="USD")
    assert (hold["asset"], (await client.get(at("ada"))).json()["items"]) == ("USD", [hold])


async def test_the_largest_amount_is_held_and_answered_exactly(client: httpx.AsyncClient) -> None:
    await customer(client, policy="postpaid")
    body, headers = {"amount": "999999999999999.999999"}, {"Idempotency-Key": "all"}
    answers = [await client.post(at("ada"), json=body, headers=headers) for _ in range(2)]
    assert [answer.json()["amount"] for answer in answers] == ["999999999999999.999999"] * 2
    settle = at("ada", answers[0].json()["id"], "settle")
    settled = (await client.post(settle, json={"amount": "1000000000000000"}, headers={"Idempotency-Key": "x"})).json()
    assert (settled["settled_amount"], settled["excess"]) == ("999999999999999.999999", "0.000001")
    assert (await client.post(settle, json={"amount": "1000000000000000"})).json() == settled
