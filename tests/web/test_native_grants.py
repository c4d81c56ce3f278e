"""Grants over HTTP: what can be said about them, and what is shown of each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.service import Service

CUSTOMERS = "/api/v1/customers"
NIL = "00000000-0000-0000-0000-000000000000"


def at(*more: str, key: str = "ada") -> str:
    return "/".join((CUSTOMERS, quote(key, safe=""), "grants", *more))


@pytest.fixture
async def ada(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client, and a prepaid customer."""
    await client.post(CUSTOMERS, json={"key": "ada", "credit_policy": "prepaid"})
    return client


async def give(client: httpx.AsyncClient, amount: str, **terms: Any) -> dict[str, Any]:
    given = await client.post(at(), json={"asset": "CREDIT", "amount": amount, **terms})
    assert given.status_code == 201, given.text
    return given.json()  # type: ignore[no-any-return]


async def bill(client: httpx.AsyncClient, amount: str) -> None:
    hold = await client.post(f"{CUSTOMERS}/ada/holds", json={"amount": amount})
    settled = await client.post(f"{CUSTOMERS}/ada/holds/{hold.json()['id']}/settle", json={"amount": amount})
    assert settled.status_code == 200, settled.text


async def test_a_grant_says_everything_about_itself(ada: httpx.AsyncClient) -> None:
    terms = {
        "category": "paid",
        "priority": 5,
        "expires_at": "2026-12-31T00:00:00Z",
        "source": "order 12",
        "reason": "prepaid year",
    }
    given = await give(ada, "100.5", **terms)
    assert {name: given[name] for name in given if name != "id"} == {
        **terms,
        "customer": "ada",
        "asset": "CREDIT",
        "amount": "100.5",
        "effective_at": "2026-11-20T12:00:00Z",
        "state": "granted",
        "created_at": "2026-11-20T12:00:00Z",
        "balance": "100.5",
    }
    await bill(ada, "0.5")
    shown = (await ada.get(at(given["id"]))).json()
    del given["balance"]
    assert shown == given | {"used": "0.5", "remaining": "100", "expired": "0", "voided": "0"}
    assert (await ada.get(at())).json() == {"items": [shown], "next": None}


async def test_what_is_left_out_is_a_promotion_for_now_without_end(ada: httpx.AsyncClient) -> None:
    given = await give(ada, "1")
    told = (given["category"], given["priority"], given["expires_at"], given["source"], given["reason"])
    assert told == ("promotional", 100, None, "", None)


async def test_each_end_of_a_grant_is_shown(ada: httpx.AsyncClient, service: Service, clock: TestClock) -> None:
    ends = await give(ada, "10", expires_at="2026-11-21T12:00:00Z")
    later = await give(ada, "10", effective_at="2026-11-21T12:00:00Z")
    voided = await give(ada, "10", priority=200)
    assert (later["state"], later["balance"]) == ("scheduled", "10")
    await bill(ada, "4")
    clock.advance(timedelta(days=1))
    await service.due.run_due()
    answer = await ada.delete(at(voided["id"]))
    assert answer.status_code == 200
    assert answer.json() == (await ada.get(at(voided["id"]))).json()
    shown = {grant["id"]: grant for grant in (await ada.get(at())).json()["items"]}
    parts = ("state", "used", "remaining", "expired", "voided")
    assert {id_: tuple(grant[name] for name in parts) for id_, grant in shown.items()} == {
        ends["id"]: ("expired", "4", "0", "6", "0"),
        later["id"]: ("granted", "0", "10", "0", "0"),
        voided["id"]: ("voided", "0", "0", "0", "10"),
    }
    refused = await ada.delete(at(ends["id"]))
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    (listed,) = (await ada.get(at(), params={"state": "expired"})).json()["items"]
    assert listed["id"] == ends["id"]


async def test_voiding_again_answers_the_same(ada: httpx.AsyncClient) -> None:
    given = await give(ada, "10")
    answers = [await ada.delete(at(given["id"])) for _ in range(2)]
    headers = {"Idempotency-Key": "void"}
    answers += [await ada.delete(at(given["id"]), headers=headers) for _ in range(2)]
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
    other = await ada.delete(at(NIL), headers=headers)
    assert (other.status_code, other.json()["field"]) == (409, "Idempotency-Key")


async def test_wrong_terms_are_refused_with_field_and_rule(ada: httpx.AsyncClient) -> None:
    for terms, field in (
        ({"category": "gift"}, "category"),
        ({"priority": -1}, "priority"),
        ({"priority": 1001}, "priority"),
        ({"priority": "1"}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"effective_at": "2026-11-20"}, "effective_at"),
        ({"effective_at": "2026-11-20T11:59:59Z"}, "effective_at"),
        ({"expires_at": "2026-11-20T12:00:00Z"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"effective_at": "2026-12-01T00:00:00Z", "expires_at": "2026-11-30T00:00:00Z"}, "expires_at"),
        ({"source": "s" * 257}, "source"),
        ({"source": "\0"}, "source"),
        ({"reason": "r" * 1001}, "reason"),
        ({"expiry": "2026-12-01T00:00:00Z"}, "expiry"),
    ):
        refused = await ada.post(at(), json={"asset": "CREDIT", "amount": "1", **terms})
        assert (refused.status_code, refused.json()["field"]) == (422, field), (terms, refused.text)
    assert (await ada.get(at())).json()["items"] == []


async def test_what_is_not_there_is_named(ada: httpx.AsyncClient) -> None:
    given = await give(ada, "1")
    await ada.post(CUSTOMERS, json={"key": "eve"})
    for address in (at(NIL), at(given["id"], key="eve"), at(given["id"], key="nobody"), at(key="nobody")):
        assert (await ada.get(address)).status_code == 404, address
    for address in (at(NIL), at(given["id"], key="eve"), at(given["id"], key="nobody")):
        assert (await ada.delete(address)).status_code == 404, address
    for wrong in (at("x"), at() + "?state=gone", at() + "?limit=0", at() + "?cursor=x"):
        assert (await ada.get(wrong)).status_code == 422, wrong


async def test_grants_come_in_pages(ada: httpx.AsyncClient, clock: TestClock) -> None:
    ids = []
    for number in range(3):
        ids.append((await give(ada, str(number + 1)))["id"])
        clock.advance(timedelta(seconds=1))
    first = (await ada.get(at(), params={"limit": "2"})).json()
    second = (await ada.get(at(), params={"limit": "2", "cursor": first["next"]})).json()
    assert [grant["id"] for grant in first["items"] + second["items"]] == ids[::-1]
    assert second["next"] is None


async def test_a_top_up_of_the_credits_service_is_a_paid_grant(ada: httpx.AsyncClient) -> None:
    account = {"user_id": "bob", "initial_balance": 10}
    opened = await ada.post("/api/v1/accounts", json=account)
    assert opened.status_code in (200, 201), opened.text
    (grant,) = (await ada.get(at(key="bob"))).json()["items"]
    assert (grant["category"], grant["amount"], grant["remaining"]) == ("paid", "10", "10")
