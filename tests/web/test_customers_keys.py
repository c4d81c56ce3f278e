"""What a customer's key, and its agent's, sees and sends: what is its own, on every surface, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tallystick.access.callers import OF_CUSTOMERS
from tallystick.access.model import NewKey
from tallystick.service import Service
from tests.metering.books import assert_books_hold, fetch
from tests.metering.sources.remote_write import HEADERS_V1, compressed, v1
from tests.web.conftest import asking
from tests.web.test_openstack_credits import line
from tests.web.test_prometheus import totals

AGENT = "bot@example.org"
ADA = "org/ada ü"
"""A key that no path can hold as it is."""


def own(key: str = ADA) -> str:
    return f"/api/v1/customers/{quote(key, safe='')}"


@pytest.fixture(autouse=True)
async def people(client: httpx.AsyncClient) -> None:
    """Ada with an agent, and Bob; both have credits, and tokens cost something."""
    assert (await client.put("/api/v1/meters/tokens", json={})).status_code == 200
    price = {"meter": "tokens", "model": {"type": "per_unit", "amount": "2"}, "effective_from": "2026-01-01T00:00:00Z"}
    priced = await client.post("/api/v1/prices", json=price)
    assert priced.status_code == 201, priced.text
    for key in (ADA, "bob"):
        assert (
            await client.post("/api/v1/customers", json={"key": key, "credit_policy": "prepaid"})
        ).status_code == 201
        granted = await client.post(f"{own(key)}/grants", json={"asset": "CREDIT", "amount": "100"})
        assert granted.status_code == 201
    agent = await client.post(f"{own()}/agents", json={"email": AGENT, "name": "Bot"})
    assert agent.status_code == 201, agent.text


@pytest.fixture
async def closed(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service, dev=False, admin_api_keys="boss") as client:  # pragma: allowlist secret
        yield client


async def key_of(service: Service, customer: str | None = None, agent: str | None = None) -> dict[str, str]:
    """The header of a key with all scopes that such a holder may have."""
    async with service.pool.connection() as conn, conn.transaction():
        made = await service.access.keys.create(conn, NewKey("its own", sorted(OF_CUSTOMERS), customer, agent))
    return {"Authorization": f"Bearer {made.text}"}


@pytest.fixture
async def adas(service: Service) -> dict[str, str]:
    return await key_of(service, customer=ADA)


@pytest.fixture
async def bots(service: Service) -> dict[str, str]:
    return await key_of(service, agent=AGENT)


def event(name: str, customer: str, agent: str | None = None, **more: Any) -> dict[str, Any]:
    data = {"value": 1} | ({} if agent is None else {"agent": agent})
    return {"id": name, "subject": customer, "type": "tokens", "data": data, **more}


async def used(client: httpx.AsyncClient, key: str) -> list[tuple[str, str | None]]:
    """Agent and amount of each charge, in the order of the agents."""
    page = (await client.get(f"{own(key)}/charges")).json()
    return sorted((charge["agent"], charge["amount"]) for charge in page["items"])


async def balance(client: httpx.AsyncClient, key: str) -> str:
    (shown,) = (await client.get(own(key))).json()["balances"]
    return str(shown["balance"])


# What it sends


async def test_its_own_usage_is_charged_and_that_of_others_rejected(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str], service: Service
) -> None:
    sent = [event("1", ADA), event("2", "bob"), event("3", ADA), event("4", "new")]
    answer = await closed.post("/api/v1/events", json=sent, headers=adas)
    recorded = answer.json()
    assert (answer.status_code, recorded["accepted"]) == (200, 2)
    assert [(one["index"], one["code"]) for one in recorded["rejected"]] == [
        (1, "other_customer"),
        (3, "other_customer"),
    ]
    assert await used(client, "bob") == []
    assert len(await used(client, ADA)) == 2
    assert (await client.get(own("new"))).status_code == 404
    pieces = (await client.get("/api/v1/quarantine")).json()["items"]
    assert [(piece["code"], piece["customer"]) for piece in pieces] == [("other_customer", ADA)] * 2
    await assert_books_hold(service)


async def test_usage_of_an_unknown_meter_waits_for_an_operator_to_create_it(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str]
) -> None:
    """Everybody sees all meters, so that a customer's key must not make any."""
    refused = await closed.post("/api/v1/events", json={**event("1", ADA), "type": "mine"}, headers=adas)
    assert [one["code"] for one in refused.json()["rejected"]] == ["unknown_meter"]
    assert (await closed.get("/api/v1/meters/mine", headers=adas)).status_code == 404
    assert (await client.put("/api/v1/meters/mine", json={})).status_code == 200
    assert (await client.post("/api/v1/quarantine/replay", json={})).json()["recorded"] == 1
    assert await used(client, ADA) == [("", None)]


