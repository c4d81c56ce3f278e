"""Agents on native routes, and that both surfaces tell of the same accounts and agents."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.web.test_account_management import charge
from tests.web.test_native_customers import CUSTOMERS, at

AGENTS = "/api/v1/agents"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def ada(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """There is a customer ``a/da``, whose key must be quoted."""
    body = {"key": "a/da", "name": "Ada", "email": "ada@example.org", "region": "emea", "vip": True}
    (await client.post(CUSTOMERS, json=body)).raise_for_status()
    return client


async def seat(client: httpx.AsyncClient, name: str = "Bot", customer: str = "a/da") -> dict[str, Any]:
    body = {"name": name, "email": f"{name.lower()}@seats.example.org"}
    created = await client.post(at(customer, "agents"), json=body)
    assert created.status_code == 201, created.text
    agent: dict[str, Any] = created.json()
    return agent


async def test_an_agent_is_created_shown_changed_and_deleted(ada: httpx.AsyncClient) -> None:
    agent = await seat(ada)
    assert {field: agent[field] for field in agent if field != "id"} == {
        "customer": "a/da",
        "name": "Bot",
        "email": "bot@seats.example.org",
        "blocked_at": None,
        "created_at": "2026-11-20T12:00:00Z",
    }
    path = f"{AGENTS}/{agent['id']}"
    assert (await ada.get(path)).json() == agent
    assert (await ada.patch(path, json={"name": "Robot"})).json() == {**agent, "name": "Robot"}
    assert (await ada.patch(path, json={"email": "r@x.org"})).json() == {**agent, "name": "Robot", "email": "r@x.org"}
    deleted = await ada.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for missing in (await ada.get(path), await ada.delete(path), await ada.patch(path, json={"name": "X"})):
        assert (missing.status_code, missing.json()["detail"]) == (404, f"there is no agent {agent['id']!r}")


async def test_agents_are_listed_by_name_page_by_page(ada: httpx.AsyncClient) -> None:
    await ada.post(CUSTOMERS, json={"key": "bob"})
    await seat(ada, "Other", "bob")
    names = ["Bit", "Bot", "Ant", "Cog", "Bee"]
    agents = {name: await seat(ada, name) for name in names}
    listed: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await ada.get(at("a/da", "agents"), params={"limit": 2, **cursor})).raise_for_status().json()
        listed += page["items"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert listed == [agents[name] for name in sorted(names)]
    assert (await ada.get(at("a/da", "agents"), params={"cursor": "bm9uZQ"})).status_code == 422


async def test_agents_of_one_name_are_all_listed(ada: httpx.AsyncClient) -> None:
    for number in range(5):
        body = {"name": "Bot", "email": f"{number}@x.org"}
        (await ada.post(at("a/da", "agents"), json=body)).raise_for_status()
    first = (await ada.get(at("a/da", "agents"), params={"limit": 3})).json()
    rest = (await ada.get(at("a/da", "agents"), params={"limit": 3, "cursor": first["next"]})).json()
    assert sorted(agent["email"] for agent in first["items"] + rest["items"]) == [f"{n}@x.org" for n in range(5)]
    assert rest["next"] is None


async def test_an_agent_is_refused_with_field_and_rule(ada: httpx.AsyncClient) -> None:
    await seat(ada)
    other = await seat(ada, "Bit")
    creations: list[tuple[dict[str, Any], int, str]] = [
        ({"name": "X"}, 422, "email"),
        ({"email": "x@x.org"}, 422, "name"),
        ({"name": "X", "email": "nobody"}, 422, "email"),
        ({"name": "", "email": "x@x.org"}, 422, "name"),
        ({"name": "X", "email": "x@x.org", "id": 1}, 422, "id"),
        ({"name": "X", "email": "BOT@seats.example.org"}, 409, "email"),
    ]
    for body, status, field in creations:
        refused = await ada.post(at("a/da", "agents"), json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), refused.text
    changes: list[tuple[dict[str, Any], int, str]] = [
        ({"email": "Bot@seats.example.org"}, 409, "email"),
        ({"email": None}, 422, "email"),
        ({"blocked": True}, 422, "blocked"),
    ]
    for body, status, field in changes:
        refused = await ada.patch(f"{AGENTS}/{other['id']}", json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), refused.text
    assert (await ada.post(at("nobody", "agents"), json={"name": "X", "email": "x@x.org"})).status_code == 404
    assert (await ada.get(at("nobody", "agents"))).status_code == 404
    assert (await ada.get(f"{AGENTS}/bot")).status_code == 422


async def test_a_blocked_agent_is_not_charged_until_it_is_unblocked(ada: httpx.AsyncClient) -> None:
    agent = await seat(ada)
    for verb, at_ in (("block", "2026-11-20T12:00:00Z"), ("block", "2026-11-20T12:00:00Z"), ("unblock", None)):
        changed = await ada.post(f"{AGENTS}/{agent['id']}/{verb}")
        assert (changed.status_code, changed.json()["blocked_at"]) == (200, at_)
        await charge(ada, "a/da", f"{verb} {at_}", agent["email"])
    charges = (await ada.get(at("a/da", "charges"))).json()["items"]
    assert sorted(item["amount"] for item in charges) == ["0", "2"]
    for verb in ("block", "unblock"):
        assert (await ada.post(f"{AGENTS}/{NOBODY}/{verb}")).status_code == 404


async def test_a_customer_is_changed(ada: httpx.AsyncClient) -> None:
    (await ada.post(CUSTOMERS, json={"key": "bob", "email": "bob@example.org"})).raise_for_status()
    before = (await ada.get(at("a/da"))).json()
    del before["balances"]
    changed = await ada.patch(at("a/da"), json={"name": "Ada L.", "vip": False})
    assert changed.json() == {**before, "name": "Ada L.", "vip": False}
    changed = await ada.patch(at("a/da"), json={"email": "l@example.org", "region": "apac"})
    assert changed.json() == {**before, "name": "Ada L.", "vip": False, "email": "l@example.org", "region": "apac"}
    for body, status, field in (
        ({"email": "BOB@example.org"}, 409, "email"),
        ({"email": "nobody"}, 422, "email"),
        ({"region": "mars"}, 422, "region"),
        ({"vip": None}, 422, "vip"),
        ({"key": "other"}, 422, "key"),
    ):
        refused = await ada.patch(at("a/da"), json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), refused.text
    assert (await ada.patch(at("nobody"), json={"name": "X"})).status_code == 404
    assert (await ada.get(at("a/da"))).json()["name"] == "Ada L."


async def test_changes_at_once_take_nothing_back_from_each_other(ada: httpx.AsyncClient) -> None:
    changes: list[dict[str, Any]] = [{"name": "A"}, {"email": "a@example.org"}, {"region": "apac"}, {"vip": False}]
    await asyncio.gather(*[ada.patch(at("a/da"), json=change) for change in changes * 4])
    shown = (await ada.get(at("a/da"))).json()
    assert [shown[name] for name in ("name", "email", "region", "vip")] == ["A", "a@example.org", "apac", False]


async def test_deletion_keeps_the_books(ada: httpx.AsyncClient) -> None:
    customer = (await ada.get(at("a/da"))).json()
    agent = await seat(ada)
    await ada.post(at("a/da", "grants"), json={"asset": "CREDIT", "amount": "5"})
    assert (await ada.delete(at("a/da"))).status_code == 204
    for path in (at("a/da"), at(customer["id"]), f"{AGENTS}/{agent['id']}"):
        assert (await ada.get(path)).status_code == 404
    assert (await ada.delete(at("a/da"))).status_code == 404
    verdict = (await ada.get("/api/v1/verify")).json()
    assert verdict["holds"]
    again = (await ada.post(CUSTOMERS, json={"key": "a/da", "email": "ada@example.org"})).raise_for_status().json()
    assert (again["id"] != customer["id"], again["balances"]) == (True, [])


async def test_what_is_made_on_either_surface_is_seen_on_both(ada: httpx.AsyncClient) -> None:
    native = (await ada.get(at("a/da"))).json()
    account = (await ada.get(f"/accounts/{native['id']}")).raise_for_status().json()
    assert account == {field: native[field] for field in ("id", "name", "email", "region", "vip")}

    body = {"name": "Bob", "email": "bob@example.org", "region": "apac", "vip": False}
    made = (await ada.post("/accounts", json=body)).raise_for_status().json()
    customer = (await ada.get(at(made["id"]))).raise_for_status().json()
    assert (customer["id"], customer["key"]) == (made["id"], made["id"])
    assert made == {field: customer[field] for field in ("id", "name", "email", "region", "vip")}

    for path, account_id, key in ((at(made["id"], "agents"), made["id"], made["id"]), ("", native["id"], "a/da")):
        body = {"name": "Bot", "email": f"bot{len(path)}@seats.example.org"}
        agent = (await ada.post(path or f"/accounts/{account_id}/agents", json=body)).raise_for_status().json()
        there = (await ada.get(f"/accounts/{account_id}/agents/{agent['id']}")).raise_for_status().json()
        assert there == {"id": agent["id"], **body, "blocked": False, "account_id": account_id}
        here = (await ada.get(f"{AGENTS}/{agent['id']}")).raise_for_status().json()
        assert (here["customer"], here["email"]) == (key, body["email"])
        await ada.post(f"/agents/block_agent/{agent['id']}")
        assert (await ada.get(f"{AGENTS}/{agent['id']}")).json()["blocked_at"] is not None
        await ada.post(f"{AGENTS}/{agent['id']}/unblock")
        assert not (await ada.get(f"/accounts/{account_id}/agents/{agent['id']}")).json()["blocked"]

    await ada.patch(at(made["id"]), json={"vip": True})
    assert (await ada.get(f"/accounts/{made['id']}")).json()["vip"]
    await ada.delete(at(made["id"]))
    assert (await ada.get(f"/accounts/{made['id']}")).status_code == 404
    await ada.delete(f"/accounts/{native['id']}")
    assert (await ada.get(at("a/da"))).status_code == 404
