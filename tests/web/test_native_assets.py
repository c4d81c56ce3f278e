"""Assets, display rates beside what is owed, and exchange, through HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tallystick.kernel.clock import TestClock

ASSETS = "/api/v1/assets"
ADA = "/api/v1/customers/ada"


def rate(rate: Any, since: str = "2026-01-01T00:00:00Z", shown_in: str = "USD") -> dict[str, Any]:
    return {"in": shown_in, "rate": rate, "effective_from": since}


def exchange(**more: Any) -> dict[str, Any]:
    return {"from": "USD", "to": "CREDIT", "amount": "100.00", "rate": "0.02"} | more


@pytest.fixture
async def ada(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """She has 150 dollars, prepaid."""
    await client.post("/api/v1/customers", json={"key": "ada", "credit_policy": "prepaid"})
    await client.post(f"{ADA}/grants", json={"asset": "USD", "amount": "150"})
    return client


@pytest.fixture
async def billed(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Ada used something for 2.0001 credits in October; in November for 0.123455 credits, and for 1.005 dollars."""
    prices = (("tokens", "CREDIT", "0.000001"), ("pages", "USD", "0.005"), ("waiting", None, None))
    for meter, asset, amount in prices:
        await client.put(f"/api/v1/meters/{meter}", json={})
        if asset is not None:
            price = {"meter": meter, "effective_from": "2026-01-01T00:00:00Z", "asset": asset}
            await client.post("/api/v1/prices", json=price | {"model": {"type": "per_unit", "amount": amount}})
    uses = (
        ("tokens", 2_000_100, "10-05"),
        ("tokens", 123_455, "11-05"),
        ("pages", 201, "11-06"),
        ("waiting", 1, "11-07"),
    )
    for number, (meter, value, day) in enumerate(uses):
        event = {"id": str(number), "subject": "ada", "type": meter, "time": f"2026-{day}T00:00:00Z"}
        answer = await client.post("/api/v1/events", json=event | {"data": {"value": value}})
        assert answer.json()["accepted"] == 1
    return client


# Assets


async def test_an_asset_is_shown(client: httpx.AsyncClient) -> None:
    yen = {"code": "JPY", "ledger": 392, "name": "Yen", "symbol": "¥", "scale": 0}
    assert (await client.get(f"{ASSETS}/JPY")).json() == yen
    missing = await client.get(f"{ASSETS}/jpy")
    assert (missing.status_code, missing.json()["detail"]) == (404, "there is no asset 'jpy'")
    first = (await client.get(ASSETS, params={"limit": 2})).json()
    assert [asset["code"] for asset in first["items"]] == ["AED", "AFN"]
    everything = (await client.get(ASSETS, params={"limit": 1000, "cursor": first["next"]})).json()
    assert (len(everything["items"]), everything["next"]) == (155, None)


async def test_an_asset_of_ones_own_can_be_priced_and_given(client: httpx.AsyncClient) -> None:
    put = await client.put(f"{ASSETS}/GPUHOUR", json={"name": "GPU hours", "symbol": "GPUh", "scale": 2})
    shown = {"code": "GPUHOUR", "ledger": 1001, "name": "GPU hours", "symbol": "GPUh", "scale": 2}
    assert (put.status_code, put.json()) == (200, shown)
    assert (await client.get(f"{ASSETS}/GPUHOUR")).json() == shown
    await client.put("/api/v1/meters/gpu", json={})
    price = {"meter": "gpu", "effective_from": "2026-01-01T00:00:00Z", "asset": "GPUHOUR"}
    model = {"type": "per_unit", "amount": "0.25"}
    assert (await client.post("/api/v1/prices", json=price | {"model": model})).status_code == 201
    await client.post("/api/v1/customers", json={"key": "ada"})
    await client.post(f"{ADA}/grants", json={"asset": "GPUHOUR", "amount": "10"})
    event = {"id": "1", "subject": "ada", "type": "gpu", "data": {"value": 3}}
    await client.post("/api/v1/events", json=event)
    (balance,) = (await client.get(ADA)).json()["balances"]
    assert (balance["asset"], balance["balance"]) == ("GPUHOUR", "9.25")


