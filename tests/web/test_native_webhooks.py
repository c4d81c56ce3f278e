"""Webhooks over HTTP: made, changed, listed and replayed, by operators and for one customer."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tallystick.outbox.webhooks import service as module
from tallystick.outbox.webhooks.service import MAX_ENDPOINTS, prune
from tallystick.service import Service

WEBHOOKS = "/api/v1/webhooks"
URL = "https://hooks.example/in"


async def make(client: httpx.AsyncClient, path: str = WEBHOOKS, **body: Any) -> dict[str, Any]:
    answer = await client.post(path, json={"url": URL, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def customer(client: httpx.AsyncClient, key: str) -> str:
    assert (await client.post("/api/v1/customers", json={"key": key})).status_code == 201
    return f"/api/v1/customers/{key}/webhooks"


async def deliveries(client: httpx.AsyncClient, webhook: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    items = (await client.get(f"{WEBHOOKS}/{webhook['id']}/deliveries", params=query)).json()["items"]
    return list(items)


async def end(service: Service, state: str) -> None:
    """As if all that waits had been tried."""
    async with service.pool.connection() as conn:
        await conn.execute("update webhook_deliveries set state = %s where state = 'waiting'", [state])


async def test_the_secret_is_shown_once(client: httpx.AsyncClient) -> None:
    made = await make(client, types=["account.*", "account.*"], description="the desk")
    assert made["secret"].startswith("whsec_")
    assert (made["customer"], made["state"], made["types"]) == (None, "enabled", ["account.*"])
    shown = (await client.get(f"{WEBHOOKS}/{made['id']}")).json()
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert made["secret"] not in (await client.get(WEBHOOKS)).text


async def test_a_webhook_is_changed(client: httpx.AsyncClient) -> None:
    made = await make(client)
    path = f"{WEBHOOKS}/{made['id']}"
    changed = (await client.patch(path, json={"url": f"{URL}2", "types": ["agent.*"], "description": "new"})).json()
    assert (changed["url"], changed["types"], changed["description"]) == (f"{URL}2", ["agent.*"], "new")
    disabled = (await client.patch(path, json={"state": "disabled"})).json()
    assert (disabled["state"], disabled["disabled_because"]) == ("disabled", "by request")
    assert (await client.patch(path, json={"state": "disabled"})).json() == disabled
    enabled = (await client.patch(path, json={"state": "enabled"})).json()
    assert enabled == changed


async def test_an_enabled_webhook_begins_anew(client: httpx.AsyncClient, service: Service) -> None:
    """What it failed before does not count, or the next failure would disable it again."""
    path = f"{WEBHOOKS}/{(await make(client))['id']}"
    async with service.pool.connection() as conn:
        await conn.execute(
            "update webhook_endpoints set failing_since = now(), disabled_at = now(), disabled_because = 'x'"
        )
    assert (await client.patch(path, json={"description": "d"})).json()["failing_since"] is not None
    assert (await client.patch(path, json={"state": "enabled"})).json()["failing_since"] is None


async def test_a_customers_webhooks_are_its_own(client: httpx.AsyncClient) -> None:
    of_ada, of_bob = await customer(client, "ada"), await customer(client, "bob")
    made = await make(client, of_ada)
    assert made["customer"] == "ada"
    everybodys = await make(client)
    assert [item["id"] for item in (await client.get(of_ada)).json()["items"]] == [made["id"]]
    assert (await client.get(of_bob)).json()["items"] == []
    assert len((await client.get(WEBHOOKS)).json()["items"]) == 2
    for path in (f"{of_bob}/{made['id']}", f"{of_ada}/{everybodys['id']}"):
        for method, rest, body in (
            ("GET", "", None),
            ("PATCH", "", {}),
            ("DELETE", "", None),
            ("POST", "/rotate", {}),
            ("GET", "/deliveries", None),
            ("POST", "/replay", {"since": "2026-01-01T00:00:00Z"}),
            ("POST", "/test", None),
        ):
            answer = await client.request(method, path + rest, json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, rest)
    assert (await client.get(f"{of_ada}/{made['id']}")).status_code == 200


async def test_what_cannot_be_made(client: httpx.AsyncClient) -> None:
    of_ada = await customer(client, "ada")
    await customer(client, "bob")
    for path, body, field in (
        (WEBHOOKS, {"url": "https://169.254.169.254/latest"}, "url"),
        (WEBHOOKS, {"url": "http://1.1.1.1/"}, "url"),
        (WEBHOOKS, {"url": "ftp://hooks.example/"}, "url"),
        (WEBHOOKS, {"url": URL, "types": []}, "types"),
        (WEBHOOKS, {"url": URL, "types": ["nothing.*"]}, "types"),
        (WEBHOOKS, {"url": URL, "customer": "nobody"}, "customer"),
        (WEBHOOKS, {"url": URL, "secret": "mine"}, "secret"),  # pragma: allowlist secret
        (of_ada, {"url": URL, "customer": "bob"}, "customer"),
    ):
        answer = await client.post(path, json=body)
        assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
    for method in ("GET", "POST"):
        answer = await client.request(method, "/api/v1/customers/nobody/webhooks", json={"url": URL})
        assert answer.status_code == 404
    assert (await client.get(WEBHOOKS)).json()["items"] == []


async def test_there_are_only_so_many_even_if_all_come_at_once(client: httpx.AsyncClient) -> None:
    of_ada = await customer(client, "ada")
    answers = await asyncio.gather(*[client.post(of_ada, json={"url": URL}) for _ in range(MAX_ENDPOINTS + 5)])
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(409)) == (MAX_ENDPOINTS, 5)
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"too_many_webhooks"}
    await make(client)


async def test_lists_go_on_where_they_ended(client: httpx.AsyncClient) -> None:
    made = [(await make(client))["id"] for _ in range(3)]
    first = (await client.get(WEBHOOKS, params={"limit": 2})).json()
    rest = (await client.get(WEBHOOKS, params={"cursor": first["next"]})).json()
    assert [item["id"] for page in (first, rest) for item in page["items"]] == sorted(made)
    assert (await client.get(WEBHOOKS, params={"cursor": "x"})).status_code == 422
    for number in range(3):
        await customer(client, f"c{number}")
    path = f"{WEBHOOKS}/{made[0]}/deliveries"
    newest = (await client.get(path, params={"limit": 2})).json()
    oldest = (await client.get(path, params={"cursor": newest["next"]})).json()
    assert (len(newest["items"]), len(oldest["items"]), oldest["next"]) == (2, 1, None)
    told = [item["told_at"] for page in (newest, oldest) for item in page["items"]]
    assert told == sorted(told, reverse=True)


async def test_a_test_event_reaches_whatever_the_webhook_hears_of(client: httpx.AsyncClient) -> None:
    made = await make(client, types=["agent.blocked"])
    answer = await client.post(f"{WEBHOOKS}/{made['id']}/test")
    assert answer.status_code == 202
    (delivery,) = await deliveries(client, made)
    assert (delivery["event_id"], delivery["type"]) == (answer.json()["event_id"], "webhook.test")


async def test_who_is_disabled_is_neither_tested_nor_replayed(client: httpx.AsyncClient) -> None:
    path = f"{WEBHOOKS}/{(await make(client))['id']}"
    await client.patch(path, json={"state": "disabled"})
    for rest, body in (("/test", None), ("/replay", {"event": str(uuid4())})):
        answer = await client.post(path + rest, json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "webhook_disabled")


async def test_what_waited_for_a_disabled_webhook_waits_on(client: httpx.AsyncClient) -> None:
    made = await make(client)
    await customer(client, "ada")
    await client.patch(f"{WEBHOOKS}/{made['id']}", json={"state": "disabled"})
    await customer(client, "bob")
    await client.patch(f"{WEBHOOKS}/{made['id']}", json={"state": "enabled"})
    assert [item["state"] for item in await deliveries(client, made)] == ["waiting"]


async def test_one_event_is_replayed(client: httpx.AsyncClient, service: Service) -> None:
    made = await make(client)
    path = f"{WEBHOOKS}/{made['id']}/replay"
    for key in ("ada", "bob"):
        await customer(client, key)
    await end(service, "failed")
    _, first = await deliveries(client, made)
    assert (await client.post(path, json={"event": first["event_id"]})).json() == {"replayed": 1, "next": None}
    assert [item["event_id"] for item in await deliveries(client, made, state="waiting")] == [first["event_id"]]
    assert (await client.post(path, json={"event": str(uuid4())})).status_code == 404
    for body in ({}, {"event": str(uuid4()), "since": "2026-01-01T00:00:00Z"}):
        assert (await client.post(path, json=body)).status_code == 422


async def test_all_since_an_instant_are_replayed_in_portions(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REPLAYED", 2)
    made = await make(client)
    path = f"{WEBHOOKS}/{made['id']}/replay"
    for number in range(4):
        await customer(client, f"c{number}")
    _, third, _, _ = await deliveries(client, made)
    await end(service, "delivered")
    body: dict[str, Any] = {"since": "2026-01-01T00:00:00Z"}
    assert (await client.post(path, json={**body, "state": "failed"})).json() == {"replayed": 0, "next": None}
    first = (await client.post(path, json=body)).json()
    second = (await client.post(path, json={**body, "cursor": first["next"]})).json()
    last = (await client.post(path, json={**body, "cursor": second["next"]})).json()
    assert [first["replayed"], second["replayed"], last["replayed"], last["next"]] == [2, 2, 0, None]
    await end(service, "delivered")
    assert (await client.post(path, json={"since": third["told_at"]})).json()["replayed"] == 2
    assert (await client.post(path, json={**body, "cursor": "x"})).status_code == 422


async def test_what_is_old_goes_and_what_belongs_to_nobody(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PRUNED_AT_ONCE", 2)
    kept, deleted = await make(client), await make(client)
    of_ada = await customer(client, "ada")
    own = await make(client, of_ada)
    for number in range(3):
        await customer(client, f"c{number}")
    async with service.pool.connection() as conn:
        await conn.execute(
            "update webhook_deliveries set told_at = now() - interval '31 days' where endpoint_id = %s", [kept["id"]]
        )
    await customer(client, "new")
    await client.delete(f"{WEBHOOKS}/{deleted['id']}")
    assert (await client.delete("/api/v1/customers/ada")).status_code == 204
    assert {item["type"] for item in await deliveries(client, own)} == {"account.deleted"}
    await prune(service.pool, keep_days=30)
    assert {item["id"] for item in (await client.get(WEBHOOKS)).json()["items"]} == {kept["id"], own["id"]}
    assert [item["type"] for item in await deliveries(client, kept)] == ["account.deleted", "account.created"]
    await end(service, "delivered")
    await prune(service.pool, keep_days=30)
    assert [item["id"] for item in (await client.get(WEBHOOKS)).json()["items"]] == [kept["id"]]
    async with service.pool.connection() as conn:
        rows = await (await conn.execute("select distinct endpoint_id::text from webhook_deliveries")).fetchall()
    assert {endpoint for (endpoint,) in rows} <= {kept["id"], own["id"]}


async def test_how_far_webhooks_are_behind_is_a_metric(client: httpx.AsyncClient, service: Service) -> None:
    made = await make(client)
    await make(client, types=["agent.*"])
    for key in ("ada", "bob"):
        await customer(client, key)
    async with service.pool.connection() as conn:
        await conn.execute("update webhook_deliveries set told_at = now() - interval '90 seconds'")
        await conn.execute("update webhook_endpoints set failing_since = now() where id = %s", [made["id"]])
    lines = (await client.get("/metrics")).text.splitlines()
    assert {
        "tallystick_webhook_lag_seconds 90.0",
        "tallystick_webhook_waiting_deliveries 2.0",
        'tallystick_webhooks{state="enabled"} 1.0',
        'tallystick_webhooks{state="failing"} 1.0',
        'tallystick_webhooks{state="disabled"} 0.0',
    } <= set(lines)
    await client.patch(f"{WEBHOOKS}/{made['id']}", json={"state": "disabled"})
    assert "tallystick_webhook_waiting_deliveries 0.0" in (await client.get("/metrics")).text.splitlines()