async def test_nobody_gives_credits_to_himself(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str], bots: dict[str, str]
) -> None:
    """Negative usage takes usage back, also what an operator has measured: that is an operator's to say."""
    back = {**event("1", ADA), "data": {"value": -1000}}
    for headers in (adas, bots):
        refused = await closed.post("/api/v1/events", json=back, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (400, "negative_usage")
    replayed = (await client.post("/api/v1/quarantine/replay", json={})).json()
    assert replayed["recorded"] == 0
    assert await balance(client, ADA) == "100"
    assert (await client.post("/api/v1/events", json=back)).json()["accepted"] == 1
    assert await balance(client, ADA) == "2100"


async def test_nothing_but_usage_of_others_is_a_refusal(closed: httpx.AsyncClient, adas: dict[str, str]) -> None:
    answer = await closed.post("/api/v1/events", json=event("1", "bob"), headers=adas)
    assert (answer.status_code, answer.json()["code"]) == (400, "other_customer")


async def test_replaying_everything_charges_nobody_for_what_others_sent(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str]
) -> None:
    await closed.post("/api/v1/events", json=event("1", "bob"), headers=adas)
    for _ in range(2):
        (piece,) = (await client.post("/api/v1/quarantine/replay", json={})).json()["pieces"]
        assert (piece["recorded"], piece["code"]) == (False, "other_customer")
    assert await used(client, "bob") == []


async def test_mending_does_not_make_a_piece_somebody_elses(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str]
) -> None:
    await closed.post("/api/v1/events", json={**event("1", "bob"), "type": 5}, headers=adas)
    (piece,) = (await client.get("/api/v1/quarantine")).json()["items"]
    mended = b'{"id": "1", "subject": "bob", "type": "tokens", "data": {"value": 1}}'
    await client.put(f"/api/v1/quarantine/{piece['id']}", content=mended)
    replayed = (await client.post("/api/v1/quarantine/replay", json={"ids": [piece["id"]]})).json()
    assert [one["code"] for one in replayed["pieces"]] == ["other_customer"]
    assert await used(client, "bob") == []


async def test_the_same_bytes_of_two_senders_are_two_pieces(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str]
) -> None:
    body = {"id": "1", "subject": ADA, "type": "tokens", "data": {}}
    for headers in (adas, {"Authorization": "Bearer boss"}, adas):
        assert (await closed.post("/api/v1/events", json=body, headers=headers)).status_code == 400
    pieces = (await client.get("/api/v1/quarantine")).json()["items"]
    assert sorted(str(piece["customer"]) for piece in pieces) == ["None", ADA]


async def test_lines_and_samples_of_others_are_kept_and_not_charged(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, service: Service
) -> None:
    theirs = await key_of(service, customer="bob")
    token = {"Authorization": theirs["Authorization"].replace("Bearer", "Token")}
    for hour in (0, 1):
        lines = "\n".join(line(10 * hour + 1, hour, project) for project in ("bob", "ada"))
        assert (await closed.post("/write", content=lines, headers=token)).status_code == 202
    answer = await closed.post(
        "/api/v1/prometheus/write",
        content=compressed(v1(totals(5, 6, project="bob", metric="project_mb_usage"), totals(5, project="eve"))),
        headers={**theirs, **HEADERS_V1},
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "other_customer")
    assert answer.headers["x-prometheus-remote-write-samples-written"] == "2"
    assert len(await used(client, "bob")) == 4
    for other in ("ada", "eve"):
        assert (await client.get(own(other))).status_code == 404
    pieces = (await client.get("/api/v1/quarantine")).json()["items"]
    assert {(piece["code"], piece["customer"]) for piece in pieces} == {("other_customer", "bob")}


