"""What every source shares: how a number is read exactly, and how a piece of input is refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import format_quantity
from tallystick.pricing.functions import MAX_PRICE

MAX_INTEGER_DIGITS = 18
"""Digits a value may have before the decimal point: what a signed 64-bit integer always holds."""

MAX_DECIMAL_PLACES = 30
"""Digits a value may have after the decimal point."""

MAX_NUMBER_CHARACTERS = 100
"""Longest spelling of a number that is looked at; leaves room for a sign, an exponent and superfluous zeros."""

EARLIEST = datetime(2, 1, 1, tzinfo=UTC)
LATEST = datetime(9998, 1, 1, tzinfo=UTC)
"""Instants from ``EARLIEST`` until before ``LATEST`` are taken: each has a whole business month in any zone."""

_ZERO = Decimal(0)
_PLAIN = re.compile(rf"-?[0-9]{{1,{MAX_INTEGER_DIGITS}}}(?:\.[0-9]{{1,{MAX_DECIMAL_PLACES}}})?")
_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Refused(InvalidInput):
    """One piece of input cannot be read. ``code`` is stable; the message is a sentence that names field and rule."""

    def __init__(self, code: str, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail, field=field)
        self.code = code


_NUMBER_RULE = (
    f"must be a finite decimal number of at most {MAX_INTEGER_DIGITS} digits before "
    f"and {MAX_DECIMAL_PLACES} after the decimal point"
)
_UNIT_PRICE_RULE = f"must be from {format_quantity(-MAX_PRICE)} to {format_quantity(MAX_PRICE)}"


class InvalidValue(InvalidInput):
    """A quantity or unit price is not a number, has more digits than are kept, or is beyond what a price may be."""

    code = "invalid_value"

    def __init__(self, field: str, rule: str = _NUMBER_RULE) -> None:
        super().__init__(f"{field} {rule}", field=field)


def parse_value(text: str, field: str = "value") -> Decimal:
    """The number that ``text`` spells, exactly, in the form ``check_value`` describes. Raises ``InvalidValue``.

    Takes ASCII digits with an optional minus, point and exponent, and nothing else that ``Decimal`` would take: no NaN
    or infinity, no blanks, underscores or leading plus, no digits of other scripts.
    """
    if _PLAIN.fullmatch(text):
        return Decimal(text) or _ZERO
    if len(text) > MAX_NUMBER_CHARACTERS or not _NUMBER.fullmatch(text):
        raise InvalidValue(field)
    try:
        return check_value(Decimal(text), field)
    except InvalidOperation:  # an exponent that not even Decimal can hold
        raise InvalidValue(field) from None


def check_value(value: Decimal, field: str = "value") -> Decimal:
    """``value`` as later code may rely on it: finite, within the limits, exponent never above 0, zero never negative.

    Looks at the exponent before anything else, so that 1E+999999 costs no more than 1. Raises ``InvalidValue``.
    """
    if not value.is_finite():
        raise InvalidValue(field)
    if not value:
        return _ZERO
    if not -MAX_DECIMAL_PLACES <= value.adjusted() < MAX_INTEGER_DIGITS:
        raise InvalidValue(field)
    exponent = int(value.as_tuple().exponent)
    if exponent < -MAX_DECIMAL_PLACES:
        raise InvalidValue(field)
    return Decimal(f"{value:f}") if exponent > 0 else value


def check_unit_price(price: Decimal, field: str = "unit_price") -> Decimal:
    """``price``, a number as ``check_value`` leaves it, if it is no greater than any price, nor less than its opposite.

    The largest value at this price is 10^36 microunits, and a ledger counts to 3.4 * 10^38. Raises ``InvalidValue``.
    """
    if not -MAX_PRICE <= price <= MAX_PRICE:
        raise InvalidValue(field, _UNIT_PRICE_RULE)
    return price
