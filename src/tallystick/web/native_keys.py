"""Keys: made, listed, revoked and rotated by administrators. The text of a key is in one answer, and never again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tallystick.access.callers import Caller, Scope
from tallystick.access.model import DEFAULT_OVERLAP, MAX_LIFE, MAX_OVERLAP, MAX_REQUESTS_PER_MINUTE, NewKey
from tallystick.access.service import Made
from tallystick.web.gate import caller_of
from tallystick.web.native import (
    DEFAULT_LIMIT,
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

router = routes_of("/keys", "Keys")

_SECOND = timedelta(seconds=1)

MAX_SCOPES = len(Scope)
"""Named once each."""


class KeyAsked(Asked):
    name: Annotated[Key, Field(description="What people call it")]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=MAX_SCOPES)]
    customer: Annotated[Key | None, Field(description="Whose key it is; an operator's if nobody is named")] = None
    agent: Annotated[Key | None, Field(description="E-mail or id of the agent whose key it is")] = None
    expires_in: Annotated[
        int | None,
        Field(strict=True, ge=1, le=MAX_LIFE // _SECOND, description="Seconds; without it, it works until revoked"),
    ] = None
    requests_per_minute: Annotated[
        int | None,
        Field(strict=True, ge=1, le=MAX_REQUESTS_PER_MINUTE, description="If left out, what the service allows any"),
    ] = None


class RotationAsked(Asked):
    overlap: Annotated[
        int,
        Field(strict=True, ge=0, le=MAX_OVERLAP // _SECOND, description="Seconds during which the old key still works"),
    ] = DEFAULT_OVERLAP // _SECOND


class KeyShown(Shown):
    """A key without its secret. `last_used_at` is late by up to a minute."""

    id: UUID
    prefix: str
    name: str
    customer: str | None
    agent_id: UUID | None
    scopes: list[Scope]
    requests_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    replaced_by: UUID | None


class KeyMade(KeyShown):
    key: Annotated[str, Field(description="The key itself. It is kept nowhere, and shown this once")]


@router.post("", status_code=201, responses=refusals(body=True))
async def create_key(body: KeyAsked, request: Request, service: Serving, response: Response) -> KeyMade:
    """Makes a key: of a customer, which sees and sends what is its own; of its agent; or of an operator.

    Keys of customers and agents may have the scopes `usage:write`, `billing:read`, `billing:charge` and
    `customers:write`. Nobody makes a key that may do more than the key with which it is asked for.
    """
    _need_all(caller_of(request), body.scopes)
    new = NewKey(
        body.name,
        body.scopes,
        body.customer,
        body.agent,
        None if body.expires_in is None else timedelta(seconds=body.expires_in),
        body.requests_per_minute,
    )
    async with transaction(service) as conn:
        made = await service.access.keys.create(conn, new)
    return _made(made, response)


@router.get("")
async def list_keys(
    service: Serving, customer: Key | None = None, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[KeyShown]:
    """Keys, newest first, with those that have ended: all of them, or those of a customer and its agents."""
    async with transaction(service) as conn:
        page = await service.access.keys.page(conn, cursor, limit, customer=customer)
    return Listing(items=[KeyShown.model_validate(key) for key in page.items], next=page.next)


@router.get("/{key_id}", responses=refusals(404))
async def get_key(key_id: UUID, service: Serving) -> KeyShown:
    """One key."""
    async with transaction(service) as conn:
        return KeyShown.model_validate(await service.access.keys.get(conn, key_id))


@router.delete("/{key_id}", responses=refusals(404))
async def revoke_key(key_id: UUID, service: Serving) -> KeyShown:
    """Ends a key for good; one that has been revoked stays as it is. It is listed on, for whoever asks later."""
    async with transaction(service) as conn:
        return KeyShown.model_validate(await service.access.keys.revoke(conn, key_id))


@router.post("/{key_id}/rotate", status_code=201, responses=refusals(404, 409, body=True))
async def rotate_key(
    key_id: UUID, body: RotationAsked, request: Request, service: Serving, response: Response
) -> KeyMade:
    """Makes a key with the same rights, which whoever asks must have. The old one ends after the overlap.

    A key has one successor: rotating it again gets 409 `key_ended`, until the successor is revoked.
    """
    async with transaction(service) as conn:
        _need_all(caller_of(request), (await service.access.keys.get(conn, key_id)).scopes)
        made = await service.access.keys.rotate(conn, key_id, timedelta(seconds=body.overlap))
    return _made(made, response)


def _need_all(caller: Caller, scopes: Sequence[Scope]) -> None:
    """Raises ``ScopeRequired`` for one that the caller lacks."""
    for scope in scopes:
        caller.need(scope)


def _made(made: Made, response: Response) -> KeyMade:
    response.headers["Cache-Control"] = "no-store"
    return KeyMade(**KeyShown.model_validate(made.key).model_dump(), key=made.text)