async def test_what_cannot_be_put_is_refused_with_field_and_rule(client: httpx.AsyncClient) -> None:
    for code, body, status, field in (
        ("gpu", {"name": "n"}, 422, "code"),
        ("G" * 17, {"name": "n"}, 422, "code"),
        ("GPU", {}, 422, "name"),
        ("GPU", {"name": ""}, 422, "name"),
        ("GPU", {"name": "n", "symbol": "s" * 17}, 422, "symbol"),
        ("GPU", {"name": "n", "scale": 7}, 422, "scale"),
        ("GPU", {"name": "n", "scale": "2"}, 422, "scale"),
        ("GPU", {"name": "n", "ledger": 7}, 422, "ledger"),
        ("USD", {"name": "n", "scale": 3}, 409, "scale"),
    ):
        refused = await client.put(f"{ASSETS}/{code}", json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), (code, body, refused.text)
    assert (await client.delete(f"{ASSETS}/USD")).status_code == 405
    assert (await client.get(f"{ASSETS}/USD")).json()["name"] == "US Dollar"


# Display rates


async def test_a_rate_is_added_and_listed(client: httpx.AsyncClient) -> None:
    added = await client.post(f"{ASSETS}/CREDIT/rates", json=rate("50.0", "2026-02-01T01:00:00+01:00"))
    shown = {
        "asset": "CREDIT",
        "in": "USD",
        "rate": "50",
        "effective_from": "2026-02-01T00:00:00Z",
        "created_at": "2026-11-20T12:00:00Z",
    }
    assert (added.status_code, added.json()) == (201, shown)
    assert (await client.post(f"{ASSETS}/CREDIT/rates", json=rate(50, "2026-02-01T00:00:00Z"))).json() == shown
    await client.post(f"{ASSETS}/CREDIT/rates", json=rate("7000", shown_in="JPY"))
    listed = (await client.get(f"{ASSETS}/CREDIT/rates", params={"limit": 1})).json()
    assert [one["in"] for one in listed["items"]] == ["JPY"]
    rest = await client.get(f"{ASSETS}/CREDIT/rates", params={"cursor": listed["next"]})
    assert rest.json() == {"items": [shown], "next": None}
    assert (await client.get(f"{ASSETS}/CREDIT/rates", params={"in": "USD"})).json()["items"] == [shown]


async def test_what_is_no_rate_is_refused_with_field_and_rule(client: httpx.AsyncClient) -> None:
    await client.post(f"{ASSETS}/CREDIT/rates", json=rate("50"))
    for code, body, status, field in (
        ("GOLD", rate("1"), 404, "code"),
        ("CREDIT", rate("1", shown_in="GOLD"), 422, "in"),
        ("CREDIT", rate("1", shown_in="CREDIT"), 422, "in"),
        ("CREDIT", rate("0"), 422, "rate"),
        ("CREDIT", rate("-1"), 422, "rate"),
        ("CREDIT", rate("1e3"), 422, "rate"),
        ("CREDIT", rate(None), 422, "rate"),
        ("CREDIT", rate("0." + "0" * 18 + "1"), 422, "rate"),
        ("CREDIT", rate("1", since="2026-01-01"), 422, "effective_from"),
        ("CREDIT", rate("51"), 409, "effective_from"),
    ):
        refused = await client.post(f"{ASSETS}/{code}/rates", json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), (code, body, refused.text)
    assert (await client.get(f"{ASSETS}/GOLD/rates")).status_code == 404


# Beside what is owed


