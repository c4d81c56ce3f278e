"""What native routes share: their path, the models' strictness, decimal strings, pages, the way to the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict, WithJsonSchema
from starlette.requests import Request

from tallystick.kernel.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from tallystick.service import Service
from tallystick.web.gate import caller_of
from tallystick.web.problems import PROBLEM_JSON
from tallystick.web.routes import ExactRoute

_ALWAYS = (401, 403, 422, 503)
_OF_BODIES = (400, 413, 415)


class Asked(BaseModel):
    """The body of a request. An unknown field is refused by name, because a misspelt one must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


LEFT_OUT: Any = None
"""The default of a field that may be left out, but not be null."""


class Shown(BaseModel):
    """The body of an answer."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


DecimalText = Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^-?\d+(\.\d+)?$", "examples": ["99.75"]})]
"""An exact decimal number as text."""

Item = TypeVar("Item")


class Listing(Shown, Generic[Item]):
    """A page of a list; ``next`` is the cursor of the next one."""

    items: list[Item]
    next: str | None


def refusals(*statuses: int, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says about the refusals of a route; ``docs`` adds the shape of a problem."""
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    everything = (*statuses, *_ALWAYS, *(_OF_BODIES if body else ()))
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(everything)}


def routes_of(path: str = "", *tags: str, refused: tuple[int, ...] = ()) -> APIRouter:
    """Native routes below one path, each of which may answer ``refused`` beside what every route may answer."""
    return APIRouter(prefix=f"/api/v1{path}", tags=[*tags], route_class=ExactRoute, responses=refusals(*refused))


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
"""The service, for a route."""

Cursor = Annotated[str | None, Query(max_length=4096, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]
DEFAULT_LIMIT = DEFAULT_PAGE_SIZE


@asynccontextmanager
async def transaction(service: Service) -> AsyncIterator[AsyncConnection]:
    """A connection inside a transaction that commits when the block ends well."""
    async with service.pool.connection() as conn, conn.transaction():
        yield conn


@asynccontextmanager
async def statement(service: Service) -> AsyncIterator[AsyncConnection]:
    """A connection for one statement, which is its own transaction: one trip to the database instead of three."""
    async with service.pool.connection() as conn:
        yield conn


async def payer_of(request: Request, service: Service, conn: AsyncConnection, key: str) -> tuple[str, UUID]:
    """Key and id of whoever pays for a customer.

    Raises ``NotFound``, and ``OtherCustomer`` if the caller stands for a customer that does not pay for itself: what
    moves the payer's wallet is about others too.
    """
    customer = await service.customers.get(conn, key)
    if customer.payer is None:
        return customer.key, customer.id
    caller_of(request).need_customer(customer.payer, "payer")
    return customer.payer, (await service.customers.get(conn, customer.payer)).id
