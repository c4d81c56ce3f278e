"""Notices as operators see them: rules, what was raised, previews, and who looks after a customer."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tallystick.service import Service

RULES = "/api/v1/notices/rules"


async def to_half(client: httpx.AsyncClient, key: str) -> None:
    """A prepaid customer that has come to 45 of 100 credits."""
    await client.post("/api/v1/accounts", json={"user_id": key, "initial_balance": 100})
    billed = await client.post("/api/v1/bill", json={"user_id": key, "amount": 55})
    assert billed.status_code == 200, billed.text


async def define(client: httpx.AsyncClient, **rule: Any) -> dict[str, Any]:
    defined = await client.post(RULES, json=rule)
    assert defined.status_code == 201, defined.text
    shown: dict[str, Any] = defined.json()
    return shown


async def test_rules_are_defined_listed_and_removed(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/customers", json={"key": "lab"})
    balance = await define(client, kind="balance", threshold="-12.50", customer="lab", asset="EUR")
    assert {name: balance[name] for name in ("kind", "threshold", "customer", "asset", "recipients", "copies")} == {
        "kind": "balance",
        "threshold": "-12.5",
        "customer": "lab",
        "asset": "EUR",
        "recipients": ["maintainers"],
        "copies": ["governance"],
    }
    own = await define(
        client,
        kind="unusual",
        threshold=2.5,
        recipients=["ada@example.org"],
        copies=[],
        subject="$project",
        body="$mine",
        placeholders={"mine": "x"},
    )
    assert (own["threshold"], own["placeholders"], own["copies"]) == ("2.5", {"mine": "x"}, [])
    first = (await client.get(RULES, params={"limit": 4})).json()
    rest = (await client.get(RULES, params={"cursor": first["next"]})).json()
    assert [rule["threshold"] for rule in first["items"]] == ["0.5", "0.2", "0", "-12.5"]
    assert rest == {"items": [own], "next": None}
    assert (await client.get(RULES, params={"customer": "lab"})).json()["items"] == [balance]
    assert (await client.delete(f"{RULES}/{balance['id']}")).status_code == 204
    assert (await client.delete(f"{RULES}/{balance['id']}")).status_code == 404
    assert (await client.get(RULES, params={"customer": "lab"})).json()["items"] == []


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"kind": "share", "threshold": "1.1"}, "threshold"),
        ({"kind": "share", "threshold": "NaN"}, "threshold"),
        ({"kind": "share", "threshold": "half"}, "threshold"),
        ({"kind": "balance", "threshold": "0.0000001", "asset": "CREDIT"}, "threshold"),
        ({"kind": "balance", "threshold": "1"}, "asset"),
        ({"kind": "forecast", "threshold": 1.5}, "threshold"),
        ({"kind": "share", "threshold": "0.1", "recipients": ["nobody"]}, "recipients"),
        ({"kind": "share", "threshold": "0.1", "subject": "$x", "body": "b"}, "subject"),
        ({"kind": "share", "threshold": "0.1", "subject": "s", "body": "$"}, "body"),
        ({"kind": "share", "threshold": "0.1", "asset": "PEBBLE"}, "asset"),
        ({"kind": "percent", "threshold": "0.1"}, "kind"),
        ({"kind": "share", "threshold": "0.1", "level": 1}, "level"),
    ],
)
async def test_a_definition_that_is_not_one_is_refused_by_field(
    client: httpx.AsyncClient, rule: dict[str, Any], field: str
) -> None:
    refused = await client.post(RULES, json=rule)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert refused.json()["field"].split(".")[0] == field


async def test_a_rule_that_is_there_already_and_one_about_nobody(client: httpx.AsyncClient) -> None:
    again = await client.post(RULES, json={"kind": "share", "threshold": "0.50"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    nobody = await client.post(RULES, json={"kind": "share", "threshold": "0.1", "customer": "nobody"})
    assert (nobody.status_code, nobody.json()["code"], nobody.json()["field"]) == (404, "not_found", "customer")


async def test_a_rule_for_all_has_all_wallets_looked_at(client: httpx.AsyncClient, service: Service) -> None:
    await define(client, kind="share", threshold="0.9")
    await define(client, kind="share", threshold="0.8")
    jobs = (await client.get("/api/v1/jobs")).json()["items"]
    assert [(job["name"], job["state"]) for job in jobs] == [("arm-notices", "waiting")]


async def test_what_was_raised_is_listed(client: httpx.AsyncClient) -> None:
    await to_half(client, "lab")
    await to_half(client, "shop")
    (notice,) = (await client.get("/api/v1/notices", params={"customer": "lab"})).json()["items"]
    assert {
        name: notice[name] for name in ("customer", "kind", "threshold", "asset", "balance", "granted", "state")
    } == {
        "customer": "lab",
        "kind": "share",
        "threshold": "0.5",
        "asset": "CREDIT",
        "balance": "45",
        "granted": "100",
        "state": "unsent",
    }
    assert (await client.get(f"/api/v1/notices/{notice['id']}")).json() == notice
    first = (await client.get("/api/v1/notices", params={"limit": 1})).json()
    second = (await client.get("/api/v1/notices", params={"limit": 1, "cursor": first["next"]})).json()
    assert {page["items"][0]["customer"] for page in (first, second)} == {"lab", "shop"}
    assert second["next"] is None
    assert (await client.get("/api/v1/notices", params={"state": "sent"})).json()["items"] == []


async def test_what_cannot_be_listed_or_sent(client: httpx.AsyncClient) -> None:
    await to_half(client, "lab")
    (notice,) = (await client.get("/api/v1/notices")).json()["items"]
    off = await client.post(f"/api/v1/notices/{notice['id']}/retry")
    assert (off.status_code, "MAIL_SMTP_SERVER" in off.json()["detail"]) == (409, True)
    for path in (f"/api/v1/notices/{uuid4()}", f"{RULES}/{uuid4()}/preview?customer=lab", "/api/v1/notices?customer=x"):
        assert (await client.get(path)).status_code == 404, path
    for path in ("/api/v1/notices/x", "/api/v1/notices?state=lost", "/api/v1/notices?cursor=x", f"{RULES}?cursor=x"):
        assert (await client.get(path)).status_code == 422, path


async def test_a_preview_shows_the_letter_and_sends_nothing(client: httpx.AsyncClient) -> None:
    await to_half(client, "lab")
    await client.put("/api/v1/customers/lab/maintainers", json={"maintainers": ["ada@example.org"]})
    half, *_ = (await client.get(RULES)).json()["items"]
    letter = (await client.get(f"{RULES}/{half['id']}/preview", params={"customer": "lab"})).json()
    assert (letter["subject"], letter["to"]) == ("50% Credits left for Project lab", ["ada@example.org"])
    assert "45 credits" in letter["text"]
    assert letter["html"].startswith("<!doctype html>")
    for kind, threshold in (("forecast", 7), ("unusual", 3)):
        rule = await define(client, kind=kind, threshold=threshold)
        shown = await client.get(f"{RULES}/{rule['id']}/preview", params={"customer": "lab", "asset": "EUR"})
        assert "EUR" in shown.json()["text"]
    assert len((await client.get("/api/v1/notices")).json()["items"]) == 1


async def test_maintainers_are_shown_and_put(client: httpx.AsyncClient) -> None:
    path = "/api/v1/customers/lab/maintainers"
    assert (await client.get(path)).status_code == 404
    await client.post("/api/v1/customers", json={"key": "lab"})
    assert (await client.get(path)).json() == {"customer": "lab", "maintainers": []}
    put = await client.put(path, json={"maintainers": ["bob@example.org", "ada@example.org"]})
    assert put.json() == {"customer": "lab", "maintainers": ["ada@example.org", "bob@example.org"]}
    refused = await client.put(path, json={"maintainers": ["ada"]})
    assert (refused.status_code, refused.json()["field"]) == (422, "maintainers")
    assert (await client.get(path)).json() == put.json()


async def test_metrics_count_what_nobody_has_got(client: httpx.AsyncClient) -> None:
    await to_half(client, "lab")
    text = (await client.get("/metrics")).text
    for state in ("waiting", "failed", "unaddressed"):
        assert f'tallystick_notices{{state="{state}"}} 0.0' in text
