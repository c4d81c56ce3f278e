"""Grants: credits with a category, a priority and an end, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from psycopg import AsyncConnection
from pydantic import Field
from starlette.requests import Request

from tallystick.billing.instructions import UnknownCustomer
from tallystick.kernel.ids import new_id
from tallystick.kernel.money import format_amount
from tallystick.ledger.grant_model import (
    DEFAULT_PRIORITY,
    MAX_PRIORITY,
    Category,
    CreditGrant,
    GrantCredits,
    GrantState,
    Standing,
    VoidGrant,
)
from tallystick.service import Service
from tallystick.web.native import (
    DEFAULT_LIMIT,
    Asked,
    Cursor,
    DecimalText,
    Limit,
    Listing,
    Serving,
    Shown,
    payer_of,
    refusals,
    routes_of,
    transaction,
)
from tallystick.web.values import MOVES_MONEY, Instant, Key, Microunits, Remark, Text, idempotency_key

router = routes_of("/customers", "Grants", refused=(404,))

Priority = Annotated[
    int, Field(strict=True, ge=0, le=MAX_PRIORITY, description="In the burn-down: the lowest is used first")
]
CategoryAsked = Annotated[Category, Field(description="Whether somebody paid for the credits")]


class GrantAsked(Asked):
    asset: Key
    amount: Annotated[Microunits, Field(gt=0)]
    category: CategoryAsked = "promotional"
    priority: Priority = DEFAULT_PRIORITY
    effective_at: Annotated[Instant | None, Field(description="When to give it; now if left out")] = None
    expires_at: Annotated[Instant | None, Field(description="When what is left of it is taken away")] = None
    source: Annotated[Text, Field(description="Where the credits come from: a contract, a campaign, an order")] = ""
    reason: Annotated[Remark | None, Field(description="Why they were given; shown with the transaction")] = None


class GrantBase(Shown):
    id: UUID
    customer: str
    asset: str
    amount: DecimalText
    category: Category
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    source: str
    reason: str | None
    state: GrantState
    created_at: datetime


class Granted(GrantBase):
    """A grant that was just made, with the balance after it."""

    balance: DecimalText


class GrantShown(GrantBase):
    """A grant and what became of it: once it has come in, the last four add up to its amount."""

    used: DecimalText
    remaining: DecimalText
    expired: DecimalText
    voided: DecimalText


State = Annotated[GrantState | None, Query(description="Only grants in this state")]


@router.post(
    "/{key:key}/grants", status_code=201, responses=refusals(404, 409, 429, body=True), openapi_extra=MOVES_MONEY
)
async def grant(key: Key, body: GrantAsked, request: Request, service: Serving) -> Granted:
    """Gives credits to a customer; they go to the wallet of whoever pays for it, and repay arrears first.

    Grants are used in the order of priority, then expiry, then age.
    """
    async with transaction(service) as conn:
        asset = await service.assets.get(conn, body.asset)
        if not await service.customers.find(conn, [key]):
            raise UnknownCustomer(f"there is no customer {key!r}", field="key")
    order = GrantCredits(
        id=new_id(service.clock.now()),
        customer=key,
        ledger=asset.ledger,
        amount=body.amount,
        category=body.category,
        priority=body.priority,
        effective_at=body.effective_at,
        expires_at=body.expires_at,
        source=body.source,
        reason=body.reason,
        idempotency_key=idempotency_key(request),
    )
    given, balance = await service.grants.give(order)
    return Granted(**_base(given, key, {asset.ledger: asset.code}), balance=format_amount(balance))


@router.get("/{key:key}/grants")
async def list_grants(
    key: Key,
    request: Request,
    service: Serving,
    state: State = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[GrantShown]:
    """Grants in the wallets of whoever pays for a customer, newest first, with what is left of each.

    Top-ups are grants too.
    """
    async with transaction(service) as conn:
        _, payer_id = await payer_of(request, service, conn, key)
        page = await service.grants.page(conn, payer_id, state, cursor, limit)
        codes = await _codes(conn, service)
    return Listing(items=[_shown(standing, key, codes) for standing in page.items], next=page.next)


@router.get("/{key:key}/grants/{grant_id}")
async def get_grant(key: Key, grant_id: UUID, request: Request, service: Serving) -> GrantShown:
    """One grant, with what is left of it."""
    async with transaction(service) as conn:
        _, payer_id = await payer_of(request, service, conn, key)
        standing = await service.grants.get(conn, payer_id, grant_id)
        return _shown(standing, key, await _codes(conn, service))


@router.delete("/{key:key}/grants/{grant_id}", responses=refusals(404, 409, 429), openapi_extra=MOVES_MONEY)
async def void_grant(key: Key, grant_id: UUID, request: Request, service: Serving) -> GrantShown:
    """Takes back what is left of a grant, or what is to come of a scheduled one. What was used stays used.

    What is held is taken when it is free again. Voiding a voided grant answers the same; an expired one gets 409.
    """
    order = VoidGrant(
        id=new_id(service.clock.now()), customer=key, grant_id=grant_id, idempotency_key=idempotency_key(request)
    )
    standing = await service.grants.void(order)
    async with transaction(service) as conn:
        return _shown(standing, key, await _codes(conn, service))


async def _codes(conn: AsyncConnection, service: Service) -> dict[int, str]:
    return {asset.ledger: code for code, asset in (await service.assets.all(conn)).items()}


def _base(grant: CreditGrant, key: str, codes: Mapping[int, str]) -> dict[str, Any]:
    return {
        "id": grant.id,
        "customer": key,
        "asset": codes[grant.ledger],
        "amount": format_amount(grant.amount),
        "category": grant.category,
        "priority": grant.priority,
        "effective_at": grant.effective_at,
        "expires_at": grant.expires_at,
        "source": grant.source,
        "reason": grant.reason,
        "state": grant.state,
        "created_at": grant.created_at,
    }


def _shown(standing: Standing, key: str, codes: Mapping[int, str]) -> GrantShown:
    return GrantShown(
        **_base(standing.grant, key, codes),
        used=format_amount(standing.used),
        remaining=format_amount(standing.remaining),
        expired=format_amount(standing.taken if standing.grant.state == "expired" else 0),
        voided=format_amount(standing.taken if standing.grant.state == "voided" else 0),
    )
