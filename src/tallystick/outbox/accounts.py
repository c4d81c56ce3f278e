"""The life of customers and their agents, told to whoever listens: what happens and its event are one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from tallystick.customers.agents import Agent, Agents, NewAgent, check_new
from tallystick.customers.model import Customer, CustomerChange, NewCustomer
from tallystick.customers.service import Customers
from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import TallyError
from tallystick.kernel.ids import derived_id, new_id
from tallystick.metering.blocking import Blocking
from tallystick.outbox.catalogue import (
    ACCOUNT_CHANGED,
    ACCOUNT_DELETED,
    AGENT_BLOCKED,
    AGENT_CHANGED,
    AGENT_CREATED,
    AGENT_DELETED,
    AGENT_UNBLOCKED,
    EventType,
)
from tallystick.outbox.model import Event, Subject
from tallystick.outbox.service import Outbox
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_suffix(".sql"))


class Accounts:
    """Customers that somebody describes, and their agents. Works in the caller's transaction.

    What changes who is charged for what keeps usage waiting until that transaction ends (``Pricing.change``).
    """

    def __init__(
        self, clock: Clock, customers: Customers, agents: Agents, pricing: Pricing, blocking: Blocking, outbox: Outbox
    ) -> None:
        self._clock = clock
        self._customers = customers
        self._agents = agents
        self._pricing = pricing
        self._blocking = blocking
        self._outbox = outbox

    async def create(self, conn: AsyncConnection, new: NewCustomer, customer_id: UUID | None = None) -> Customer:
        """Creates a customer; raises as ``Customers.create`` does."""
        if new.payer is not None:  # who must go on paying for itself until this customer is there
            await self._pricing.enter(conn)
        return await self._customers.create(conn, new, customer_id)  # which tells (``facts``)

    async def change(self, conn: AsyncConnection, key: str, change: CustomerChange) -> Customer:
        """Changes what is given of a customer; raises as ``Customers.change`` does."""
        before, customer = await self._customers.change(conn, key, change)
        if customer != before:
            data = {**_account(customer), "before": {"region": before.region, "vip": before.vip}}
            await self._outbox.tell(conn, [self._unnamed(ACCOUNT_CHANGED, Subject.of(customer), data)])
        return customer

    async def delete(self, conn: AsyncConnection, customer_id: UUID) -> bool:
        """Deletes a customer and its agents; whether there was one. Its ledger stays."""
        return await self._delete(conn, [customer_id])

    async def erase(self, conn: AsyncConnection) -> None:
        """Deletes all customers and agents. Their ledgers stay."""
        await self._delete(conn, None)

    async def create_agents(
        self, conn: AsyncConnection, new: Mapping[UUID, NewAgent]
    ) -> dict[UUID, Agent | TallyError]:
        """Creates agents under these ids, or says why not, as ``Agents.admit``."""
        answers = await self._agents.admit(conn, new)
        agents = [answer for answer in answers.values() if isinstance(answer, Agent)]
        subjects = await _subjects(conn, {agent.customer_id for agent in agents})
        events = (self._named(AGENT_CREATED, subjects[agent.customer_id], _agent(agent), agent.id) for agent in agents)
        await self._outbox.tell(conn, events)
        return answers

    async def create_agent(self, conn: AsyncConnection, customer_id: UUID, email: str, name: str) -> Agent:
        """Creates an agent of a customer. Raises ``InvalidInput``, ``EmailTaken``, ``NotFound``."""
        new = NewAgent(customer_id, email, name)
        check_new(new)
        (answer,) = (await self.create_agents(conn, {uuid4(): new})).values()
        if isinstance(answer, TallyError):
            raise answer
        return answer

    async def change_agent(self, conn: AsyncConnection, agent_id: UUID, email: str | None, name: str | None) -> Agent:
        """Changes what is given of an agent; raises as ``Agents.change`` does."""
        await self._pricing.change(conn)  # a blocked agent is known by its e-mail
        before = await self._agents.get(conn, agent_id)
        agent = await self._agents.change(conn, agent_id, email, name)
        if agent != before:
            subject = await _subject(conn, agent.customer_id)
            await self._outbox.tell(conn, [self._unnamed(AGENT_CHANGED, subject, _agent(agent))])
        return agent

    async def delete_agent(self, conn: AsyncConnection, agent_id: UUID) -> Agent | None:
        """The agent that was, or ``None`` if there was none. What it has used stays."""
        await self._pricing.change(conn)
        agent = await self._agents.delete(conn, agent_id)
        if agent is not None:
            await self._outbox.tell(conn, [self._agent_deleted(agent, await _subject(conn, agent.customer_id))])
        return agent

    async def erase_agents(self, conn: AsyncConnection) -> None:
        """Deletes all agents of all customers."""
        await self._pricing.change(conn)
        agents = await self._agents.delete_all(conn, None)
        subjects = await _subjects(conn, {agent.customer_id for agent in agents})
        await self._outbox.tell(conn, (self._agent_deleted(agent, subjects[agent.customer_id]) for agent in agents))

    async def block(self, conn: AsyncConnection, agent_id: UUID) -> Agent:
        """Nothing that the agent uses is charged from now on. Raises ``NotFound``.

        The event has the id of the block: blocking a blocked agent changes nothing, and tells nothing.
        """
        await self._pricing.change(conn)
        before = await self._agents.get(conn, agent_id)
        agent = await self._blocking.block(conn, agent_id)
        if not before.is_blocked:
            await self._tell_of(conn, AGENT_BLOCKED, agent, agent.id, str(agent.blocked_at))
        return agent

    async def unblock(self, conn: AsyncConnection, agent_id: UUID) -> Agent:
        """What the agent uses is charged from now on. Raises ``NotFound``. Its event is named by the block it ends."""
        await self._pricing.change(conn)
        before = await self._agents.get(conn, agent_id)
        agent = await self._blocking.unblock(conn, agent_id)
        if before.is_blocked:
            await self._tell_of(conn, AGENT_UNBLOCKED, agent, agent.id, str(before.blocked_at))
        return agent

    async def _delete(self, conn: AsyncConnection, ids: list[UUID] | None) -> bool:
        await self._pricing.change(conn)
        rows = await (await conn.execute(_SQL.leaving, {"ids": None if ids is None else UuidArray(ids)})).fetchall()
        subjects = [Subject(*row) for row in rows]
        if not subjects:
            return False
        agents = await self._agents.delete_all(conn, ids)
        await self._customers.delete(conn, ids)
        await self._outbox.tell(conn, self._departures(subjects, agents))
        return True

    def _departures(self, subjects: Iterable[Subject], agents: Iterable[Agent]) -> Iterator[Event]:
        """Of each customer, and then of each of its agents."""
        agents_of = defaultdict(list)
        for agent in agents:
            agents_of[agent.customer_id].append(agent)
        for subject in subjects:
            yield self._named(ACCOUNT_DELETED, subject, {"id": str(subject.id)}, subject.id)
            for agent in agents_of[subject.id]:
                yield self._agent_deleted(agent, subject)

    async def _tell_of(self, conn: AsyncConnection, kind: EventType, agent: Agent, *cause: str | UUID) -> None:
        subject = await _subject(conn, agent.customer_id)
        await self._outbox.tell(conn, [self._named(kind, subject, _agent(agent), *cause)])

    def _agent_deleted(self, agent: Agent, subject: Subject) -> Event:
        data = {"id": str(agent.id), "account_id": str(agent.customer_id)}
        return self._named(AGENT_DELETED, subject, data, agent.id)

    def _named(self, kind: EventType, subject: Subject, data: dict[str, Any], *cause: str | UUID) -> Event:
        """An event whose cause has a name of its own, and can have it but once."""
        return replace(self._unnamed(kind, subject, data), id=derived_id("event", kind.name, *cause))

    def _unnamed(self, kind: EventType, subject: Subject, data: dict[str, Any]) -> Event:
        now = self._clock.now()
        return Event(new_id(now), kind.name, now, subject, data)


async def _subject(conn: AsyncConnection, customer_id: UUID) -> Subject:
    ((*subject,),) = await (await conn.execute(_SQL.subject, {"id": customer_id})).fetchall()
    return Subject(*subject)


async def _subjects(conn: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, Subject]:
    rows = await (await conn.execute(_SQL.subjects, {"ids": UuidArray(ids)})).fetchall()
    return {subject.id: subject for subject in (Subject(*row) for row in rows)}


def _account(customer: Customer) -> dict[str, Any]:
    return {"id": str(customer.id), "name": customer.name, "email": customer.email}


def _agent(agent: Agent) -> dict[str, Any]:
    return {
        "id": str(agent.id),
        "account_id": str(agent.customer_id),
        "name": agent.name,
        "email": agent.email,
        "blocked": agent.is_blocked,
    }
