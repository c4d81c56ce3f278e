"""Resource kinds: which there are, what they are called, and which of them need a price."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query

from tallystick.kernel.money import format_quantity
from tallystick.metering.kinds import Kind, Unpriced
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
from tallystick.web.values import Key, Text

router = routes_of("/kinds", "Meters")

KindIn = Annotated[Text, Query(description="Left out where a meter has one kind only")]


class KindAsked(Asked):
    name: Key | None


class UnpricedShown(Shown):
    """What waits for a price: so much of `customers` of them. Months are business months, as YYYY-MM."""

    customers: int
    measurements: int
    quantity: DecimalText
    first_month: str
    last_month: str


class KindShown(Shown):
    """`priced_from` is when everybody's first price begins: what happened before waits still."""

    meter: str
    kind: str
    name: str | None
    created_at: datetime
    priced_from: datetime | None
    unpriced: UnpricedShown | None


@router.get("")
async def list_kinds(
    service: Serving,
    meter: Key | None = None,
    unpriced: Annotated[bool, Query(description="Only those of which something waits for a price")] = False,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[KindShown]:
    """Kinds by meter and key, each with what of it waits for a price. Giving it one charges that."""
    async with transaction(service) as conn:
        page = await service.kinds.page(conn, cursor, limit, meter=meter, unpriced=unpriced)
    return Listing(items=[_kind(kind) for kind in page.items], next=page.next)


@router.get("/{meter:key}", responses=refusals(404))
async def get_kind(meter: Key, service: Serving, kind: KindIn = "") -> KindShown:
    """One kind of a meter."""
    async with transaction(service) as conn:
        return _kind(await service.kinds.get(conn, meter, kind))


@router.put("/{meter:key}", responses=refusals(404, body=True))
async def put_kind(meter: Key, body: KindAsked, service: Serving, kind: KindIn = "") -> KindShown:
    """Names a kind of a meter; one that was not seen yet is created."""
    async with transaction(service) as conn:
        return _kind(await service.kinds.put(conn, meter, kind, body.name))


def _kind(kind: Kind) -> KindShown:
    return KindShown(
        meter=kind.meter,
        kind=kind.key,
        name=kind.name,
        created_at=kind.created_at,
        priced_from=kind.priced_from,
        unpriced=None if kind.unpriced is None else _unpriced(kind.unpriced),
    )


def _unpriced(waiting: Unpriced) -> UnpricedShown:
    return UnpricedShown(
        customers=waiting.customers,
        measurements=waiting.measurements,
        quantity=format_quantity(waiting.quantity),
        first_month=f"{waiting.first_month:%Y-%m}",
        last_month=f"{waiting.last_month:%Y-%m}",
    )
