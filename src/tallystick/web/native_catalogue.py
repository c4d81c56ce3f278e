"""Meters and prices."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, WithJsonSchema

from tallystick.kernel.money import CREDIT
from tallystick.metering.model import Aggregation, Meter, MeterKind, OnDrop, OnGap
from tallystick.metering.service import INTERVALS, MAX_GAP_HOURS
from tallystick.pricing.functions import MIN_QUANTUM, parse_model, parse_quantum
from tallystick.pricing.model import NewPrice
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
from tallystick.web.values import NUMBER_SCHEMA, Instant, Key, Text

router = routes_of()


class MeterAsked(Asked):
    kind: MeterKind = "delta"
    aggregation: Aggregation = "sum"
    on_drop: OnDrop = "rebase"
    unit: Text = ""
    name: Text = ""
    description: Text = ""
    on_gap: OnGap = "free"
    max_gap_hours: Annotated[int, Field(strict=True, ge=1, le=MAX_GAP_HOURS)] = 24
    interval_minutes: Annotated[int, Field(strict=True, ge=INTERVALS[0], le=INTERVALS[-1])] = 60


class MeterShown(MeterAsked):
    key: str


@router.put("/meters/{key:key}", tags=["Meters"], responses=refusals(409, body=True))
async def put_meter(key: Key, body: MeterAsked, service: Serving) -> MeterShown:
    """Creates or changes a meter. How it counts cannot change once it has measurements."""
    async with transaction(service) as conn:
        return _shown(await service.meters.put(conn, Meter(key, **body.model_dump())))


@router.get("/meters/{key:key}", tags=["Meters"], responses=refusals(404))
async def get_meter(key: Key, service: Serving) -> MeterShown:
    """One meter."""
    async with transaction(service) as conn:
        return _shown(await service.meters.get(conn, key))


@router.get("/meters", tags=["Meters"])
async def list_meters(service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Listing[MeterShown]:
    """Meters in the order of their keys."""
    async with transaction(service) as conn:
        page = await service.meters.page(conn, cursor, limit)
    return Listing(items=[_shown(meter) for meter in page.items], next=page.next)


def _shown(meter: Meter) -> MeterShown:
    return MeterShown.model_construct(**{name: getattr(meter, name) for name in meter.__struct_fields__})


_TIER = {
    "type": "object",
    "required": ["up_to"],
    "properties": {
        "up_to": {"anyOf": [*NUMBER_SCHEMA["anyOf"], {"type": "null"}]},
        "amount": NUMBER_SCHEMA,
        "per": NUMBER_SCHEMA,
        "flat": NUMBER_SCHEMA,
    },
}
_MODEL = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["per_unit", "package", "graduated", "volume", "dynamic"]},
        "amount": NUMBER_SCHEMA,
        "per": NUMBER_SCHEMA,
        "size": NUMBER_SCHEMA,
        "free": NUMBER_SCHEMA,
        "tiers": {"type": "array", "minItems": 1, "items": _TIER},
    },
    "examples": [{"type": "per_unit", "amount": "1", "per": "730"}],
}


class PriceAsked(Asked):
    meter: Key
    kind: Text = ""
    customer: Key | None = None
    effective_from: Instant
    asset: Key = CREDIT
    quantum: Annotated[Any, WithJsonSchema(NUMBER_SCHEMA)] = str(MIN_QUANTUM)
    model: Annotated[Any, WithJsonSchema(_MODEL)]


class PriceShown(Shown):
    id: UUID
    meter: str
    kind: str
    customer: str | None
    effective_from: datetime
    asset: str
    quantum: DecimalText
    model: dict[str, Any]
    created_at: datetime


@router.post("/prices", status_code=201, tags=["Prices"], responses=refusals(409, body=True))
async def create_price(body: PriceAsked, service: Serving) -> PriceShown:
    """Creates a price, which ends the one before it. Usage that waits for it is charged before this answers."""
    new = NewPrice(
        meter=body.meter,
        kind=body.kind,
        customer=body.customer,
        effective_from=body.effective_from,
        asset=body.asset,
        quantum=parse_quantum(body.quantum),
        model=parse_model(body.model),
    )
    async with transaction(service) as conn:
        price = await service.pricing.create(conn, new)
    await service.settlement.settle()
    return PriceShown.model_validate(price)


@router.get("/prices", tags=["Prices"])
async def list_prices(
    service: Serving, meter: Key | None = None, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[PriceShown]:
    """Prices by meter, kind and age."""
    async with transaction(service) as conn:
        page = await service.pricing.page(conn, meter, cursor, limit)
    return Listing(items=[PriceShown.model_validate(price) for price in page.items], next=page.next)
