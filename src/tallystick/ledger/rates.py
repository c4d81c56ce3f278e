"""Rates between assets: what an amount comes to in another one, and the rates at which reports show amounts."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from pathlib import Path

from psycopg import AsyncConnection

from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput
from tallystick.kernel.money import EXACT, format_quantity
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.ledger.assets import MAX_SCALE, Asset, Assets

_SQL = Queries(Path(__file__).with_suffix(".sql"))

MAX_RATE = 10**12
RATE_PLACES = 18
"""The most decimal places of a rate."""

_RATE = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?")
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DisplayRate:
    """One unit of ``asset`` is shown as ``rate`` units of ``shown_in``, from an instant until the next such rate.

    Only for reports: no money ever moves at it by itself.
    """

    asset: str
    shown_in: str
    rate: Decimal
    effective_from: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Display:
    """How a report shows amounts in ``asset``: at these rates, by the asset of the amount."""

    asset: Asset
    rates: dict[str, DisplayRate]

    def amount(self, code: str, microunits: int) -> int:
        """What an amount is shown as, in microunits of ``asset``: rounded once, half to even, to its decimals."""
        rate = Decimal(1) if code == self.asset.code else self.rates[code].rate
        return converted(microunits, rate, self.asset.scale)


class DisplayRates:
    """What assets are shown as in reports. Works in the caller's transaction."""

    def __init__(self, clock: Clock, assets: Assets) -> None:
        self._clock = clock
        self._assets = assets

    async def add(
        self, conn: AsyncConnection, code: str, shown_in: str, rate: Decimal, effective_from: datetime
    ) -> DisplayRate:
        """Adds a rate, which ends the one before it. Adding the same again changes nothing.

        Raises ``NotFound`` without such an asset, ``InvalidInput``, ``Conflict`` if another rate starts there already.
        """
        asset = await self._assets.named(conn, code)
        other = await self._assets.get(conn, shown_in, "in")
        if asset.code == other.code:
            raise InvalidInput(f"in must be another asset than {code}", field="in")
        place = {"asset": asset.code, "shown_in": other.code, "effective_from": effective_from}
        await conn.execute(_SQL.add, {**place, "rate": rate, "now": self._clock.now()})
        (row,) = await (await conn.execute(_SQL.starting, place)).fetchall()
        standing = DisplayRate(*row)
        if standing.rate != rate:
            raise Conflict(
                f"another rate of {asset.code} in {other.code} starts at {effective_from.isoformat()} already",
                field="effective_from",
            )
        return standing

    async def page(
        self, conn: AsyncConnection, code: str, shown_in: str | None, cursor: str | None, limit: int
    ) -> Page[DisplayRate]:
        """Rates of an asset by what it is shown in, and by age. Raises ``NotFound`` without such an asset."""
        asset = await self._assets.named(conn, code)
        after_asset, after_time = read_cursor(cursor, 2) or ("", _EARLIEST.isoformat())
        parameters = {
            "asset": asset.code,
            "shown_in": shown_in,
            "after_shown_in": after_asset,
            "after_effective_from": _instant(after_time),
            "limit": limit + 1,
        }
        rows = await (await conn.execute(_SQL.page, parameters)).fetchall()
        rates = [DisplayRate(*row) for row in rows[:limit]]
        last = (rates[-1].shown_in, rates[-1].effective_from.isoformat()) if len(rows) > limit else None
        return Page(rates, next_cursor(*last) if last else None)

    async def display(self, conn: AsyncConnection, codes: Collection[str], asset: Asset, instant: datetime) -> Display:
        """How amounts of these assets are shown in ``asset``, at the rates in force at an instant.

        Raises ``InvalidInput`` if one is missing: no amount is shown by the way of a third asset, or at the inverse of
        a rate.
        """
        wanted = sorted(set(codes) - {asset.code})
        parameters = {"assets": wanted, "shown_in": asset.code, "instant": instant}
        rates = [DisplayRate(*row) for row in await (await conn.execute(_SQL.in_force, parameters)).fetchall()]
        if missing := sorted(set(wanted) - {rate.asset for rate in rates}):
            raise InvalidInput(
                f"there is no rate to display {', '.join(missing)} in {asset.code} at {instant.isoformat()}",
                field="display",
            )
        return Display(asset, {rate.asset: rate for rate in rates})


def parse_rate(value: Decimal | int | str, field: str = "rate") -> Decimal:
    """A rate between two assets: above 0, at most ``MAX_RATE``, with at most ``RATE_PLACES`` decimal places.

    Raises ``InvalidInput``.
    """
    text = str(value)
    if isinstance(value, bool) or not _RATE.fullmatch(text):
        raise InvalidInput(f"{field} must be a decimal number", field=field)
    rate = Decimal(text)
    if rate <= 0:
        raise InvalidInput(f"{field} must be above 0", field=field)
    if rate > MAX_RATE:
        raise InvalidInput(f"{field} must be at most {MAX_RATE}", field=field)
    if (Fraction(rate) * 10**RATE_PLACES).denominator != 1:
        raise InvalidInput(f"{field} must have at most {RATE_PLACES} decimal places", field=field)
    return Decimal(format_quantity(rate))


def converted(microunits: int, rate: Decimal, scale: int = MAX_SCALE) -> int:
    """What an amount comes to at a rate, in microunits of the other asset: computed exactly, then rounded once, half to
    even, to ``scale`` decimals of a unit.
    """
    exact = EXACT.multiply(Decimal(microunits), rate)
    steps = EXACT.scaleb(exact, scale - MAX_SCALE).to_integral_value(ROUND_HALF_EVEN)
    return int(EXACT.scaleb(steps, MAX_SCALE - scale))


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return instant
    except ValueError:
        pass
    raise InvalidInput("cursor must be one that a page of this list gave", field="cursor")
