"""Webhooks: who is told what over HTTP, and what became of it. The same routes for all of them and for a customer's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query
from pydantic import Field
from starlette.requests import Request

from tallystick.kernel.errors import InvalidInput
from tallystick.outbox.webhooks.service import (
    MAX_OVERLAP_HOURS,
    MAX_TYPES,
    DeliveryState,
    Ended,
    Endpoint,
    EndpointChange,
    NewEndpoint,
    State,
)
from tallystick.outbox.webhooks.territory import MAX_URL_CHARACTERS
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
from tallystick.web.values import Instant, Key, Text

DEFAULT_OVERLAP_HOURS = 24


async def _customer(key: Key) -> None:
    """Has the path's customer described; ``_owner`` reads it."""


router = routes_of("/webhooks", "Webhooks")
of_customers = routes_of("/customers/{key:key}/webhooks", "Webhooks")
of_customers.dependencies.append(Depends(_customer))


async def _owner(request: Request) -> str | None:
    """The customer whose own webhooks alone are meant, if the path names one."""
    key: str | None = request.path_params.get("key")
    return key


Owner = Annotated[str | None, Depends(_owner)]
Url = Annotated[str, Field(max_length=MAX_URL_CHARACTERS, pattern=r"^[!-~]+$")]
Types = Annotated[list[Key], Field(min_length=1, max_length=MAX_TYPES)]


class WebhookAsked(Asked):
    """`types` are names of events, or patterns, as `account.*`. `customer` belongs to `/api/v1/webhooks` only."""

    url: Url
    types: Types = ["*"]  # noqa: RUF012 pydantic copies it
    description: Text | None = None
    customer: Key | None = None


class WebhookChanged(Asked):
    """What is left out stays."""

    url: Url | None = None
    types: Types | None = None
    description: Text | None = None
    state: State | None = None


class WebhookShown(Shown):
    """`failing_since`: it has taken nothing since then. Until `former_until` the secret before this one signs too."""

    id: UUID
    customer: str | None
    url: str
    description: str | None
    types: list[str]
    state: State
    disabled_at: datetime | None
    disabled_because: str | None
    failing_since: datetime | None
    former_until: datetime | None
    created_at: datetime


class WebhookWithSecret(WebhookShown):
    """The secret is shown this once."""

    secret: str


class RotationAsked(Asked):
    overlap_hours: Annotated[int, Field(ge=0, le=MAX_OVERLAP_HOURS)] = DEFAULT_OVERLAP_HOURS


class DeliveryShown(Shown):
    """`status`, `duration_ms` and `error` are of the last attempt, at `tried_at`. `due_at`: when the next one is."""

    event_id: UUID
    type: str
    state: DeliveryState
    attempts: int
    told_at: datetime
    due_at: datetime | None
    tried_at: datetime | None
    status: int | None
    duration_ms: int | None
    error: str | None


class ReplayAsked(Asked):
    """One `event`; or what was told `since` an instant, of it what ended in one `state`. Then `cursor` goes on."""

    event: UUID | None = None
    since: Instant | None = None
    state: Ended | None = None
    cursor: Annotated[str | None, Field(max_length=4096)] = None


class ReplayShown(Shown):
    replayed: int
    next: str | None


class SentShown(Shown):
    event_id: UUID


@of_customers.post("", status_code=201, responses=refusals(409, body=True))
@router.post("", status_code=201, responses=refusals(409, body=True))
async def create_webhook(body: WebhookAsked, owner: Owner, service: Serving) -> WebhookWithSecret:
    """Has events sent to a URL. Its secret, with which a receiver checks who calls, is shown here and never again."""
    if owner is not None and body.customer not in (None, owner):
        raise InvalidInput("customer must be the one in the path, or left out", field="customer")
    new = NewEndpoint(body.url, body.types, body.description, owner or body.customer)
    async with transaction(service) as conn:
        if owner is not None:
            await service.customers.get(conn, owner)
        endpoint, secret = await service.webhooks.create(conn, new)
    return _with_secret(endpoint, secret)