async def test_a_bill_shows_amounts_in_another_asset_beside_its_own(billed: httpx.AsyncClient) -> None:
    plain = (await billed.get(f"{ADA}/bill")).json()
    await billed.post(f"{ASSETS}/CREDIT/rates", json=rate("40", "2026-11-10T00:00:00Z"))
    await billed.post(f"{ASSETS}/CREDIT/rates", json=rate("50", "2026-11-20T12:00:00Z"))
    await billed.post(f"{ASSETS}/CREDIT/rates", json=rate("60", "2026-11-20T12:00:01Z"))
    shown = (await billed.get(f"{ADA}/bill", params={"display": "USD"})).json()
    credits_shown = {"asset": "USD", "rate": "50", "effective_from": "2026-11-20T12:00:00Z", "amount": "6.17"}
    dollars_shown = {"asset": "USD", "rate": "1", "effective_from": None, "amount": "1.00"}  # 1.005 to the even cent
    assert {line["meter"]: line.pop("display", None) for line in shown["lines"]} == {
        "tokens": credits_shown,
        "pages": dollars_shown,
        "waiting": None,
    }
    assert [total.pop("display") for total in shown["totals"]] == [credits_shown, dollars_shown]
    assert shown == plain
    assert [(total["asset"], total["amount"]) for total in plain["totals"]] == [
        ("CREDIT", "0.123455"),
        ("USD", "1.005"),
    ]
    assert (await billed.get(f"{ADA}/bill")).json() == plain


async def test_a_past_bill_is_shown_at_the_last_rate_of_its_month(billed: httpx.AsyncClient) -> None:
    """October ends at 4 o'clock in Greenwich: that is midnight in New York, in summer time."""
    for since, value in (("2026-11-01T03:59:59Z", 3), ("2026-11-01T04:00:00Z", 4)):
        await billed.post(f"{ASSETS}/CREDIT/rates", json=rate(value, since))
    (total,) = (await billed.get(f"{ADA}/bill", params={"month": "2026-10", "display": "USD"})).json()["totals"]
    assert total == {
        "asset": "CREDIT",
        "amount": "2.0001",
        "display": {"asset": "USD", "rate": "3", "effective_from": "2026-11-01T03:59:59Z", "amount": "6.00"},
    }


async def test_what_has_no_rate_is_not_shown(billed: httpx.AsyncClient) -> None:
    await billed.post(f"{ASSETS}/CREDIT/rates", json=rate("50", "2026-11-20T12:00:01Z"))
    for what in ("bill", "balances"):
        refused = await billed.get(f"{ADA}/{what}", params={"display": "USD"})
        assert (refused.status_code, refused.json()["field"]) == (422, "display")
        assert refused.json()["detail"] == "there is no rate to display CREDIT in USD at 2026-11-20T12:00:00+00:00"
        unknown = await billed.get(f"{ADA}/{what}", params={"display": "GOLD"})
        assert (unknown.status_code, unknown.json()["detail"]) == (422, "display names no asset: 'GOLD'")


async def test_balances_show_sums_in_another_asset(ada: httpx.AsyncClient, clock: TestClock) -> None:
    await ada.post(f"{ASSETS}/USD/rates", json=rate("150.49", shown_in="JPY"))
    plain = (await ada.get(f"{ADA}/balances")).json()
    first = clock.now()
    clock.set(datetime(2026, 11, 21, tzinfo=UTC))
    await ada.post(f"{ASSETS}/USD/rates", json=rate("100", "2026-11-21T00:00:00Z", shown_in="JPY"))
    for at, value, since, sum_ in (
        (None, "100", "2026-11-21T00:00:00Z", "15000"),
        (first.isoformat(), "150.49", "2026-01-01T00:00:00Z", "22574"),  # 22,573.5 to the even yen
    ):
        asked = {"display": "JPY"} | ({"at": at} if at else {})
        (shown,) = (await ada.get(f"{ADA}/balances", params=asked)).json()["balances"]
        display = shown.pop("display")
        assert shown == plain["balances"][0]
        assert (display["asset"], display["rate"], display["effective_from"]) == ("JPY", value, since)
        assert (display["balance"], display["available"], display["granted"]) == (sum_, sum_, sum_)
        assert {display[name] for name in ("held", "arrears", "used", "expired", "exchanged")} == {"0"}
    assert "display" not in (await ada.get(f"{ADA}/balances")).json()["balances"][0]


