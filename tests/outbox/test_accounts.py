"""What happens to customers and agents is told, once, with what it caused; what does not happen is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.outbox.model import Event
from tallystick.service import Service, open_service
from tests.metering.books import fetch
from tests.outbox.conftest import events_on
from tests.outbox.events import waiting
from tests.web.conftest import asking

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def service(database_url: str, clock: TestClock) -> AsyncIterator[Service]:
    """A service whose events stay in the outbox, because it does not go to work."""
    async with open_service(events_on("amqp://broker.example"), database_url, clock) as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service) as client:
        yield client


async def make(client: httpx.AsyncClient, name: str = "Ada", **more: Any) -> dict[str, Any]:
    body = {"name": name, "email": f"{name.lower()}@example.org", **more}
    account: dict[str, Any] = (await client.post("/accounts", json=body)).raise_for_status().json()
    return account


async def seat(client: httpx.AsyncClient, account: dict[str, Any], name: str = "Bot") -> dict[str, Any]:
    body = {"name": name, "email": f"{name.lower()}@seats.example.org"}
    agent = (await client.post(f"/accounts/{account['id']}/agents", json=body)).raise_for_status().json()
    return {field: agent[field] for field in ("id", "account_id", "name", "email", "blocked")}


async def told(service: Service) -> list[Event]:
    """The events since this was asked last."""
    events = await waiting(service.pool)
    await fetch(service, "delete from outbox_events returning id")
    return events


def shown(events: list[Event]) -> list[tuple[str, str, str, bool, Any]]:
    return [(each.type, each.subject.key, each.subject.region, each.subject.vip, each.data) for each in events]


def names(events: list[Event]) -> list[tuple[str, str]]:
    return [(each.type, each.data["id"]) for each in events]


async def test_an_account_is_created_changed_and_deleted(client: httpx.AsyncClient, service: Service) -> None:
    account = await make(client, region="emea", vip=True)
    key, data = account["id"], {"id": account["id"], "name": "Ada", "email": "ada@example.org"}
    assert shown(await told(service)) == [("account.created", key, "emea", True, data)]

    await client.put(f"/accounts/{key}", json={"name": "Ada L.", "region": "apac", "vip": False})
    before = {"region": "emea", "vip": True}
    changed = ("account.changed", key, "apac", False, {**data, "name": "Ada L.", "before": before})
    assert shown(await told(service)) == [changed]

    await client.delete(f"/accounts/{key}")
    assert shown(await told(service)) == [("account.deleted", key, "apac", False, {"id": key})]


async def test_a_customer_of_the_native_surface_is_an_account_too(client: httpx.AsyncClient, service: Service) -> None:
    created = await client.post("/api/v1/customers", json={"key": "org", "name": "Org"})
    account_id = created.raise_for_status().json()["id"]
    data = {"id": account_id, "name": "Org", "email": None}
    assert shown(await told(service)) == [("account.created", "org", "nam", False, data)]
    await client.delete(f"/accounts/{account_id}")
    (gone,) = await told(service)
    assert gone.subject.key == "org", "its key is told once more, though it is forgotten"


async def test_an_agent_is_created_changed_blocked_unblocked_and_deleted(
    client: httpx.AsyncClient, service: Service
) -> None:
    account = await make(client, region="emea", vip=True)
    await told(service)
    agent = await seat(client, account)
    await client.put(f"/accounts/{account['id']}/agents/{agent['id']}", json={"name": "Robot"})
    await client.post(f"/agents/block_agent/{agent['id']}")
    await client.post(f"/agents/unblock_agent/{agent['id']}")
    await client.delete(f"/accounts/{account['id']}/agents/{agent['id']}")
    robot = {**agent, "name": "Robot"}
    assert shown(await told(service)) == [
        (kind, account["id"], "emea", True, data)
        for kind, data in (
            ("agent.created", agent),
            ("agent.changed", robot),
            ("agent.blocked", {**robot, "blocked": True}),
            ("agent.unblocked", robot),
            ("agent.deleted", {"id": agent["id"], "account_id": account["id"]}),
        )
    ]


async def test_a_deleted_account_is_told_before_its_agents(client: httpx.AsyncClient, service: Service) -> None:
    ada, bob = await make(client), await make(client, "Bob")
    mine = {(await seat(client, ada, name))["id"] for name in ("A", "B")}
    await seat(client, bob, "C")
    await told(service)
    await client.delete(f"/accounts/{ada['id']}")
    first, *rest = names(await told(service))
    assert first == ("account.deleted", ada["id"])
    assert sorted(rest) == sorted(("agent.deleted", agent) for agent in mine)


async def test_erasing_everything_is_told(client: httpx.AsyncClient, service: Service) -> None:
    """[B] the account management told nothing then."""
    accounts = [await make(client, name) for name in ("Ada", "Bob")]
    agents = {account["id"]: (await seat(client, account, account["name"]))["id"] for account in accounts}
    await told(service)
    await client.post("/dev/erase_db")
    gone = names(await told(service))
    assert len(gone) == 4
    for account_id, agent_id in agents.items():
        place = gone.index(("account.deleted", account_id))
        assert gone[place + 1] == ("agent.deleted", agent_id)


async def test_erasing_agents_is_told(client: httpx.AsyncClient, service: Service) -> None:
    accounts = [await make(client, name, region=region) for name, region in (("Ada", "emea"), ("Bob", "apac"))]
    agents = {(await seat(client, account, account["name"]))["id"]: account for account in accounts}
    await told(service)
    await client.post("/agents/clear")
    gone = {each.data["id"]: each for each in await told(service)}
    assert set(gone) == set(agents)
    for agent_id, account in agents.items():
        assert (gone[agent_id].type, gone[agent_id].subject.region) == ("agent.deleted", account["region"])
        assert gone[agent_id].subject.key == account["id"]


async def test_what_changes_nothing_is_not_told(client: httpx.AsyncClient, service: Service) -> None:
    account = await make(client)
    agent = await seat(client, account)
    await client.post(f"/agents/block_agent/{agent['id']}")
    await told(service)
    await client.post(f"/agents/block_agent/{agent['id']}")
    await client.put(f"/accounts/{account['id']}", json={"name": "Ada"})
    await client.put(f"/accounts/{account['id']}/agents/{agent['id']}", json={})
    assert await told(service) == []
    await client.post(f"/agents/unblock_agent/{agent['id']}")
    assert len(await told(service)) == 1
    await client.post(f"/agents/unblock_agent/{agent['id']}")
    assert await told(service) == []


async def test_what_is_refused_is_not_told(client: httpx.AsyncClient, service: Service) -> None:
    ada, bob = await make(client), await make(client, "Bob")
    agent = await seat(client, ada)
    await told(service)
    assert (await client.post("/accounts", json={"name": "X", "email": "ADA@example.org"})).status_code == 400
    assert (await client.put(f"/accounts/{bob['id']}", json={"email": "ada@example.org"})).status_code == 400
    assert (await client.post(f"/accounts/{NOBODY}/agents", json={"name": "X", "email": "x@x.org"})).status_code == 404
    assert (await client.delete(f"/accounts/{bob['id']}/agents/{agent['id']}")).status_code == 400
    assert (await client.post(f"/agents/block_agent/{NOBODY}")).status_code == 404
    assert (await client.delete(f"/accounts/{NOBODY}")).status_code == 204
    assert await told(service) == []


async def test_one_of_a_hundred_creations_with_one_email_is_told(client: httpx.AsyncClient, service: Service) -> None:
    body = {"name": "Ada", "email": "ada@example.org"}
    await asyncio.gather(*[client.post("/accounts", json=body) for _ in range(100)])
    assert len(await told(service)) == 1


async def test_every_block_has_an_id_of_its_own_and_its_end_too(
    client: httpx.AsyncClient, service: Service, clock: TestClock
) -> None:
    agent = await seat(client, await make(client))
    await told(service)
    for _ in range(2):
        clock.advance(timedelta(seconds=1))
        for verb in ("block", "unblock"):
            await client.post(f"/agents/{verb}_agent/{agent['id']}")
    events = await told(service)
    assert [event.type for event in events] == ["agent.blocked", "agent.unblocked"] * 2
    assert len({event.id for event in events}) == 4


async def test_blocking_at_once_from_many_sides_is_told_once(client: httpx.AsyncClient, service: Service) -> None:
    agent = await seat(client, await make(client))
    await told(service)
    await asyncio.gather(*[client.post(f"/agents/block_agent/{agent['id']}") for _ in range(10)])
    assert [event.type for event in await told(service)] == ["agent.blocked"]