@of_customers.get("", responses=refusals(404))
@router.get("", responses=refusals(404))
async def list_webhooks(
    owner: Owner, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[WebhookShown]:
    """Webhooks in the order in which they were made."""
    async with transaction(service) as conn:
        if owner is not None:
            await service.customers.get(conn, owner)
        page = await service.webhooks.page(conn, owner, cursor, limit)
    return Listing(items=[WebhookShown.model_validate(endpoint) for endpoint in page.items], next=page.next)


@of_customers.get("/{webhook_id}", responses=refusals(404))
@router.get("/{webhook_id}", responses=refusals(404))
async def get_webhook(webhook_id: UUID, owner: Owner, service: Serving) -> WebhookShown:
    """One webhook."""
    async with transaction(service) as conn:
        return WebhookShown.model_validate(await service.webhooks.get(conn, webhook_id, owner))


@of_customers.patch("/{webhook_id}", responses=refusals(404, body=True))
@router.patch("/{webhook_id}", responses=refusals(404, body=True))
async def change_webhook(webhook_id: UUID, body: WebhookChanged, owner: Owner, service: Serving) -> WebhookShown:
    """Changes what is given. One that is enabled again is sent what has waited for it."""
    change = EndpointChange(**body.model_dump())
    async with transaction(service) as conn:
        return WebhookShown.model_validate(await service.webhooks.change(conn, webhook_id, owner, change))


@of_customers.delete("/{webhook_id}", status_code=204, responses=refusals(404))
@router.delete("/{webhook_id}", status_code=204, responses=refusals(404))
async def delete_webhook(webhook_id: UUID, owner: Owner, service: Serving) -> None:
    """Deletes a webhook; what waits for it is not sent."""
    async with transaction(service) as conn:
        await service.webhooks.delete(conn, webhook_id, owner)


@of_customers.post("/{webhook_id}/rotate", responses=refusals(404, body=True))
@router.post("/{webhook_id}/rotate", responses=refusals(404, body=True))
async def rotate_secret(webhook_id: UUID, body: RotationAsked, owner: Owner, service: Serving) -> WebhookWithSecret:
    """Gives a webhook another secret, shown here and never again. Meanwhile both sign, for `overlap_hours`."""
    async with transaction(service) as conn:
        endpoint, secret = await service.webhooks.rotate(conn, webhook_id, owner, body.overlap_hours)
    return _with_secret(endpoint, secret)


@of_customers.get("/{webhook_id}/deliveries", responses=refusals(404))
@router.get("/{webhook_id}/deliveries", responses=refusals(404))
async def list_deliveries(
    webhook_id: UUID,
    owner: Owner,
    service: Serving,
    state: Annotated[DeliveryState | None, Query(description="Only those in this state")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[DeliveryShown]:
    """What a webhook was told, newest first, and how the last attempt went."""
    async with transaction(service) as conn:
        page = await service.webhooks.deliveries(conn, webhook_id, owner, cursor, limit, state=state)
    return Listing(items=[DeliveryShown.model_validate(delivery) for delivery in page.items], next=page.next)


@of_customers.post("/{webhook_id}/replay", responses=refusals(404, 409, body=True))
@router.post("/{webhook_id}/replay", responses=refusals(404, 409, body=True))
async def replay_deliveries(webhook_id: UUID, body: ReplayAsked, owner: Owner, service: Serving) -> ReplayShown:
    """Has one event sent once more, or all that was told since an instant, under the ids that they had."""
    if (body.event is None) == (body.since is None):
        raise InvalidInput("event or since must be given, not both", field="event")
    async with transaction(service) as conn:
        if body.event is not None:
            await service.webhooks.replay_one(conn, webhook_id, owner, body.event)
            return ReplayShown(replayed=1, next=None)
        done = await service.webhooks.replay(
            conn, webhook_id, owner, since=body.since, state=body.state, cursor=body.cursor
        )
    return ReplayShown(replayed=done.count, next=done.next)


@of_customers.post("/{webhook_id}/test", status_code=202, responses=refusals(404, 409))
@router.post("/{webhook_id}/test", status_code=202, responses=refusals(404, 409))
async def send_test(webhook_id: UUID, owner: Owner, service: Serving) -> SentShown:
    """Sends a webhook an event of the type `webhook.test`, whatever it hears of; its deliveries show how it went."""
    async with transaction(service) as conn:
        return SentShown(event_id=await service.webhooks.test(conn, webhook_id, owner))


def _with_secret(endpoint: Endpoint, secret: str) -> WebhookWithSecret:
    return WebhookWithSecret(**WebhookShown.model_validate(endpoint).model_dump(), secret=secret)
