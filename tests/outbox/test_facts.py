"""What happens in the rooms below is told, in the transaction in which it happens; what does not happen is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tallystick.kernel.calendar import parse_month
from tallystick.kernel.clock import TestClock
from tallystick.metering.readings import Readings
from tallystick.outbox.catalogue import CATALOGUE
from tallystick.outbox.facts import Facts
from tallystick.service import Service, open_service
from tests.doubles.sweepable import Sweepable, item
from tests.metering.books import assert_books_hold
from tests.outbox.conftest import events_on
from tests.outbox.test_accounts import told
from tests.outbox.test_catalogue import shape
from tests.web.conftest import asking

CUSTOMERS = "/api/v1/customers"


@pytest.fixture
async def service(database_url: str, clock: TestClock) -> AsyncIterator[Service]:
    """A service whose events stay in the outbox, because it does not go to work."""
    async with open_service(events_on("amqp://broker.example"), database_url, clock) as service:
        yield service
        await assert_books_hold(service)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service) as client:
        yield client


async def heard(service: Service) -> list[tuple[str, str, Any]]:
    """Type, subject and data of the events since this was asked last, which must look as the catalogue says."""
    events = await told(service)
    for event in events:
        example = CATALOGUE[event.type].data
        assert set(event.data) == set(example), event
        for name, value in event.data.items():  # what may be missing is missing here or there
            assert None in (value, example[name]) or shape(value) == shape(example[name]), (event, name)
    return [(event.type, event.subject.key, event.data) for event in events]


async def types(service: Service) -> list[tuple[str, str]]:
    return [(kind, key) for kind, key, _ in await heard(service)]


async def use(client: httpx.AsyncClient, *ids: str, customer: str = "ada", meter: str = "tokens", **data: Any) -> None:
    at = data.pop("at", "2026-11-19T12:00:00Z")
    events = [
        {"id": id_, "source": "/t", "subject": customer, "type": meter, "time": at, "data": {"value": 1, **data}}
        for id_ in ids
    ]
    (await client.post("/api/v1/events", json=events)).raise_for_status()


async def price(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    await client.put("/api/v1/meters/tokens", json={"unit": "t"})
    new = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "2"}}
    made: dict[str, Any] = (await client.post("/api/v1/prices", json=new | more)).raise_for_status().json()
    return made


async def customer(client: httpx.AsyncClient, key: str = "ada", **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = (await client.post(CUSTOMERS, json={"key": key, **more})).raise_for_status().json()
    return made


# Customers


async def test_a_service_that_starts_tells_nothing(service: Service) -> None:
    assert await heard(service) == []


async def test_a_customer_that_usage_names_is_told_of_once(client: httpx.AsyncClient, service: Service) -> None:
    await price(client)
    await told(service)
    await use(client, "1", "2")
    await use(client, "3")
    await use(client, "1", "4", "5", customer="bob")
    events = await told(service)
    assert [(event.type, event.subject.key) for event in events] == [("account.created", key) for key in ("ada", "bob")]
    shown = (await client.get(f"{CUSTOMERS}/ada")).json()
    assert (str(events[0].subject.id), events[0].data) == (
        shown["id"],
        {"id": shown["id"], "name": None, "email": None},
    )


async def test_usage_from_many_sides_at_once_brings_a_customer_once(
    client: httpx.AsyncClient, service: Service
) -> None:
    await price(client)
    await told(service)
    await asyncio.gather(*[use(client, f"{number}") for number in range(50)])
    assert await types(service) == [("account.created", "ada")]


async def test_a_customer_that_an_instruction_opens_is_told_of_once(
    client: httpx.AsyncClient, service: Service
) -> None:
    body = {"user_id": "ada", "initial_balance": 100}
    assert (await client.post("/api/v1/accounts", json=body)).status_code == 201
    assert await types(service) == [("account.created", "ada"), ("grant.made", "ada")]
    assert (await client.post("/api/v1/accounts", json=body)).status_code != 201
    assert await heard(service) == []


# Grants


async def test_a_grant_is_made_and_expires_with_what_is_left(
    client: httpx.AsyncClient, service: Service, clock: TestClock
) -> None:
    await price(client)
    await customer(client, credit_policy="prepaid")
    await told(service)
    ask = {"asset": "CREDIT", "amount": "10", "reason": "welcome", "expires_at": "2026-11-21T00:00:00Z"}
    grant = (await client.post(f"{CUSTOMERS}/ada/grants", json=ask)).raise_for_status().json()
    about = {"id": grant["id"], "asset": "CREDIT", "amount": "10", "category": "promotional"}
    terms = {"priority": 100, "source": "", "reason": "welcome", "expires_at": "2026-11-21T00:00:00+00:00"}
    assert await heard(service) == [("grant.made", "ada", about | terms)]
    await use(client, "1")
    clock.advance(timedelta(days=2))
    await service.due.run_due()
    await service.due.run_due()
    assert await heard(service) == [("grant.expired", "ada", {**about, "left": "8"})]


async def test_a_grant_that_is_scheduled_is_told_of_when_it_comes_in(
    client: httpx.AsyncClient, service: Service, clock: TestClock
) -> None:
    await customer(client)
    await told(service)
    for effective_at in ("2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"):
        ask = {"asset": "CREDIT", "amount": "10", "effective_at": effective_at}
        last = (await client.post(f"{CUSTOMERS}/ada/grants", json=ask)).raise_for_status().json()
    await client.delete(f"{CUSTOMERS}/ada/grants/{last['id']}")  # nobody was told that it would come
    assert await told(service) == []
    clock.advance(timedelta(days=3))
    await service.due.run_due()
    assert [(event.type, event.subject.key) for event in await told(service)] == [("grant.made", "ada")]


async def test_a_grant_that_is_voided_is_told_of_once(client: httpx.AsyncClient, service: Service) -> None:
    await customer(client)
    grant = (await client.post(f"{CUSTOMERS}/ada/grants", json={"asset": "CREDIT", "amount": "10"})).json()
    await told(service)
    for _ in range(2):
        await client.delete(f"{CUSTOMERS}/ada/grants/{grant['id']}")
    about = {"id": grant["id"], "asset": "CREDIT", "amount": "10", "category": "promotional"}
    assert await heard(service) == [("grant.voided", "ada", {**about, "left": "10"})]


async def test_a_call_that_comes_again_under_its_key_is_told_of_once(
    client: httpx.AsyncClient, service: Service
) -> None:
    await customer(client)
    await told(service)
    for _ in range(3):
        ask, key = {"asset": "CREDIT", "amount": "10"}, {"Idempotency-Key": "k"}
        (await client.post(f"{CUSTOMERS}/ada/grants", json=ask, headers=key)).raise_for_status()
    assert [event.type for event in await told(service)] == ["grant.made"]


# Prices


async def test_a_price_is_told_of_to_whom_it_concerns(client: httpx.AsyncClient, service: Service) -> None:
    await customer(client, region="apac", vip=True)
    await told(service)
    everybodys = await price(client, kind="gpt", effective_from="2026-12-01T05:00:00Z")
    own = await price(client, kind="gpt", customer="ada")
    events = await told(service)
    assert [(each.type, each.subject.key, each.subject.region, each.subject.vip) for each in events] == [
        ("price.changed", "", "all", False),
        ("price.changed", "ada", "apac", True),
    ]
    assert [(each.data["id"], each.data["customer"]) for each in events] == [
        (everybodys["id"], None),
        (own["id"], "ada"),
    ]
    refused = {"meter": "tokens", "kind": "gpt", "effective_from": "2026-12-01T05:00:00Z"}
    again = await client.post("/api/v1/prices", json=refused | {"model": {"type": "per_unit", "amount": "3"}})
    assert again.status_code == 409
    assert await told(service) == []


# Usage


async def test_usage_without_a_price_is_told_of_once_a_month_and_kind(
    client: httpx.AsyncClient, service: Service
) -> None:
    await customer(client)
    await customer(client, "bob")
    await told(service)
    await use(client, "1", "2", kind="gpt")
    await use(client, "3", "1", kind="gpt")
    await use(client, "4", kind="opus")
    await use(client, "5", kind="gpt", at="2026-10-31T12:00:00Z")
    await use(client, "6", kind="gpt", customer="bob")
    waits = [
        ("ada", "gpt", "2026-11"),
        ("ada", "opus", "2026-11"),
        ("ada", "gpt", "2026-10"),
        ("bob", "gpt", "2026-11"),
    ]
    assert await heard(service) == [
        ("usage.unpriced", key, {"meter": "tokens", "kind": kind, "month": month}) for key, kind, month in waits
    ]


async def test_usage_without_a_price_from_many_sides_is_told_of_once(
    client: httpx.AsyncClient, service: Service
) -> None:
    await customer(client)
    await told(service)
    await asyncio.gather(*[use(client, f"{number}") for number in range(50)])
    await use(client, *(f"many {number}" for number in range(500)))
    assert await types(service) == [("usage.unpriced", "ada")]


async def test_priced_usage_tells_nothing(client: httpx.AsyncClient, service: Service) -> None:
    await price(client)
    await customer(client)
    await told(service)
    await use(client, "1", "2")
    assert await heard(service) == []


async def test_a_month_is_told_of_when_it_is_posted(
    client: httpx.AsyncClient, service: Service, clock: TestClock
) -> None:
    await price(client)
    await customer(client, posting_policy="monthly")
    await customer(client, "child", payer="ada")
    await use(client, "1", customer="child")
    await use(client, "2")
    await told(service)
    clock.advance(timedelta(days=14))
    await service.postings.post(parse_month("2026-11", service.settings.zone))
    await service.postings.post(parse_month("2026-11", service.settings.zone))
    await use(client, "late")
    await service.postings.post(parse_month("2026-11", service.settings.zone))
    events = await heard(service)
    assert [(kind, key) for kind, key, _ in events] == [("usage.posted", "ada")] * 2
    about = {"month": "2026-11", "asset": "CREDIT"}
    assert [{name: data[name] for name in data if name != "id"} for *_, data in events] == [
        {**about, "supplement": 0, "amount": "4"},
        {**about, "supplement": 1, "amount": "2"},
    ]


# Readings


async def test_a_reading_that_is_not_complete_is_told_of_once_for_each_way_it_ends(service: Service) -> None:
    source = Sweepable()
    customers, listener = service.customers, Facts(service.clock, service.outbox)
    readings = Readings(
        service.pool, service.clock, service.intake, service.resources, customers, [source], listener=listener
    )
    source.broken = {"cfapps": "it is down", "cfservices": "it is down too"}
    for _ in range(2):
        await readings.take(source, periodic=True)
    source.items = [item()]
    del source.broken["cfapps"]
    await readings.take(source, periodic=True)
    source.broken.clear()
    reading = await readings.take(source, periodic=True)
    assert reading.state == "complete"
    about = {"id": str(reading.id), "source": "platform", "interval_start": "2026-11-20T12:00:00+00:00"}
    assert [event for event in await heard(service) if event[0] == "reading.failed"] == [
        ("reading.failed", "", {**about, "state": "failed", "failures": 2, "detail": "it is down"}),
        ("reading.failed", "", {**about, "state": "partial", "failures": 1, "detail": "it is down too"}),
    ]
