"""Accounts and agents that many ask for at once, created together: those who come meanwhile share a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar
from uuid import UUID, uuid4

from tallystick.customers import agents
from tallystick.customers.agents import Agent, NewAgent
from tallystick.customers.model import Customer, NewCustomer
from tallystick.customers.service import Customers, check_new
from tallystick.database.group_commit import GroupCommit
from tallystick.database.pool import Pool
from tallystick.kernel.errors import TallyError
from tallystick.outbox.accounts import Accounts

MAX_GROUP = 200
MAX_QUEUED = 5_000

_Wanted: TypeAlias = tuple[UUID, NewCustomer | NewAgent]
_Answer: TypeAlias = Customer | Agent | TallyError
_Created = TypeVar("_Created", Customer, Agent)


class Admissions:
    """Creates each under an id of its own, so doing it again after a crash creates nobody twice."""

    def __init__(self, pool: Pool, customers: Customers, accounts: Accounts) -> None:
        self._pool = pool
        self._customers = customers
        self._accounts = accounts
        self.group: GroupCommit[_Wanted, _Answer] = GroupCommit(
            "admissions", self._execute, max_group_weight=MAX_GROUP, max_queued_weight=MAX_QUEUED
        )

    async def account(self, new: NewCustomer, customer_id: UUID) -> Customer:
        """Creates a customer without parent and payer, and returns it once that is durable.

        Raises ``InvalidInput``, ``Conflict``, ``EmailTaken``, and what ``GroupCommit.submit`` raises.
        """
        check_new(new)
        return self._checked(await self.group.submit((customer_id, new)), Customer)

    async def agent(self, customer_id: UUID, email: str, name: str) -> Agent:
        """Creates an agent of a customer, and returns it once that is durable.

        Raises ``InvalidInput``, ``EmailTaken``, ``NotFound`` without such a customer, and what ``GroupCommit.submit``
        raises.
        """
        new = NewAgent(customer_id, email, name)
        agents.check_new(new)
        return self._checked(await self.group.submit((uuid4(), new)), Agent)

    async def _execute(self, wanted: Sequence[_Wanted]) -> list[_Answer]:
        customers = {id_: new for id_, new in wanted if isinstance(new, NewCustomer)}
        seats = {id_: new for id_, new in wanted if isinstance(new, NewAgent)}
        answers: dict[UUID, _Answer] = {}
        async with self._pool.connection() as conn, conn.transaction():
            if customers:
                answers |= await self._customers.admit(conn, customers)
            if seats:
                answers |= await self._accounts.create_agents(conn, seats)
        return [answers[id_] for id_, _ in wanted]

    @staticmethod
    def _checked(answer: _Answer, kind: type[_Created]) -> _Created:
        if isinstance(answer, kind):
            return answer
        if isinstance(answer, TallyError):
            raise answer
        raise AssertionError(f"a {kind.__name__} was wanted")
