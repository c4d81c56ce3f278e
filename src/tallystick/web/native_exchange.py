"""Exchange between the wallets of a customer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field
from starlette.requests import Request

from tallystick.kernel.ids import new_id
from tallystick.kernel.money import format_amount, format_quantity
from tallystick.ledger.exchange import Exchange, ExchangeOrder
from tallystick.ledger.rates import parse_rate
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
from tallystick.web.native_assets import Rate
from tallystick.web.values import MOVES_MONEY, Key, Microunits, idempotency_key

router = routes_of("/customers", "Exchanges", refused=(404,))


class ExchangeAsked(Asked):
    source: Annotated[Key, Field(alias="from", description="The asset to give")]
    target: Annotated[Key, Field(alias="to", description="The asset to receive")]
    amount: Annotated[Microunits, Field(gt=0, description="How much to give")]
    rate: Annotated[Rate, Field(description="Units of `to` for one unit of `from`; no rate is ever assumed")]


class ExchangeShown(Shown):
    """`amount` of `from` went out, `received` of `to` came in: the amount at `rate`, rounded half to even to 0.000001.

    `id` is the transfer that took the amount, and the cause of the one that gave what was received.
    """

    id: UUID
    customer: str
    source: Annotated[str, Field(alias="from")]
    target: Annotated[str, Field(alias="to")]
    amount: DecimalText
    rate: DecimalText
    received: DecimalText
    created_at: datetime


@router.post(
    "/{key:key}/exchanges",
    status_code=201,
    responses=refusals(402, 404, 409, 429, body=True),
    openapi_extra=MOVES_MONEY,
)
async def exchange(key: Key, body: ExchangeAsked, request: Request, service: Serving) -> ExchangeShown:
    """Exchanges between two wallets of whoever pays for the customer, at the rate given here: both move, or neither.

    A prepaid wallet gives no more than what is available in it. What comes in repays arrears first.
    """
    rate = parse_rate(body.rate)
    async with transaction(service) as conn:
        source = await service.assets.get(conn, body.source, "from")
        target = await service.assets.get(conn, body.target, "to")
    order = ExchangeOrder(
        id=new_id(service.clock.now()),
        customer=key,
        source=source,
        target=target,
        amount=body.amount,
        rate=rate,
        idempotency_key=idempotency_key(request),
    )
    return _shown(await service.exchanges.carry_out(order), key)


@router.get("/{key:key}/exchanges")
async def list_exchanges(
    key: Key, request: Request, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[ExchangeShown]:
    """Exchanges between the wallets of whoever pays for a customer, newest first."""
    async with transaction(service) as conn:
        _, payer_id = await payer_of(request, service, conn, key)
        page = await service.exchanges.page(conn, payer_id, cursor, limit)
    return Listing(items=[_shown(one, key) for one in page.items], next=page.next)


@router.get("/{key:key}/exchanges/{exchange_id}")
async def get_exchange(key: Key, exchange_id: UUID, request: Request, service: Serving) -> ExchangeShown:
    """One exchange between the wallets of whoever pays for a customer."""
    async with transaction(service) as conn:
        _, payer_id = await payer_of(request, service, conn, key)
        return _shown(await service.exchanges.get(conn, payer_id, exchange_id), key)


def _shown(done: Exchange, key: str) -> ExchangeShown:
    return ExchangeShown(
        id=done.id,
        customer=key,
        amount=format_amount(done.amount),
        rate=format_quantity(done.rate),
        received=format_amount(done.received),
        created_at=done.created_at,
        **{"from": done.source, "to": done.target},
    )
