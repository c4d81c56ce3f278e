"""Holds: credits reserved for something whose cost is not known yet, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query
from pydantic import Field
from starlette.requests import Request

from tallystick.customers.agents import refuse_blocked
from tallystick.kernel.ids import new_id
from tallystick.kernel.money import CREDIT, format_amount
from tallystick.ledger.hold_model import (
    DEFAULT_SECONDS,
    MAX_SECONDS,
    MIN_SECONDS,
    Hold,
    HoldState,
    OnExcess,
    PlaceHold,
    ReleaseHold,
    SettleHold,
)
from tallystick.service import Service
from tallystick.web.gate import caller_of
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
from tallystick.web.values import MOVES_MONEY, Key, Microunits, Remark, idempotency_key

router = routes_of("/customers", "Holds", refused=(404,))


class HoldAsked(Asked):
    amount: Annotated[Microunits, Field(gt=0, description="How much to reserve")]
    asset: Annotated[Key, Field(description="What to reserve it of")] = CREDIT
    expires_in: Annotated[
        int,
        Field(
            strict=True,
            ge=MIN_SECONDS,
            le=MAX_SECONDS,
            description="Seconds after which it is released by itself",
        ),
    ] = DEFAULT_SECONDS
    description: Annotated[Remark | None, Field(description="What it is for; settling it is described by it")] = None
    agent: Annotated[Key | None, Field(description="E-mail or id of who asks; a blocked one is refused with 403")] = (
        None
    )


class SettlementAsked(Asked):
    amount: Annotated[Microunits, Field(gt=0, description="What it came to")]
    on_excess: Annotated[
        OnExcess,
        Field(
            description="If that is more than is held: `charge` takes the rest as well, as usage that has happened, "
            "and a prepaid wallet without enough owes it; `refuse` settles nothing and answers 422 `exceeds_hold`"
        ),
    ] = "charge"


class HoldShown(Shown):
    """A hold. `settled_amount` was taken of it when it was settled, `excess` was charged besides."""

    id: UUID
    customer: str
    asset: str
    amount: DecimalText
    state: HoldState
    description: str | None
    settled_amount: DecimalText
    excess: DecimalText
    created_at: datetime
    expires_at: datetime
    closed_at: datetime | None


State = Annotated[HoldState | None, Query(description="Only holds in this state")]


@router.post(
    "/{key:key}/holds",
    status_code=201,
    responses=refusals(402, 403, 404, 409, 429, body=True),
    openapi_extra=MOVES_MONEY,
)
async def place_hold(key: Key, body: HoldAsked, request: Request, service: Serving) -> HoldShown:
    """Reserves credits in the wallet of whoever pays for the customer: all of the amount, or nothing and 402.

    What is held still belongs to the balance, but is not available to anything else.
    """
    async with transaction(service) as conn:
        asset = await service.assets.get(conn, body.asset)
        agent = caller_of(request).agent(body.agent)
        if agent is not None:
            await refuse_blocked(conn, agent)
    order = PlaceHold(
        id=new_id(service.clock.now()),
        customer=key,
        ledger=asset.ledger,
        amount=body.amount,
        expires_in_seconds=body.expires_in,
        description=body.description,
        idempotency_key=idempotency_key(request),
    )
    return _shown(await service.holds.carry_out(order), key, {asset.ledger: asset.code})


@router.get("/{key:key}/holds")
async def list_holds(
    key: Key, service: Serving, state: State = None, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[HoldShown]:
    """Holds of a customer, newest first."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        page = await service.holds.page(conn, customer.id, state, cursor, limit)
        codes = {asset.ledger: code for code, asset in (await service.assets.all(conn)).items()}
    return Listing(items=[_shown(hold, key, codes) for hold in page.items], next=page.next)


@router.get("/{key:key}/holds/{hold_id}")
async def get_hold(key: Key, hold_id: UUID, service: Serving) -> HoldShown:
    """One hold of a customer."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        hold = await service.holds.get(conn, customer.id, hold_id)
    return await _with_asset(service, hold, key)


@router.post(
    "/{key:key}/holds/{hold_id}/settle", responses=refusals(404, 409, 429, body=True), openapi_extra=MOVES_MONEY
)
async def settle_hold(key: Key, hold_id: UUID, body: SettlementAsked, request: Request, service: Serving) -> HoldShown:
    """Takes what something came to; the rest of the hold is available again.

    A hold is closed once. Settling it again with the same amount answers the same; anything else gets 409, whose code
    says what it is: `hold_settled`, `hold_released` or `hold_expired`.
    """
    order = SettleHold(
        id=new_id(service.clock.now()),
        customer=key,
        hold_id=hold_id,
        amount=body.amount,
        on_excess=body.on_excess,
        idempotency_key=idempotency_key(request),
    )
    return await _with_asset(service, await service.holds.carry_out(order), key)


@router.delete("/{key:key}/holds/{hold_id}", responses=refusals(404, 409, 429), openapi_extra=MOVES_MONEY)
async def release_hold(key: Key, hold_id: UUID, request: Request, service: Serving) -> HoldShown:
    """Lets go of what is held: all of it is available again, and nothing is charged.

    Releasing a released hold answers the same; a settled or expired one gets 409.
    """
    order = ReleaseHold(
        id=new_id(service.clock.now()), customer=key, hold_id=hold_id, idempotency_key=idempotency_key(request)
    )
    return await _with_asset(service, await service.holds.carry_out(order), key)


async def _with_asset(service: Service, hold: Hold, key: str) -> HoldShown:
    async with transaction(service) as conn:
        codes = {asset.ledger: code for code, asset in (await service.assets.all(conn)).items()}
    return _shown(hold, key, codes)


def _shown(hold: Hold, key: str, codes: Mapping[int, str]) -> HoldShown:
    return HoldShown(
        id=hold.id,
        customer=key,
        asset=codes[hold.ledger],
        amount=format_amount(hold.amount),
        state=hold.state,
        description=hold.description,
        settled_amount=format_amount(hold.settled_amount),
        excess=format_amount(hold.excess),
        created_at=hold.created_at,
        expires_at=hold.expires_at,
        closed_at=hold.closed_at,
    )
