"""The surface of the account management: accounts and their agents.

An account is a customer whose key is its id; customers that were made elsewhere are accounts too, without an e-mail
until they have one. Deleting one forgets what is personal; its ledger stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Path, Query, Response
from psycopg import AsyncConnection
from pydantic import BaseModel

from tallystick.customers.agents import Agent
from tallystick.customers.model import DEFAULT_REGION, Customer, CustomerChange, NewCustomer, Region
from tallystick.customers.service import EmailTaken
from tallystick.kernel.errors import NotFound, TallyError
from tallystick.service import Service
from tallystick.web.details import details
from tallystick.web.native import Serving, statement, transaction
from tallystick.web.routes import ExactRoute
from tallystick.web.values import Key

MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 500
MAX_PAGE = 2**53 - 1
"""The highest page that is asked for: the greatest number that every reader of JSON knows."""
MAX_AGENTS_OF_REPORT = 10_000
"""Agents that the report of one account lists; further ones are on pages."""

router = APIRouter(tags=["Account management"], route_class=ExactRoute)


class BadAccount(TallyError):
    """What that surface answers with 400."""

    code = "bad_account"
    status = 400


class NewAccount(BaseModel):
    name: Key
    email: Key
    region: Region = DEFAULT_REGION
    vip: bool = False


class AccountChange(BaseModel):
    """What is left out stays as it is."""

    name: Key | None = None
    email: Key | None = None
    region: Region | None = None
    vip: bool | None = None


class NewAgent(BaseModel):
    name: Key
    email: Key


class AgentChange(BaseModel):
    """What is left out stays as it is."""

    name: Key | None = None
    email: Key | None = None


class AccountShown(BaseModel):
    id: UUID
    name: str
    email: str | None
    region: Region
    vip: bool


class AgentShown(BaseModel):
    id: UUID
    name: str
    email: str
    blocked: bool
    account_id: UUID


class Report(AccountShown):
    agents: list[AgentShown]


class AccountPage(BaseModel):
    items: list[AccountShown]
    total: int
    page: int
    size: int


class AgentPage(BaseModel):
    items: list[AgentShown]
    total: int
    page: int
    size: int


class Greeting(BaseModel):
    msg: str


PageNumber = Annotated[int, Query(ge=1, le=MAX_PAGE)]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]


def _refuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return details(*statuses, 400, 415)


_NONE: dict[int | str, dict[str, Any]] = {204: {"description": "There is none"}}


@router.get("/")
async def greet() -> Greeting:
    """Says that somebody is there."""
    return Greeting(msg="Hello my friend !")


# Accounts


@router.get("/accounts", responses=_refuses())
async def list_accounts(service: Serving, page: PageNumber = 1, size: PageSize = DEFAULT_PAGE_SIZE) -> AccountPage:
    """Accounts in the order of their names."""
    async with transaction(service) as conn:
        customers, total = await service.customers.by_name(conn, (page - 1) * size, size)
    return AccountPage(items=[_account(customer) for customer in customers], total=total, page=page, size=size)


@router.get("/accounts/{account_id}", responses=_refuses(404))
async def get_account(account_id: UUID, service: Serving) -> AccountShown:
    """One account."""
    async with statement(service) as conn:
        return _account(await _account_of(service, conn, account_id))


@router.post("/accounts", responses=_refuses())
async def create_account(body: NewAccount, service: Serving) -> AccountShown:
    """Creates an account. Its id is also its key as a customer."""
    account_id = uuid4()
    new = NewCustomer(str(account_id), body.name, body.email, region=body.region, vip=body.vip)
    try:
        return _account(await service.admissions.account(new, account_id))
    except EmailTaken:
        raise BadAccount("E-mail already used", field="email") from None


@router.put("/accounts/{account_id}", responses=_refuses(404))
async def change_account(account_id: UUID, body: AccountChange, service: Serving) -> AccountShown:
    """Changes what is given of an account."""
    try:
        async with transaction(service) as conn:
            key = (await _account_of(service, conn, account_id)).key
            return _account(await service.accounts.change(conn, key, CustomerChange(**body.model_dump())))
    except EmailTaken:
        raise BadAccount("E-mail already used", field="email") from None


@router.delete(
    "/accounts/{account_id}",
    status_code=202,
    response_class=Response,
    responses={204: {"description": "There is none"}, **_refuses()},
)
async def delete_account(account_id: UUID, service: Serving) -> Response:
    """Deletes an account and its agents. What it used and paid stays in the books."""
    async with transaction(service) as conn:
        deleted = await service.accounts.delete(conn, account_id)
    return Response(status_code=202 if deleted else 204)


@router.post("/accounts/generate_company_raport/{account_id}", responses=_refuses(404))
@router.post("/accounts/generate_company_report/{account_id}", responses=_refuses(404))
async def report_account(account_id: UUID, service: Serving) -> Report:
    """An account with its agents."""
    async with transaction(service) as conn:
        account = _account(await _account_of(service, conn, account_id))
        agents, _ = await service.agents.page(conn, 0, MAX_AGENTS_OF_REPORT, account_id)
    return Report(**account.model_dump(), agents=[_agent(agent) for agent in agents])


@router.post("/accounts/clear", status_code=202, response_class=Response, responses=_refuses())
@router.post("/dev/erase_db", status_code=202, response_class=Response, responses=_refuses())
async def erase_accounts(service: Serving) -> Response:
    """Deletes all accounts and agents. The books stay, under ids that name nobody."""
    async with transaction(service) as conn:
        await service.accounts.erase(conn)
    return Response(status_code=202)


# Agents


@router.get("/accounts/{account_id}/agents", responses=_refuses())
async def list_agents_of_account(
    account_id: UUID, service: Serving, page: PageNumber = 1, size: PageSize = DEFAULT_PAGE_SIZE
) -> AgentPage:
    """Agents of one account, in the order of their names."""
    return await _agents(service, page, size, account_id)


@router.get("/agents", responses=_refuses())
async def list_agents(service: Serving, page: PageNumber = 1, size: PageSize = DEFAULT_PAGE_SIZE) -> AgentPage:
    """Agents of all accounts, in the order of their names."""
    return await _agents(service, page, size, None)


@router.get("/accounts/{account_id}/agents/{agent_id}", responses=_refuses(404))
async def get_agent(account_id: UUID, agent_id: UUID, service: Serving) -> AgentShown:
    """One agent of an account."""
    async with statement(service) as conn:
        return _agent(await _agent_of(service, conn, account_id, agent_id))


@router.post("/accounts/{account_id}/agents", responses=_refuses(404))
async def create_agent(account_id: UUID, body: NewAgent, service: Serving) -> AgentShown:
    """Creates an agent of an account."""
    try:
        return _agent(await service.admissions.agent(account_id, body.email, body.name))
    except EmailTaken:
        raise _email_used(body.email) from None
    except NotFound:
        raise _no_account(account_id) from None


@router.put("/accounts/{account_id}/agents/{agent_id}", responses=_refuses(404))
async def change_agent(account_id: UUID, agent_id: UUID, body: AgentChange, service: Serving) -> AgentShown:
    """Changes what is given of an agent."""
    try:
        async with transaction(service) as conn:
            await _agent_of(service, conn, account_id, agent_id)
            return _agent(await service.accounts.change_agent(conn, agent_id, body.email, body.name))
    except EmailTaken:
        raise _email_used(body.email or "") from None


@router.delete(
    "/accounts/{account_id}/agents/{agent_id}",
    status_code=202,
    response_class=Response,
    responses=_NONE | _refuses(),
)
async def delete_agent(account_id: UUID, agent_id: UUID, service: Serving) -> Response:
    """Deletes an agent of an account."""
    async with transaction(service) as conn:
        agent = await service.accounts.delete_agent(conn, agent_id)
        if agent is not None and agent.customer_id != account_id:
            raise BadAccount(f"Agent {agent_id} belongs to another account", field="agent_id")
    return Response(status_code=202 if agent else 204)


@router.post("/agents/clear", status_code=202, response_class=Response, responses=_refuses())
async def erase_agents(service: Serving) -> Response:
    """Deletes all agents of all accounts."""
    async with transaction(service) as conn:
        await service.accounts.erase_agents(conn)
    return Response(status_code=202)


@router.post("/agents/find_agent/{email:key}", responses=_refuses(404))
async def find_agent(email: Annotated[Key, Path()], service: Serving) -> AgentShown:
    """The agent with this e-mail, in whatever case it is written."""
    async with statement(service) as conn:
        try:
            return _agent(await service.agents.find(conn, email))
        except NotFound:
            raise NotFound(f"Agent {email} not found", field="email") from None


@router.post("/agents/block_agent/{agent_id}", status_code=202, response_class=Response, responses=_refuses(404))
async def block_agent(agent_id: UUID, service: Serving) -> Response:
    """From now on what the agent uses is kept and not charged."""
    return await _done_to(agent_id, service, service.accounts.block)


@router.post("/agents/unblock_agent/{agent_id}", status_code=202, response_class=Response, responses=_refuses(404))
async def unblock_agent(agent_id: UUID, service: Serving) -> Response:
    """From now on what the agent uses is charged again."""
    return await _done_to(agent_id, service, service.accounts.unblock)


async def _done_to(
    agent_id: UUID, service: Service, done: Callable[[AsyncConnection, UUID], Awaitable[Agent]]
) -> Response:
    try:
        async with transaction(service) as conn:
            await done(conn, agent_id)
    except NotFound:
        raise _no_agent(agent_id) from None
    return Response(status_code=202)


async def _account_of(service: Service, conn: AsyncConnection, account_id: UUID) -> Customer:
    try:
        return await service.customers.of_id(conn, account_id)
    except NotFound:
        raise _no_account(account_id) from None


async def _agent_of(service: Service, conn: AsyncConnection, account_id: UUID, agent_id: UUID) -> Agent:
    try:
        agent = await service.agents.get(conn, agent_id)
    except NotFound:
        raise _no_agent(agent_id) from None
    if agent.customer_id != account_id:
        raise _no_agent(agent_id)
    return agent


async def _agents(service: Service, page: int, size: int, account_id: UUID | None) -> AgentPage:
    async with transaction(service) as conn:
        agents, total = await service.agents.page(conn, (page - 1) * size, size, account_id)
    return AgentPage(items=[_agent(agent) for agent in agents], total=total, page=page, size=size)


def _no_account(account_id: UUID) -> NotFound:
    return NotFound(f"Account {account_id} not found", field="account_id")


def _no_agent(agent_id: UUID) -> NotFound:
    return NotFound(f"Agent {agent_id} not found", field="agent_id")


def _email_used(email: str) -> BadAccount:
    return BadAccount(f"E-mail {email} is already used", field="email")


def _account(customer: Customer) -> AccountShown:
    return AccountShown(
        id=customer.id,
        name=customer.name or customer.key,
        email=customer.email,
        region=customer.region,
        vip=customer.vip,
    )


def _agent(agent: Agent) -> AgentShown:
    return AgentShown(
        id=agent.id, name=agent.name, email=agent.email, blocked=agent.is_blocked, account_id=agent.customer_id
    )
