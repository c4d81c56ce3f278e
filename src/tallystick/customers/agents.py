"""Agents: the seats and machine identities of customers, and blocking one so that it causes no further charges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from tallystick.customers.service import EmailTaken, check_email
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import NotFound, TallyError
from tallystick.kernel.ids import NIL
from tallystick.kernel.paging import Page, foreign_cursor, next_cursor, read_cursor
from tallystick.kernel.text import check_key

_SQL = Queries(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class Agent:
    """A seat or machine of a customer. Its e-mail belongs to no other agent, in whatever case it is written."""

    id: UUID
    customer_id: UUID
    email: str
    name: str
    blocked_at: datetime | None
    created_at: datetime

    @property
    def is_blocked(self) -> bool:
        return self.blocked_at is not None


@dataclass(frozen=True, slots=True)
class NewAgent:
    """What is asked for when an agent is created."""

    customer_id: UUID
    email: str
    name: str


def check_new(new: NewAgent) -> None:
    """Raises ``InvalidInput`` for a field that breaks its rule, whoever else there is."""
    check_email(new.email)
    check_key(new.name, "name")


class Agents:
    """Works in the caller's transaction.

    Whoever blocks, renames or deletes agents must keep usage waiting meanwhile (``Pricing.change``): intake remembers
    who is blocked.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def admit(self, conn: AsyncConnection, new: Mapping[UUID, NewAgent]) -> dict[UUID, Agent | TallyError]:
        """Creates many agents under these ids, or says why not. They were checked (``check_new``).

        Repeating it answers the same. ``EmailTaken``, or ``NotFound`` if the customer is gone.
        """
        parameters = {
            "ids": list(new),
            "customer_ids": [each.customer_id for each in new.values()],
            "emails": [each.email for each in new.values()],
            "names": [each.name for each in new.values()],
            "now": self._clock.now(),
        }
        await conn.execute(_SQL.insert, parameters)
        rows = await (await conn.execute(_SQL.by_ids, {"ids": list(new)})).fetchall()
        stand = {agent.id: agent for agent in (Agent(*row) for row in rows)}
        return {id_: stand.get(id_) or await self._refusal(conn, each) for id_, each in new.items()}

    async def get(self, conn: AsyncConnection, agent_id: UUID) -> Agent:
        """Raises ``NotFound``."""
        return await self._one(conn, _SQL.get, agent_id, id=agent_id)

    async def find(self, conn: AsyncConnection, email: str) -> Agent:
        """The agent with this e-mail, in whatever case. Raises ``NotFound``."""
        return await self._one(conn, _SQL.by_email, email, email=check_key(email, "email"))

    async def page(
        self, conn: AsyncConnection, skip: int, limit: int, customer_id: UUID | None = None
    ) -> tuple[list[Agent], int]:
        """Agents of one customer, or of all, by name; and how many there are."""
        wanted = {"customer_id": customer_id}
        ((total,),) = await (await conn.execute(_SQL.count, wanted)).fetchall()
        rows = await conn.execute(_SQL.page, {"skip": min(skip, total), "limit": limit, **wanted})
        return [Agent(*row) for row in await rows.fetchall()], total

    async def of_customer(
        self, conn: AsyncConnection, customer_id: UUID, cursor: str | None, limit: int
    ) -> Page[Agent]:
        """Agents of one customer in the order of their names. Raises ``InvalidInput`` for a strange cursor."""
        after_name, after_id = read_cursor(cursor, 2) or ("", str(NIL))
        try:
            after = {"after_name": after_name, "after_id": UUID(after_id)}
        except ValueError:
            raise foreign_cursor() from None
        rows = await conn.execute(_SQL.of_customer, {"customer_id": customer_id, "limit": limit + 1, **after})
        agents = [Agent(*row) for row in await rows.fetchall()]
        shown, more = agents[:limit], len(agents) > limit
        return Page(shown, next_cursor(shown[-1].name, str(shown[-1].id)) if more else None)

    async def change(self, conn: AsyncConnection, agent_id: UUID, email: str | None, name: str | None) -> Agent:
        """Changes what is given. Raises ``InvalidInput``, ``NotFound``, ``EmailTaken``."""
        agent = await self.get(conn, agent_id)
        fields = {
            "email": agent.email if email is None else check_email(email),
            "name": agent.name if name is None else check_key(name, "name"),
        }
        try:
            async with conn.transaction():
                return await self._one(conn, _SQL.change, agent_id, id=agent_id, **fields)
        except UniqueViolation:
            raise _taken(fields["email"]) from None

    async def block(self, conn: AsyncConnection, agent_id: UUID) -> Agent:
        """From now on what it uses is kept and not charged. Raises ``NotFound``."""
        return await self._one(conn, _SQL.block, agent_id, id=agent_id, now=self._clock.now())

    async def unblock(self, conn: AsyncConnection, agent_id: UUID) -> Agent:
        """From now on what it uses is charged again. Raises ``NotFound``."""
        return await self._one(conn, _SQL.unblock, agent_id, id=agent_id)

    async def delete(self, conn: AsyncConnection, agent_id: UUID) -> Agent | None:
        """The agent that was, or ``None`` if there was none. What it has used stays."""
        row = await (await conn.execute(_SQL.delete, {"id": agent_id})).fetchone()
        return Agent(*row) if row else None

    async def delete_all(self, conn: AsyncConnection, customer_ids: list[UUID] | None) -> list[Agent]:
        """Deletes the agents of these customers, or of all."""
        rows = await conn.execute(_SQL.delete_of_customers, {"customer_ids": customer_ids})
        return [Agent(*row) for row in await rows.fetchall()]

    async def _refusal(self, conn: AsyncConnection, new: NewAgent) -> TallyError:
        if await (await conn.execute(_SQL.has_customer, {"customer_id": new.customer_id})).fetchone():
            return _taken(new.email)
        return NotFound(f"there is no customer {new.customer_id}", field="customer")

    async def _one(self, conn: AsyncConnection, query: str, named: object, **parameters: Any) -> Agent:
        row = await (await conn.execute(query, parameters)).fetchone()
        if row is None:
            raise NotFound(f"there is no agent {str(named)!r}", field="agent")
        return Agent(*row)


class AgentBlocked(TallyError):
    """The agent for whom something is asked may not use anything."""

    code = "agent_blocked"
    status = 403


async def refuse_blocked(conn: AsyncConnection, name: str) -> None:
    """Raises ``AgentBlocked`` if the agent of this e-mail or id is blocked."""
    if await (await conn.execute(_SQL.is_blocked, {"name": check_key(name, "agent").lower()})).fetchone():
        raise AgentBlocked(f"agent {name!r} is blocked", field="agent")


async def blocked_agents(conn: AsyncConnection) -> frozenset[str]:
    """What usage may call agents that are blocked: their ids, and their e-mails in lower case."""
    rows = await (await conn.execute(_SQL.blocked)).fetchall()
    return frozenset(name for row in rows for name in row)


def _taken(email: str) -> EmailTaken:
    return EmailTaken(f"email is already used by another agent: {email!r}", field="email")
