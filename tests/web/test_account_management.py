"""The surface of the account management: its pages, statuses and texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from tallystick.service import Service
from tests.metering.books import assert_books_hold, fetch
from tests.web.conftest import asking

NOBODY = "00000000-0000-4000-8000-000000000000"


async def make(client: httpx.AsyncClient, name: str = "Ada", email: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"name": name, "email": email or f"{name.lower()}@example.org", **more}
    created = await client.post("/accounts", json=body)
    assert created.status_code == 200, created.text
    account: dict[str, Any] = created.json()
    return account


async def seat(client: httpx.AsyncClient, account: dict[str, Any], name: str = "Bot") -> dict[str, Any]:
    body = {"name": name, "email": f"{name.lower()}@seats.example.org"}
    created = await client.post(f"/accounts/{account['id']}/agents", json=body)
    assert created.status_code == 200, created.text
    agent: dict[str, Any] = created.json()
    return agent


def refused(response: httpx.Response, status: int, detail: str) -> None:
    assert (response.status_code, response.json()) == (status, {"detail": detail})


# Accounts


async def test_an_account_is_made_and_shown(client: httpx.AsyncClient) -> None:
    account = await make(client, region="apac", vip=True)
    assert UUID(account["id"]).version == 4
    expected = {"id": account["id"], "name": "Ada", "email": "ada@example.org", "region": "apac", "vip": True}
    assert account == expected
    assert (await client.get(f"/accounts/{account['id']}")).json() == expected
    plain = await make(client, "Bob")
    assert (plain["region"], plain["vip"]) == ("nam", False)


async def test_an_account_is_a_customer_whose_key_is_its_id(client: httpx.AsyncClient) -> None:
    account = await make(client)
    customer = (await client.get(f"/api/v1/customers/{account['id']}")).json()
    assert (customer["id"], customer["key"], customer["name"]) == (account["id"], account["id"], "Ada")
    native = (await client.post("/api/v1/customers", json={"key": "org", "email": "org@example.org"})).json()
    assert (await client.get(f"/accounts/{native['id']}")).json() == {
        "id": native["id"],
        "name": "org",
        "email": "org@example.org",
        "region": "nam",
        "vip": False,
    }


async def test_accounts_come_in_pages_by_name(client: httpx.AsyncClient) -> None:
    for name in ("Cleo", "Ada", "Bob"):
        await make(client, name)
    page = (await client.get("/accounts", params={"page": 1, "size": 2})).json()
    assert [item["name"] for item in page["items"]] == ["Ada", "Bob"]
    assert (page["total"], page["page"], page["size"]) == (3, 1, 2)
    rest = (await client.get("/accounts", params={"page": 2, "size": 2})).json()
    assert [item["name"] for item in rest["items"]] == ["Cleo"]
    everything = (await client.get("/accounts")).json()
    assert (everything["page"], everything["size"], len(everything["items"])) == (1, 500, 3)
    assert (await client.get("/accounts", params={"page": 9})).json()["items"] == []
    for query in ({"page": 0}, {"size": 0}, {"size": 1001}, {"page": 2**53}):
        assert (await client.get("/accounts", params=query)).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "Ada"},
        {"name": "Ada", "email": "nobody"},
        {"name": "", "email": "a@example.org"},
        {"name": "Ada", "email": "a@example.org", "region": "mars"},
        {"name": "Ada", "email": "a@example.org", "vip": "perhaps"},
    ],
)
async def test_what_an_account_cannot_be(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post("/accounts", json=body)
    assert response.status_code == 422
    assert response.json()["detail"]
    assert (await client.get("/accounts")).json()["total"] == 0


async def test_an_email_belongs_to_one_account_in_whatever_case(client: httpx.AsyncClient) -> None:
    await make(client)
    refused(await client.post("/accounts", json={"name": "X", "email": "ADA@Example.ORG"}), 400, "E-mail already used")
    bob = await make(client, "Bob")
    changed = await client.put(f"/accounts/{bob['id']}", json={"email": "Ada@example.org"})
    refused(changed, 400, "E-mail already used")


async def test_a_hundred_at_once_with_one_email(client: httpx.AsyncClient) -> None:
    body = {"name": "Ada", "email": "ada@example.org"}
    answers = await asyncio.gather(*[client.post("/accounts", json=body) for _ in range(100)])
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 99
    assert {answer.json()["detail"] for answer in answers if answer.status_code == 400} == {"E-mail already used"}


async def test_an_account_is_changed(client: httpx.AsyncClient) -> None:
    account = await make(client)
    changed = await client.put(f"/accounts/{account['id']}", json={"name": "Ada L.", "vip": True})
    assert changed.json() == account | {"name": "Ada L.", "vip": True}
    refused(await client.put(f"/accounts/{NOBODY}", json={}), 404, f"Account {NOBODY} not found")


async def test_an_account_that_is_not_there(client: httpx.AsyncClient) -> None:
    refused(await client.get(f"/accounts/{NOBODY}"), 404, f"Account {NOBODY} not found")
    report = await client.post(f"/accounts/generate_company_raport/{NOBODY}")
    refused(report, 404, f"Account {NOBODY} not found")
    assert (await client.get("/accounts/nobody")).status_code == 422
    gone = await client.delete(f"/accounts/{NOBODY}")
    assert (gone.status_code, gone.content) == (204, b"")


async def test_deleting_an_account_forgets_what_is_personal_and_keeps_the_books(
    client: httpx.AsyncClient, service: Service
) -> None:
    account = await make(client)
    agent = await seat(client, account)
    await charge(client, account["id"], "before")
    assert (await client.delete(f"/accounts/{account['id']}")).status_code == 202
    assert (await client.get(f"/accounts/{account['id']}")).status_code == 404
    assert (await client.get(f"/accounts/{account['id']}/agents/{agent['id']}")).status_code == 404
    assert (await client.delete(f"/accounts/{account['id']}")).status_code == 204
    personal = "select key, name, email from customers where name is not null or email is not null"
    assert not await fetch(service, personal)
    assert len(await fetch(service, "select * from ledger_transfers")) == 1
    await make(client)  # the e-mail is free again
    await charge(client, account["id"], "late")  # what comes late is still its own
    assert len(await fetch(service, "select distinct customer_id from ledger_transfers")) == 1
    await assert_books_hold(service)


async def charge(client: httpx.AsyncClient, key: str, event_id: str, agent: str | None = None) -> None:
    """Usage of 1 token, at 2 credits."""
    await client.put("/api/v1/meters/tokens", json={"unit": "t"})
    price = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "2"}}
    await client.post("/api/v1/prices", json=price)
    event = {"specversion": "1.0", "source": "/t", "id": event_id, "type": "tokens", "subject": key}
    data = {"value": 1} | ({} if agent is None else {"agent": agent})
    response = await client.post("/api/v1/events", json=event | {"time": "2026-11-19T12:00:00Z", "data": data})
    assert response.status_code == 200, response.text


# Agents


async def test_an_agent_is_made_shown_and_found(client: httpx.AsyncClient) -> None:
    account = await make(client)
    agent = await seat(client, account)
    assert agent == {
        "id": agent["id"],
        "name": "Bot",
        "email": "bot@seats.example.org",
        "blocked": False,
        "account_id": account["id"],
    }
    assert (await client.get(f"/accounts/{account['id']}/agents/{agent['id']}")).json() == agent
    assert (await client.post("/agents/find_agent/BOT@seats.example.org")).json() == agent
    refused(await client.post("/agents/find_agent/x@y.example"), 404, "Agent x@y.example not found")


async def test_agents_come_in_pages(client: httpx.AsyncClient) -> None:
    ada, bob = await make(client), await make(client, "Bob")
    for account, name in ((ada, "C"), (bob, "B"), (ada, "A")):
        await seat(client, account, name)
    mine = (await client.get(f"/accounts/{ada['id']}/agents")).json()
    assert ([item["name"] for item in mine["items"]], mine["total"]) == (["A", "C"], 2)
    everybody = (await client.get("/agents", params={"page": 2, "size": 2})).json()
    assert ([item["name"] for item in everybody["items"]], everybody["total"]) == (["C"], 3)
    assert (await client.get(f"/accounts/{NOBODY}/agents")).json()["items"] == []
    report = (await client.post(f"/accounts/generate_company_raport/{ada['id']}")).json()
    assert report == ada | {"agents": mine["items"]}
    assert (await client.post(f"/accounts/generate_company_report/{ada['id']}")).json() == report


async def test_an_email_belongs_to_one_agent_of_all_accounts(client: httpx.AsyncClient) -> None:
    ada, bob = await make(client), await make(client, "Bob")
    await seat(client, ada)
    body = {"name": "Y", "email": "Bot@Seats.example.org"}
    detail = "E-mail Bot@Seats.example.org is already used"
    refused(await client.post(f"/accounts/{bob['id']}/agents", json=body), 400, detail)
    other = await seat(client, bob, "Other")
    refused(await client.put(f"/accounts/{bob['id']}/agents/{other['id']}", json=body), 400, detail)
    answers = await asyncio.gather(
        *[client.post(f"/accounts/{ada['id']}/agents", json={"name": "N", "email": "n@n.example"}) for _ in range(100)]
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 99


async def test_an_agent_of_another_account_is_not_there(client: httpx.AsyncClient) -> None:
    ada, bob = await make(client), await make(client, "Bob")
    agent = await seat(client, ada)
    path = f"/accounts/{bob['id']}/agents/{agent['id']}"
    refused(await client.get(path), 404, f"Agent {agent['id']} not found")
    refused(await client.put(path, json={}), 404, f"Agent {agent['id']} not found")
    refused(await client.delete(path), 400, f"Agent {agent['id']} belongs to another account")
    assert (await client.get("/agents")).json()["total"] == 1
    body = {"name": "X", "email": "x@x.example"}
    refused(await client.post(f"/accounts/{NOBODY}/agents", json=body), 404, f"Account {NOBODY} not found")


async def test_an_agent_is_changed_and_deleted(client: httpx.AsyncClient) -> None:
    account = await make(client)
    agent = await seat(client, account)
    path = f"/accounts/{account['id']}/agents/{agent['id']}"
    assert (await client.put(path, json={"name": "Robot"})).json() == agent | {"name": "Robot"}
    assert [(await client.delete(path)).status_code for _ in range(2)] == [202, 204]


async def test_a_blocked_agent_causes_no_charges(client: httpx.AsyncClient, service: Service) -> None:
    account = await make(client)
    agent = await seat(client, account)
    await charge(client, account["id"], "1", agent["email"])
    assert (await client.post(f"/agents/block_agent/{agent['id']}")).status_code == 202
    assert (await client.get("/agents")).json()["items"][0]["blocked"] is True
    for number, name in enumerate((agent["email"], agent["email"].upper(), agent["id"])):
        await charge(client, account["id"], f"blocked-{number}", name)
    await charge(client, account["id"], "2", "another@example.org")
    assert (await client.post(f"/agents/unblock_agent/{agent['id']}")).status_code == 202
    await charge(client, account["id"], "3", agent["email"])
    charges = (await client.get(f"/api/v1/customers/{account['id']}/charges")).json()["items"]
    assert sorted(item["amount"] for item in charges) == ["0", "0", "0", "2", "2", "2"]
    blocked = next(item for item in charges if item["amount"] == "0")
    assert (blocked["value"], blocked["quantity"]) == ("1", "0")
    explained = (await client.get(f"/api/v1/charges/{blocked['id']}")).json()
    assert "quantity 0: its agent is blocked: kept, and not charged" in explained["lines"]
    for verb in ("block", "unblock"):
        refused(await client.post(f"/agents/{verb}_agent/{NOBODY}"), 404, f"Agent {NOBODY} not found")
    await assert_books_hold(service)


async def test_nothing_is_held_for_a_blocked_agent(client: httpx.AsyncClient) -> None:
    account = await make(client)
    agent = await seat(client, account)
    path, asked = f"/api/v1/customers/{account['id']}/holds", {"amount": "1", "agent": agent["email"].upper()}
    assert (await client.post(path, json=asked)).status_code == 201
    await client.post(f"/agents/block_agent/{agent['id']}")
    for name in (agent["email"], agent["id"]):
        problem = await client.post(path, json=asked | {"agent": name})
        assert (problem.status_code, problem.json()["code"], problem.json()["field"]) == (403, "agent_blocked", "agent")
    await client.post(f"/agents/unblock_agent/{agent['id']}")
    assert (await client.post(path, json=asked)).status_code == 201


# Everything, and who may


async def test_everything_is_erased(client: httpx.AsyncClient) -> None:
    await seat(client, await make(client))
    assert (await client.post("/agents/clear")).status_code == 202
    assert (await client.get("/agents")).json()["total"] == 0
    assert (await client.get("/accounts")).json()["total"] == 1
    await seat(client, await make(client, "Bob"))
    assert (await client.post("/accounts/clear")).status_code == 202
    assert [(await client.get(path)).json()["total"] for path in ("/accounts", "/agents")] == [0, 0]
    await make(client)
    assert (await client.post("/dev/erase_db")).status_code == 202
    assert (await client.get("/accounts")).json()["total"] == 0


async def test_somebody_is_there(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).json() == {"msg": "Hello my friend !"}


@pytest.fixture
async def guarded(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """With ``--dev``, and both secrets."""
    async with asking(service, auth_token=SecretStr("open sesame"), two_fa=SecretStr("123456")) as client:
        yield client


async def test_the_token_is_demanded(guarded: httpx.AsyncClient) -> None:
    missing = await guarded.get("/accounts")
    assert missing.status_code == 422
    assert missing.json() == {"detail": [{"type": "missing", "loc": ["header", "x-token"], "msg": "Field required"}]}
    refused(await guarded.get("/agents", headers={"X-Token": "open"}), 400, "Invalid X-Token header")
    odd = await guarded.get("/agents", headers=[(b"X-Token", "ö".encode())])
    refused(odd, 400, "Invalid X-Token header")
    assert (await guarded.get("/accounts", headers={"X-Token": "open sesame"})).status_code == 200
    assert (await guarded.get("/")).status_code == 200


@pytest.mark.parametrize("path", ["/accounts/clear", "/agents/clear", "/dev/erase_db"])
async def test_erasing_demands_the_second_factor(guarded: httpx.AsyncClient, path: str) -> None:
    token = {"X-Token": "open sesame"}
    account = await guarded.post("/accounts", json={"name": "A", "email": "a@a.example"}, headers=token)
    assert account.status_code == 200
    missing = await guarded.post(path, headers=token)
    assert (missing.status_code, missing.json()["detail"][0]["loc"]) == (422, ["header", "two-fa"])
    refused(await guarded.post(path, headers=token | {"TWO-FA": "654321"}), 400, "Invalid 2FA header")
    assert (await guarded.post(path, headers={"TWO-FA": "123456"})).status_code == 422
    assert (await guarded.get("/accounts", headers=token)).json()["total"] == 1
    assert (await guarded.post(path, headers=token | {"TWO-FA": "123456"})).status_code == 202


async def test_without_secrets_it_is_closed(service: Service) -> None:
    async with asking(service, dev=False) as client:
        response = await client.get("/accounts", headers={"X-Token": str(uuid4())})
    refused(response, 503, "Service not configured: set AUTH_TOKEN and TWO_FA")
