"""Accounts and agents that many ask for at once: created together, each once, each with an answer of its own."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from tallystick.customers.agents import Agent, NewAgent
from tallystick.customers.model import Customer, NewCustomer
from tallystick.customers.service import EmailTaken
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.service import Service
from tests.outbox.test_accounts import service as service
from tests.outbox.test_accounts import told
from tests.waiting import lock_waiters, until


def account(number: int, email: str | None = None) -> tuple[NewCustomer, UUID]:
    customer_id = UUID(int=number)
    return NewCustomer(str(customer_id), f"Name {number}", email or f"{number}@example.org"), customer_id


async def test_those_who_come_at_once_share_a_transaction(service: Service) -> None:
    """While the first waits for the table, all others come."""
    async with service.pool.connection() as holding, service.pool.connection() as watching:
        async with holding.transaction():
            await holding.execute("lock table customers in share row exclusive mode")
            first = asyncio.create_task(service.admissions.account(*account(0)))
            await until(lambda: lock_waiters(watching))
            rest = [asyncio.create_task(service.admissions.account(*account(number))) for number in range(1, 150)]
        created = await asyncio.gather(first, *rest)
    assert [customer.id for customer in created] == [UUID(int=number) for number in range(150)]
    assert sum(service.admissions.group.weights.counts) == 2
    assert [(event.type, event.subject.id) for event in sorted(await told(service), key=lambda each: each.subject)] == [
        ("account.created", customer.id) for customer in created
    ]


async def test_a_refusal_concerns_only_who_is_refused(service: Service) -> None:
    await service.admissions.account(*account(1))
    outcomes = await asyncio.gather(
        service.admissions.account(*account(2)),
        service.admissions.account(*account(3, "1@EXAMPLE.org")),
        service.admissions.account(NewCustomer(str(UUID(int=1)), "Name", "other@example.org"), UUID(int=4)),
        service.admissions.agent(UUID(int=1), "bot@example.org", "Bot"),
        service.admissions.agent(UUID(int=9), "bit@example.org", "Bit"),
        service.admissions.agent(UUID(int=1), "nobody", "Bot"),
        return_exceptions=True,
    )
    kinds = [Customer, EmailTaken, Conflict, Agent, NotFound, InvalidInput]
    assert [type(outcome) for outcome in outcomes] == kinds
    with pytest.raises(EmailTaken, match=r"bot@example\.org"):
        await service.admissions.agent(UUID(int=1), "bot@example.org", "Bot")


async def test_agents_of_one_group_with_one_email_are_one(service: Service) -> None:
    await service.admissions.account(*account(1))
    emails = ["bot@example.org", "BOT@example.org"] * 20
    asked = [service.admissions.agent(UUID(int=1), email, "Bot") for email in emails]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Agent"] + ["EmailTaken"] * 39


async def test_a_group_that_is_carried_out_again_creates_nobody_twice(service: Service) -> None:
    """Its transaction was committed, and then the connection was lost before anybody heard of it."""
    new, customer_id = account(1)
    wanted: list[tuple[UUID, NewCustomer | NewAgent]] = [
        (customer_id, new),
        (uuid4(), NewAgent(customer_id, "bot@example.org", "Bot")),
    ]
    group = service.admissions.group
    once = [await group.submit(each) for each in wanted]
    events = await told(service)
    again = [await group.submit(each) for each in wanted]
    assert again == once
    assert {event.id for event in await told(service)} <= {event.id for event in events}
