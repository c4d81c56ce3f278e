"""Assets and money. An amount is an ``int`` that counts microunits: 10^-6 of one unit of its asset."""

from __future__ import annotations

from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow

from tallystick.kernel.errors import InvalidInput

MICROUNITS = 1_000_000
"""Microunits in one unit of any asset."""

MAX_AMOUNT = 10**15 * MICROUNITS
"""The most that one instruction may move: a million milliard units."""

CREDIT = "CREDIT"

EXACT = Context(prec=400, Emax=2000, Emin=-2000, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
"""Arithmetic that is exact or raises. 400 digits hold any sum or product of values of at most 100 digits."""


def parse_amount(value: Decimal | int | str, field: str = "amount", *, signed: bool = False) -> int:
    """Microunits of a decimal amount, exactly.

    Raises ``InvalidInput`` if it is no finite number, has more than six decimal places, exceeds ``MAX_AMOUNT``, or is
    negative unless ``signed``.
    """
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise InvalidInput(f"{field} must be a decimal number", field=field) from None
    if not number.is_finite():
        raise InvalidInput(f"{field} must be a finite number", field=field)
    if number.adjusted() > 30 or abs(number) > MAX_AMOUNT // MICROUNITS:
        raise InvalidInput(f"{field} must not exceed {MAX_AMOUNT // MICROUNITS}", field=field)
    if number < 0 and not signed:
        raise InvalidInput(f"{field} must not be negative", field=field)
    try:
        return int(EXACT.to_integral_exact(EXACT.scaleb(number, 6)))
    except Inexact:
        raise InvalidInput(f"{field} must have at most six decimal places", field=field) from None


def format_amount(microunits: int, *, places: int = 0) -> str:
    """The exact decimal text of an amount: ``99.75``, ``200``, ``0.0028``; zeros at its end only up to ``places``."""
    sign = "-" if microunits < 0 else ""
    whole, fraction = divmod(abs(microunits), MICROUNITS)
    decimals = f"{fraction:06d}".rstrip("0").ljust(places, "0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def plain(number: Decimal) -> str:
    """The decimal text of a number without an exponent, with all of its zeros."""
    text = str(number)  # five times as fast as a format, and without an exponent already as long as there are few zeros
    return text if "E" not in text else format(number, "f")


def format_quantity(quantity: Decimal) -> str:
    """The plain decimal text of a quantity: no exponent, no trailing zeros."""
    text = format(quantity, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