async def test_an_agents_usage_is_that_of_the_agent(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, bots: dict[str, str], service: Service
) -> None:
    sent = [event("1", ADA), event("2", ADA, AGENT.upper()), event("3", ADA, "eve@example.org"), event("4", "bob")]
    recorded = (await closed.post("/api/v1/events", json=sent, headers=bots)).json()
    assert (recorded["accepted"], [one["code"] for one in recorded["rejected"]]) == (
        2,
        ["other_agent", "other_customer"],
    )
    ((agent_id,),) = await fetch(service, "select id::text from agents")
    assert await used(client, ADA) == sorted([(agent_id, "2"), (AGENT.upper(), "2")])


async def test_a_blocked_agent_sends_nothing(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, bots: dict[str, str], service: Service
) -> None:
    ((agent_id,),) = await fetch(service, "select id::text from agents")
    await client.post(f"/agents/block_agent/{agent_id}")
    for method, path, json in (("POST", "/api/v1/events", event("1", ADA)), ("GET", own(), None)):
        refused = await closed.request(method, path, json=json, headers=bots)
        assert (refused.status_code, refused.json()["code"]) == (403, "agent_blocked")
    await client.post(f"/agents/unblock_agent/{agent_id}")
    assert (await closed.post("/api/v1/events", json=event("1", ADA), headers=bots)).json()["accepted"] == 1


# What it sees


async def test_it_sees_itself_however_its_name_is_written(closed: httpx.AsyncClient, adas: dict[str, str]) -> None:
    everything = "".join(f"%{byte:02x}" for byte in ADA.encode())
    for path in (own(), f"/api/v1/customers/{everything}", f"{own()}/bill", f"{own()}/holds"):
        assert (await closed.get(path, headers=adas)).status_code == 200, path
    for name in (
        "bob",
        "nobody",
        "org",
        "org%2Fada",
        "org%2Fada%20%C3%BC%20",
        "%ff",
        quote(quote(ADA, safe=""), safe=""),
    ):
        for path in (f"/api/v1/customers/{name}", f"/api/v1/customers/{name}/bill", f"/api/v1/customers/{name}/holds"):
            refused = await closed.get(path, headers=adas)
            assert (refused.status_code, refused.json()["code"]) == (403, "other_customer"), path
    for path in ("/api/v1/customers", "/api/v1/prices", "/api/v1/postings", f"{own()}/descendants", "/stats"):
        assert (await closed.get(path, headers=adas)).status_code == 403, path


async def test_a_charge_is_explained_to_whose_it_is(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str]
) -> None:
    await client.post("/api/v1/events", json=[event("1", ADA), event("2", "bob")])
    adas_charge, bobs_charge = [
        (await client.get(f"{own(key)}/charges")).json()["items"][0]["id"] for key in (ADA, "bob")
    ]
    assert (await closed.get(f"/api/v1/charges/{adas_charge}", headers=adas)).status_code == 200
    nowhere = f"{bobs_charge.partition('.')[0]}.00000000-0000-4000-8000-000000000000"
    for charge in (bobs_charge, nowhere):
        refused = await closed.get(f"/api/v1/charges/{charge}", headers=adas)
        assert (refused.status_code, refused.json()["code"]) == (403, "other_customer")


async def test_it_asks_for_its_own_credits_and_bills_itself(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str]
) -> None:
    for path, more in (("balance", {}), ("bill", {"amount": 1})):
        mine = await closed.post(f"/api/v1/{path}", json={"user_id": ADA, **more}, headers=adas)
        assert mine.status_code == 200, mine.text
        for other in ("bob", "nobody"):
            refused = await closed.post(f"/api/v1/{path}", json={"user_id": other, **more}, headers=adas)
            assert (refused.status_code, refused.json()) == (403, {"detail": "this key stands for another customer"})
    for path in ("topup", "accounts"):
        refused = await closed.post(f"/api/v1/{path}", json={"user_id": ADA, "amount": 1}, headers=adas)
        assert refused.status_code == 403
    assert (await balance(client, ADA), await balance(client, "bob")) == ("99", "100")


