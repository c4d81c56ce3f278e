"""Tiers and agreements: named grants, and the periods for which customers have them."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from tallystick.billing.agreements import (
    Agreement,
    AgreementState,
    EndAgreement,
    MakeAgreement,
    Tier,
    midnight,
)
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.ids import new_id
from tallystick.kernel.money import CREDIT, format_amount
from tallystick.ledger.grant_model import DEFAULT_PRIORITY
from tallystick.metering.charges import BEGINNING, END
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
    refusals,
    routes_of,
    transaction,
)
from tallystick.web.native_grants import CategoryAsked, Priority
from tallystick.web.values import MOVES_MONEY, Instant, Key, Microunits, idempotency_key

router = routes_of()


# Tiers


class TierAsked(Asked):
    credits: Annotated[Microunits, Field(gt=0, description="How much it grants")]
    asset: Key = CREDIT
    category: CategoryAsked = "promotional"
    priority: Priority = DEFAULT_PRIORITY


class TierShown(Shown):
    name: str
    credits: DecimalText
    asset: str
    category: CategoryAsked
    priority: int
    created_at: datetime


@router.put("/tiers/{name:key}", tags=["Agreements"], responses=refusals(body=True))
async def put_tier(name: Key, body: TierAsked, service: Serving) -> TierShown:
    """Creates or changes a tier. Agreements that have started keep what they were granted."""
    async with transaction(service) as conn:
        tier = await service.tiers.put(conn, name, body.asset, body.credits, body.category, body.priority)
    return _tier(tier)


@router.get("/tiers/{name:key}", tags=["Agreements"], responses=refusals(404))
async def get_tier(name: Key, service: Serving) -> TierShown:
    """One tier."""
    async with transaction(service) as conn:
        return _tier(await service.tiers.get(conn, name))


@router.get("/tiers", tags=["Agreements"])
async def list_tiers(service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Listing[TierShown]:
    """Tiers in the order of their names."""
    async with transaction(service) as conn:
        page = await service.tiers.page(conn, cursor, limit)
    return Listing(items=[_tier(tier) for tier in page.items], next=page.next)


def _tier(tier: Tier) -> TierShown:
    return TierShown(
        name=tier.name,
        credits=format_amount(tier.credits),
        asset=tier.asset,
        category=tier.category,
        priority=tier.priority,
        created_at=tier.created_at,
    )


# Agreements

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


def _day_or_instant(value: object) -> date:
    try:
        if isinstance(value, str) and _DAY.fullmatch(value):
            if BEGINNING.date() < (day := date.fromisoformat(value)) < END.date():
                return day
        else:
            return _INSTANT.validate_python(value)
    except (ValueError, ValidationError):
        pass
    raise PydanticCustomError(
        InvalidInput.code, "must be a day, as 2026-01-31, or an RFC 3339 instant with a zone, as 2026-01-31T23:59:59Z"
    )


DayOrInstant = Annotated[
    Any,
    BeforeValidator(_day_or_instant),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]}),
]
"""A ``date``, or a ``datetime``."""


class AgreementAsked(Asked):
    tier: Key
    start: Annotated[DayOrInstant, Field(description="A day begins at midnight in the business zone")]
    end: Annotated[DayOrInstant, Field(description="Not in the period any more: as a day, the first one after it")]


class AgreementChanged(Asked):
    end: Annotated[DayOrInstant, Field(description="Not before now; as a day, the first one after the period")]


class AgreementShown(Shown):
    """A tier for a customer, for a period. `grant` is there once it has started."""

    id: UUID
    customer: str
    tier: str
    start: datetime
    end: datetime
    state: AgreementState
    grant: UUID | None
    created_at: datetime


@router.post(
    "/customers/{key:key}/agreements",
    status_code=201,
    tags=["Agreements"],
    responses=refusals(404, 409, 429, body=True),
    openapi_extra=MOVES_MONEY,
)
async def make_agreement(key: Key, body: AgreementAsked, request: Request, service: Serving) -> AgreementShown:
    """Agrees on a tier for a customer: it is granted at the start, and what is left of it expires at the end.

    The period is half open. One that has begun already is granted at once.
    """
    order = MakeAgreement(
        id=new_id(service.clock.now()),
        customer=key,
        tier=body.tier,
        starts_at=_instant(service, body.start),
        ends_at=_instant(service, body.end),
        idempotency_key=idempotency_key(request),
    )
    return _agreement(*await service.agreements.carry_out(order), key)


@router.get("/customers/{key:key}/agreements", tags=["Agreements"], responses=refusals(404))
async def list_agreements(
    key: Key, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[AgreementShown]:
    """Agreements of a customer, newest first."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        page = await service.agreements.page(conn, customer.id, cursor, limit)
    now = service.clock.now()
    return Listing(items=[_agreement(agreement, now, key) for agreement in page.items], next=page.next)


@router.get("/customers/{key:key}/agreements/{agreement_id}", tags=["Agreements"], responses=refusals(404))
async def get_agreement(key: Key, agreement_id: UUID, service: Serving) -> AgreementShown:
    """One agreement of a customer."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        agreement = await service.agreements.get(conn, customer.id, agreement_id)
    return _agreement(agreement, service.clock.now(), key)


@router.patch(
    "/customers/{key:key}/agreements/{agreement_id}",
    tags=["Agreements"],
    responses=refusals(404, 409, 429, body=True),
    openapi_extra=MOVES_MONEY,
)
async def end_agreement(
    key: Key, agreement_id: UUID, body: AgreementChanged, request: Request, service: Serving
) -> AgreementShown:
    """Moves the end of an agreement that has not ended: earlier, but not before now, or later.

    One that has not started and is ended at its start grants nothing.
    """
    order = EndAgreement(
        id=new_id(service.clock.now()),
        customer=key,
        agreement_id=agreement_id,
        ends_at=_instant(service, body.end),
        idempotency_key=idempotency_key(request),
    )
    return _agreement(*await service.agreements.carry_out(order), key)


def _instant(service: Service, value: date) -> datetime:
    return value if isinstance(value, datetime) else midnight(value, service.settings.zone)


def _agreement(agreement: Agreement, now: datetime, key: str) -> AgreementShown:
    return AgreementShown(
        id=agreement.id,
        customer=key,
        tier=agreement.tier,
        start=agreement.starts_at,
        end=agreement.ends_at,
        state=agreement.state(now),
        grant=agreement.grant_id,
        created_at=agreement.created_at,
    )
