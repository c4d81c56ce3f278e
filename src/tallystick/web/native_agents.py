"""Agents: the seats and machine identities of customers, which can be blocked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import Response
from psycopg import AsyncConnection

from tallystick.customers.agents import Agent
from tallystick.kernel.errors import NotFound
from tallystick.service import Service
from tallystick.web.native import (
    DEFAULT_LIMIT,
    LEFT_OUT,
    Asked,
    Cursor,
    Limit,
    Listing,
    Serving,
    Shown,
    refusals,
    routes_of,
    transaction,
)
from tallystick.web.values import Key

router = routes_of("", "Agents", refused=(404,))


class AgentAsked(Asked):
    name: Key
    email: Key


class AgentChanged(Asked):
    """What is left out stays as it is."""

    name: Key = LEFT_OUT
    email: Key = LEFT_OUT


class AgentShown(Shown):
    id: UUID
    customer: str
    name: str
    email: str
    blocked_at: datetime | None
    created_at: datetime


@router.post("/customers/{key:key}/agents", status_code=201, responses=refusals(404, 409, body=True))
async def create_agent(key: Key, body: AgentAsked, service: Serving) -> AgentShown:
    """Creates an agent of a customer. No other agent may have its e-mail, in whatever case it is written."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
    return _shown(await service.admissions.agent(customer.id, body.email, body.name), key)


@router.get("/customers/{key:key}/agents")
async def list_agents(
    key: Key, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[AgentShown]:
    """Agents of a customer, in the order of their names."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        page = await service.agents.of_customer(conn, customer.id, cursor, limit)
    return Listing(items=[_shown(agent, key) for agent in page.items], next=page.next)


@router.get("/agents/{agent_id}")
async def get_agent(agent_id: UUID, service: Serving) -> AgentShown:
    """One agent."""
    return await _after(service, agent_id, service.agents.get)


@router.patch("/agents/{agent_id}", responses=refusals(404, 409, body=True))
async def change_agent(agent_id: UUID, body: AgentChanged, service: Serving) -> AgentShown:
    """Changes what is given of an agent."""
    asked: dict[str, Any] = {"email": None, "name": None, **body.model_dump(exclude_unset=True)}
    return await _after(
        service, agent_id, lambda conn, agent_id: service.accounts.change_agent(conn, agent_id, **asked)
    )


@router.delete("/agents/{agent_id}", status_code=204, response_class=Response)
async def delete_agent(agent_id: UUID, service: Serving) -> None:
    """Deletes an agent. What it has used stays in the books."""
    async with transaction(service) as conn:
        if await service.accounts.delete_agent(conn, agent_id) is None:
            raise NotFound(f"there is no agent {str(agent_id)!r}", field="agent")


@router.post("/agents/{agent_id}/block")
async def block_agent(agent_id: UUID, service: Serving) -> AgentShown:
    """From now on what the agent uses is kept and not charged. Blocking a blocked agent changes nothing."""
    return await _after(service, agent_id, service.accounts.block)


@router.post("/agents/{agent_id}/unblock")
async def unblock_agent(agent_id: UUID, service: Serving) -> AgentShown:
    """From now on what the agent uses is charged again. What it used meanwhile stays free."""
    return await _after(service, agent_id, service.accounts.unblock)


async def _after(
    service: Service, agent_id: UUID, done: Callable[[AsyncConnection, UUID], Awaitable[Agent]]
) -> AgentShown:
    """The agent as it stands once this is done."""
    async with transaction(service) as conn:
        agent = await done(conn, agent_id)
        return _shown(agent, (await service.customers.of_id(conn, agent.customer_id)).key)


def _shown(agent: Agent, customer: str) -> AgentShown:
    return AgentShown(
        id=agent.id,
        customer=customer,
        name=agent.name,
        email=agent.email,
        blocked_at=agent.blocked_at,
        created_at=agent.created_at,
    )