async def test_nobody_uses_up_the_idempotency_keys_of_others(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str], service: Service
) -> None:
    bobs = await key_of(service, customer="bob")
    once = {"Idempotency-Key": "order-1"}
    for _ in range(2):  # the second time it is the same request
        for key, headers in ((ADA, adas), ("bob", bobs)):
            billed = await closed.post("/api/v1/bill", json={"user_id": key, "amount": 1}, headers=headers | once)
            assert billed.status_code == 200, billed.text
            held = await closed.post(f"{own(key)}/holds", json={"amount": "1"}, headers=headers | once)
            assert held.status_code == 409
    assert (await client.post("/api/v1/bill", json={"user_id": "bob", "amount": 2}, headers=once)).status_code == 200
    assert (await balance(client, ADA), await balance(client, "bob")) == ("99", "97")


async def test_a_customer_of_the_platform_sees_itself(closed: httpx.AsyncClient, adas: dict[str, str]) -> None:
    for what in ("usage", "balance", "price"):
        mine = await closed.get(f"/customer/{quote(ADA, safe='')}/{what}", headers=adas)
        assert mine.status_code == 200, mine.text
        for other in ("bob", "nobody"):
            refused = await closed.get(f"/customer/{other}/{what}", headers=adas)
            assert (refused.status_code, refused.text) == (403, "forbidden")


async def test_an_account_and_its_agents_are_named_by_id(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, adas: dict[str, str]
) -> None:
    token = {"X-Token": adas["Authorization"].removeprefix("Bearer ")}
    ids = {key: (await client.get(own(key))).json()["id"] for key in (ADA, "bob")}
    for path in ("", "/agents"):
        assert (await closed.get(f"/accounts/{ids[ADA]}{path}", headers=token)).status_code == 200
        for other in (ids["bob"], "nobody", quote(ADA, safe="")):
            assert (await closed.get(f"/accounts/{other}{path}", headers=token)).status_code == 403
    seat = {"name": "Seat", "email": "seat@example.org"}
    assert (await closed.post(f"/accounts/{ids[ADA]}/agents", json=seat, headers=token)).status_code == 200
    assert (await closed.post(f"/accounts/{ids['bob']}/agents", json=seat, headers=token)).status_code == 403


async def test_what_moves_a_payers_wallet_is_the_payers(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, service: Service
) -> None:
    assert (await client.post("/api/v1/customers", json={"key": "lab", "payer": "bob"})).status_code == 201
    labs, bobs = await key_of(service, customer="lab"), await key_of(service, customer="bob")
    (grant,) = (await client.get(f"{own('lab')}/grants")).json()["items"]
    for what in ("transactions", "balances", "exchanges", "grants", f"grants/{grant['id']}"):
        refused = await closed.get(f"{own('lab')}/{what}", headers=labs)
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (
            403,
            "other_customer",
            "payer",
        )
        assert (await closed.get(f"{own('bob')}/{what}", headers=bobs)).status_code == 200
    assert (await closed.get(f"{own('lab')}/bill", headers=labs)).status_code == 200


async def test_an_agent_holds_for_itself_alone(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, bots: dict[str, str], adas: dict[str, str], service: Service
) -> None:
    for agent in (None, AGENT):
        held = await closed.post(f"{own()}/holds", json={"amount": "1", "agent": agent}, headers=bots)
        assert held.status_code == 201, held.text
    other = await closed.post(f"{own()}/holds", json={"amount": "1", "agent": "eve@example.org"}, headers=bots)
    assert (other.status_code, other.json()["code"], other.json()["field"]) == (403, "other_agent", "agent")
    foreign = await closed.post("/api/v1/customers/bob/holds", json={"amount": "1"}, headers=bots)
    assert (foreign.status_code, foreign.json()["code"]) == (403, "other_customer")
    assert (await closed.post(f"{own()}/holds", json={"amount": "1"}, headers=adas)).status_code == 201