# Exchange


async def test_an_exchange_moves_both_wallets_and_is_kept(ada: httpx.AsyncClient) -> None:
    made = await ada.post(f"{ADA}/exchanges", json=exchange())
    shown = made.json()
    assert made.status_code == 201
    assert {name: shown[name] for name in shown if name != "id"} == {
        "customer": "ada",
        "from": "USD",
        "to": "CREDIT",
        "amount": "100",
        "rate": "0.02",
        "received": "2",
        "created_at": "2026-11-20T12:00:00Z",
    }
    assert (await ada.get(f"{ADA}/exchanges/{shown['id']}")).json() == shown
    assert (await ada.get(f"{ADA}/exchanges")).json() == {"items": [shown], "next": None}
    standings = (await ada.get(f"{ADA}/balances")).json()["balances"]
    assert [(one["asset"], one["balance"], one["exchanged"]) for one in standings] == [
        ("CREDIT", "2", "2"),
        ("USD", "50", "-100"),
    ]
    moved = (await ada.get(f"{ADA}/transactions", params={"type": "exchange", "cause": shown["id"]})).json()["items"]
    assert [(one["asset"], one["amount"], one["cause"]) for one in moved] == [
        ("CREDIT", "2", shown["id"]),
        ("USD", "-100", None),
    ]


async def test_a_prepaid_wallet_gives_what_it_has(ada: httpx.AsyncClient) -> None:
    refused = await ada.post(f"{ADA}/exchanges", json=exchange(amount="150.000001"))
    assert (refused.status_code, refused.json()["code"]) == (402, "insufficient_credits")
    assert (await ada.get(f"{ADA}/exchanges")).json()["items"] == []


async def test_an_exchange_is_made_once(ada: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await ada.post(f"{ADA}/exchanges", json=exchange(), headers=headers)
    again = await ada.post(f"{ADA}/exchanges", json=exchange(amount=100, rate="0.020"), headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    other = await ada.post(f"{ADA}/exchanges", json=exchange(rate="0.03"), headers=headers)
    assert (other.status_code, other.json()["field"]) == (409, "Idempotency-Key")


async def test_no_rate_is_ever_assumed(ada: httpx.AsyncClient) -> None:
    await ada.post(f"{ASSETS}/USD/rates", json=rate("0.02", shown_in="CREDIT"))
    for body in ({key: value for key, value in exchange().items() if key != "rate"}, exchange(rate=None)):
        refused = await ada.post(f"{ADA}/exchanges", json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, "rate")


async def test_what_cannot_be_exchanged_is_refused_with_field_and_rule(ada: httpx.AsyncClient) -> None:
    for body, field in (
        (exchange(to="USD"), "to"),
        (exchange(to="GOLD"), "to"),
        (exchange(**{"from": "GOLD"}), "from"),
        (exchange(**{"from": None}), "from"),
        (exchange(amount="0"), "amount"),
        (exchange(amount="-1"), "amount"),
        (exchange(amount="0.0000001"), "amount"),
        (exchange(amount="0.000001"), "amount"),
        (exchange(rate="0"), "rate"),
        (exchange(rate="1000000000001"), "rate"),
        (exchange(source="USD"), "source"),
    ):
        refused = await ada.post(f"{ADA}/exchanges", json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), (body, refused.text)
    nobody = "/api/v1/customers/nobody/exchanges"
    for answer in (await ada.post(nobody, json=exchange()), await ada.get(nobody)):
        assert (answer.status_code, answer.json()["detail"]) == (404, "there is no customer 'nobody'")
    unknown = await ada.get(f"{ADA}/exchanges/00000000-0000-0000-0000-000000000000")
    assert (unknown.status_code, unknown.json()["field"]) == (404, "id")
