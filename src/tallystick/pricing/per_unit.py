"""Prices as the government platform's billing writes them: so many microcredits for so many units of usage. Pure."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from tallystick.kernel.money import EXACT, MICROUNITS
from tallystick.pricing.functions import MAX_DIVISOR, MAX_PRICE, PerUnit

MAX_MICROUNITS = int(MAX_PRICE) * MICROUNITS
"""The most that a unit, or ``MAX_UNITS`` of them, may cost."""

MAX_UNITS = int(MAX_DIVISOR)

_PLACES = 6  # of a microunit


def per_unit_price(microunits: int, units: int) -> PerUnit:
    """``microunits`` for every ``units`` of usage, exactly: 1,000,000 for 730 is kept as it is said, not divided.

    ``microunits`` is from 0 to ``MAX_MICROUNITS``, ``units`` from 1 to ``MAX_UNITS``.
    """
    return PerUnit(EXACT.scaleb(Decimal(microunits), -_PLACES), Decimal(units))


def microunits_per_units(price: PerUnit) -> tuple[int, int]:
    """The inverse, for a price without an allowance: both times ten as often as it takes to make them integers."""
    amount, per = Fraction(price.amount) * MICROUNITS, Fraction(price.per)
    while amount.denominator != 1 or per.denominator != 1:
        amount, per = amount * 10, per * 10
    return int(amount), int(per)
