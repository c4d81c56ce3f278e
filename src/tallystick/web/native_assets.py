"""Assets, and the rates at which reports show them in other ones."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field, WithJsonSchema

from tallystick.kernel.money import format_amount, format_quantity
from tallystick.ledger.assets import MAX_SCALE, MAX_SYMBOL_CHARACTERS
from tallystick.ledger.rates import Display, DisplayRate, parse_rate
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
from tallystick.web.values import EXACT_NUMBER, NUMBER_SCHEMA, Instant, Key

router = routes_of("/assets", "Assets")

Rate = Annotated[Any, EXACT_NUMBER, WithJsonSchema(NUMBER_SCHEMA)]
"""A rate as it was sent; ``parse_rate`` reads it."""


class AssetAsked(Asked):
    name: Key
    symbol: Annotated[
        Key | None, Field(description=f"How it is written, at most {MAX_SYMBOL_CHARACTERS} characters; its code if new")
    ] = None
    scale: Annotated[
        int | None,
        Field(
            strict=True, ge=0, le=MAX_SCALE, description=f"Decimals that people see; {MAX_SCALE} if new. Fixed for good"
        ),
    ] = None


class AssetShown(Shown):
    """`ledger` is the asset's number in the ledger: that of ISO 4217 for currencies.

    `scale` is how many decimals people see; the ledger counts six of every asset.
    """

    code: str
    ledger: int
    name: str
    symbol: str
    scale: int


@router.get("")
async def list_assets(service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Listing[AssetShown]:
    """Assets in the order of their codes: credits, the currencies of ISO 4217, and your own."""
    async with transaction(service) as conn:
        page = await service.assets.page(conn, cursor, limit)
    return Listing(items=[AssetShown.model_validate(asset) for asset in page.items], next=page.next)


@router.get("/{code:key}", responses=refusals(404))
async def get_asset(code: Key, service: Serving) -> AssetShown:
    """One asset."""
    async with transaction(service) as conn:
        return AssetShown.model_validate(await service.assets.named(conn, code))


@router.put("/{code:key}", responses=refusals(409, body=True))
async def put_asset(code: Key, body: AssetAsked, service: Serving) -> AssetShown:
    """Creates an asset of your own, or changes the name and the symbol of one. Assets are never removed.

    A code has 2 to 16 capital letters, digits or underscores, and begins with a letter.
    """
    async with transaction(service) as conn:
        return AssetShown.model_validate(await service.assets.put(conn, code, body.name, body.symbol, body.scale))


# Display rates


class RateAsked(Asked):
    shown_in: Annotated[Key, Field(alias="in", description="The asset to show amounts in")]
    rate: Annotated[Rate, Field(description="Units of that asset for one unit of this one")]
    effective_from: Instant


class RateShown(Shown):
    """One unit of `asset` is shown as `rate` units of `in`, until the next such rate."""

    asset: str
    shown_in: Annotated[str, Field(alias="in")]
    rate: DecimalText
    effective_from: datetime
    created_at: datetime


@router.post("/{code:key}/rates", status_code=201, responses=refusals(404, 409, body=True))
async def add_rate(code: Key, body: RateAsked, service: Serving) -> RateShown:
    """Sets the rate at which reports show an asset in another one, which ends the one before it. It moves no money."""
    rate = parse_rate(body.rate)
    async with transaction(service) as conn:
        return _rate(await service.display_rates.add(conn, code, body.shown_in, rate, body.effective_from))


@router.get("/{code:key}/rates", responses=refusals(404))
async def list_rates(
    code: Key,
    service: Serving,
    shown_in: Annotated[Key | None, Query(alias="in")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[RateShown]:
    """The rates at which an asset is shown in others, by those and by age."""
    async with transaction(service) as conn:
        page = await service.display_rates.page(conn, code, shown_in, cursor, limit)
    return Listing(items=[_rate(rate) for rate in page.items], next=page.next)


def _rate(rate: DisplayRate) -> RateShown:
    return RateShown(
        asset=rate.asset,
        rate=format_quantity(rate.rate),
        effective_from=rate.effective_from,
        created_at=rate.created_at,
        **{"in": rate.shown_in},
    )


# What reports show beside amounts

DisplayIn = Annotated[
    Key | None,
    Query(alias="display", description="An asset in which to show each amount as well; it changes no amount"),
]


class RateOfDisplay(Shown):
    """In which asset, at which rate, and since when that is in force; an amount of that very asset needs no rate."""

    asset: str
    rate: DecimalText
    effective_from: datetime | None


class DisplayShown(RateOfDisplay):
    """What an amount is shown as, rounded to the decimals of `asset`. What is owed is the amount beside it."""

    amount: DecimalText


def rate_of(display: Display, code: str) -> dict[str, Any]:
    """The fields of ``RateOfDisplay``."""
    rate = display.rates.get(code)
    return {
        "asset": display.asset.code,
        "rate": format_quantity(rate.rate) if rate else "1",
        "effective_from": rate.effective_from if rate else None,
    }


def displayed(display: Display, code: str, microunits: int) -> str:
    """An amount of the asset ``code`` as it is shown."""
    return format_amount(display.amount(code, microunits), places=display.asset.scale)


def display_shown(display: Display | None, code: str | None, microunits: int | None) -> dict[str, DisplayShown]:
    """The field ``display`` of what has an amount; nothing if it was not asked for, or there is no amount."""
    if display is None or code is None or microunits is None:
        return {}
    return {"display": DisplayShown(**rate_of(display, code), amount=displayed(display, code, microunits))}
