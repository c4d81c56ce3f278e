"""What the platform's billing had only drawn for its administrators: tiers, kinds, prices, readings.

Answers are JSON. Tiers, kinds and readings are those of the native routes, under this surface's paths, tokens and
refusals. Prices are as that system has them, so many microcredits for so many units, and only ever get new versions.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Query
from psycopg import AsyncConnection
from pydantic import Field

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import CREDIT
from tallystick.pricing.functions import MIN_QUANTUM, PerUnit, parse_model
from tallystick.pricing.model import NewPrice
from tallystick.pricing.per_unit import MAX_MICROUNITS, MAX_UNITS, microunits_per_units, per_unit_price
from tallystick.pricing.service import ListedPrice
from tallystick.service import Service
from tallystick.web import native_agreements, native_kinds, native_readings
from tallystick.web.native import DEFAULT_LIMIT, Asked, Cursor, Limit, Listing, Serving, Shown, transaction
from tallystick.web.platform_billing import refuses
from tallystick.web.routes import ExactRoute
from tallystick.web.values import Instant, Key, Text

router = APIRouter(prefix="/admin", tags=["Platform billing"], route_class=ExactRoute, responses=refuses(404, 409))

router.get("/tier")(native_agreements.list_tiers)
router.get("/tier/{name:key}")(native_agreements.get_tier)
router.put("/tier/{name:key}")(native_agreements.put_tier)

router.get("/kind")(native_kinds.list_kinds)
router.get("/kind/{meter:key}")(native_kinds.get_kind)
router.put("/kind/{meter:key}")(native_kinds.put_kind)

router.get("/reading")(native_readings.list_readings)
router.get("/reading/{reading_id}")(native_readings.get_reading)


# Prices


class PriceChanged(Asked):
    microcredits_per_unit: Annotated[int, Field(strict=True, ge=0, le=MAX_MICROUNITS)]
    unit: Annotated[int, Field(strict=True, ge=1, le=MAX_UNITS, description="For how much usage that is")]
    unit_of_measure: Annotated[Text | None, Field(description="The meter's; one that has none gets this one")] = None
    valid_from: Annotated[Instant | None, Field(description="Now, if left out")] = None

    @property
    def price_model(self) -> PerUnit:
        return per_unit_price(self.microcredits_per_unit, self.unit)


class PriceAsked(PriceChanged):
    meter: Key
    kind_natural_id: Text = ""
    customer: Annotated[Key | None, Field(description="Whose own price it is; everybody's, if left out")] = None
    valid_from: Instant


class PlatformPrice(Shown):
    """A version of a price, in force in [`valid_from`, `valid_until`).

    What is neither in credits nor so much per unit has no `microcredits_per_unit`; `model` says what it is.
    """

    id: UUID
    meter: str
    kind_natural_id: str
    customer: str | None
    unit_of_measure: str
    microcredits_per_unit: int | None
    unit: int | None
    valid_from: datetime
    valid_until: datetime | None
    asset: str
    model: dict[str, Any]


@router.get("/price")
async def list_platform_prices(
    service: Serving,
    meter: Key | None = None,
    kind_natural_id: Text | None = None,
    customer: Annotated[Key | None, Query(description="Only this customer's own")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[PlatformPrice]:
    """Prices by meter, kind and age: each version of them."""
    async with transaction(service) as conn:
        page = await service.pricing.page(conn, meter, cursor, limit, kind=kind_natural_id, customer=customer)
    return Listing(items=[platform_price(price) for price in page.items], next=page.next)


@router.get("/price/{price_id}")
async def get_platform_price(price_id: UUID, service: Serving) -> PlatformPrice:
    """One version of a price."""
    async with transaction(service) as conn:
        return platform_price(await service.pricing.get(conn, price_id))


@router.post("/price", status_code=201)
async def create_platform_price(body: PriceAsked, service: Serving) -> PlatformPrice:
    """Creates a price, which ends the one before it; two never overlap. Usage that waits for it is charged first.

    It may begin in the past where no price was in force. The same price again is the same answer.
    """
    new = NewPrice(
        body.meter, body.kind_natural_id, body.customer, body.valid_from, CREDIT, MIN_QUANTUM, body.price_model
    )
    async with transaction(service) as conn:
        await _agree_on_unit(conn, service, body.meter, body.unit_of_measure)
        price = await service.pricing.create_version(conn, new)
    await service.settlement.settle()
    return platform_price(price)


@router.put("/price/{price_id}")
async def change_platform_price(price_id: UUID, body: PriceChanged, service: Serving) -> PlatformPrice:
    """Changes a price from an instant on that has not passed: answers the new version, which has an id of its own.

    What was charged stays charged by the version that was in force when it was used.
    """
    async with transaction(service) as conn:
        old = await service.pricing.get(conn, price_id)
        await _agree_on_unit(conn, service, old.meter, body.unit_of_measure)
        price = await service.pricing.revise(conn, old.id, CREDIT, MIN_QUANTUM, body.price_model, body.valid_from)
    await service.settlement.settle()
    return platform_price(price)


async def _agree_on_unit(conn: AsyncConnection, service: Service, key: str, unit: str | None) -> None:
    """A price is for units of its meter, which gets the one that is named if it has none yet."""
    meter = await service.meters.find(conn, key)
    if meter is None or unit in (None, meter.unit):
        return
    if meter.unit:
        raise InvalidInput(
            f"unit_of_measure must be {meter.unit!r}, in which meter {key!r} is measured", field="unit_of_measure"
        )
    await service.meters.put(conn, msgspec.structs.replace(meter, unit=unit))


def platform_price(price: ListedPrice) -> PlatformPrice:
    """A price in that system's terms, as far as it has any for it."""
    microcredits, unit = None, None
    match parse_model(price.model):
        case PerUnit(free=0) as model if price.asset == CREDIT:
            microcredits, unit = microunits_per_units(model)
    return PlatformPrice(
        id=price.id,
        meter=price.meter,
        kind_natural_id=price.kind,
        customer=price.customer,
        unit_of_measure=price.unit,
        microcredits_per_unit=microcredits,
        unit=unit,
        valid_from=price.effective_from,
        valid_until=price.effective_until,
        asset=price.asset,
        model=price.model,
    )
