"""Prices as pure functions: from the total quantity of a period to the money that is due for it.

``F(q)`` is computed exactly and rounded once, half to even, to a multiple of the price's quantum. Adding ``d`` to a
total ``q`` charges ``F(q + d) - F(q)``, so the charges of a period sum to ``F(total)`` however the usage was cut up.
``F(0)`` is 0.

- ``per_unit``: ``q * amount / per``.
- ``package``: ``ceil(q / size) * amount``; every started package is due.
- ``graduated``: each tier prices its own slice of the total, plus its ``flat`` once the total is above its lower bound.
- ``volume``: the one tier that contains the total prices all of it, plus its ``flat``; a step down gives money back.
- ``dynamic``: ``q``; the total is money already, units times the unit price that each event brought.

``up_to`` belongs to the tier that names it. With an allowance, ``per_unit`` and ``package`` see ``max(0, q - free)``.

A total may be negative, because corrections may exceed usage. Then ``per_unit``, ``package`` and ``dynamic`` follow the
same formula (``ceil(-0.5)`` is 0: a package is given back when all of it is), or are 0 if there is an allowance; tiers
charge the first tier's unit price, without flat. More usage never makes ``F`` smaller, except under ``volume``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, lcm
from typing import Literal

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import EXACT, MICROUNITS, format_amount, format_quantity, parse_amount

MAX_TIERS = 100
MAX_PRICE = Decimal(10) ** 12
"""The most that ``amount`` and ``flat`` may be, in units of the asset."""
MIN_DIVISOR = Decimal("1e-12")
MAX_DIVISOR = Decimal(10) ** 12
"""The bounds of ``per`` and ``size``, in units of usage."""
MAX_THRESHOLD = Decimal(10) ** 30
"""The most that ``up_to`` and ``free`` may be, in units of usage."""
MAX_PLACES = 18
"""The most decimal places of any number in a model."""
MIN_QUANTUM = Decimal("0.000001")
MAX_QUANTUM = Decimal(10) ** 6
QUANTUM_PLACES = 6
SHOWN_PLACES = 12
SHOWN_NAME = 40

ZERO, ONE = Decimal(0), Decimal(1)

PriceFunction = Callable[[Decimal], int]
"""``F``: from a total quantity to microunits of the asset."""

_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?")
_Object = dict[str, object]
_Line = tuple[Fraction, Fraction]  # slope and offset, in units of the asset


@dataclass(frozen=True, slots=True)
class PerUnit:
    amount: Decimal
    per: Decimal = ONE
    free: Decimal = ZERO

    def as_json(self) -> _Object:
        return {"type": "per_unit", **_texts(amount=self.amount, per=self.per), **_allowance(self.free)}


@dataclass(frozen=True, slots=True)
class Package:
    amount: Decimal
    size: Decimal
    free: Decimal = ZERO

    def as_json(self) -> _Object:
        return {"type": "package", **_texts(amount=self.amount, size=self.size), **_allowance(self.free)}


@dataclass(frozen=True, slots=True)
class Tier:
    """``up_to`` is inclusive; None is without end."""

    up_to: Decimal | None
    amount: Decimal = ZERO
    per: Decimal = ONE
    flat: Decimal = ZERO

    def as_json(self) -> _Object:
        up_to = None if self.up_to is None else format_quantity(self.up_to)
        return {"up_to": up_to, **_texts(amount=self.amount, per=self.per, flat=self.flat)}


@dataclass(frozen=True, slots=True)
class Tiered:
    type: Literal["graduated", "volume"]
    tiers: tuple[Tier, ...]

    def as_json(self) -> _Object:
        return {"type": self.type, "tiers": [tier.as_json() for tier in self.tiers]}


@dataclass(frozen=True, slots=True)
class Dynamic:
    def as_json(self) -> _Object:
        return {"type": "dynamic"}


Model = PerUnit | Package | Tiered | Dynamic
"""A price model. ``as_json()`` is canonical: equal models have equal JSON, and it parses to an equal model."""


def _texts(**values: Decimal) -> dict[str, str]:
    return {name: format_quantity(value) for name, value in values.items()}


def _allowance(free: Decimal) -> dict[str, str]:
    return _texts(free=free) if free else {}


# Reading: from JSON to a model


def parse_model(model: object, field: str = "model") -> Model:
    """The model that decoded JSON describes. Its numbers are decimal strings, integers or ``Decimal``, never floats.

    Raises ``InvalidInput`` with the path, which begins with ``field``, and the rule.
    """
    values = _object(model, field)
    match kind := values.get("type"):
        case "per_unit":
            _check_keys(values, field, required=("type", "amount"), optional=("per", "free"))
            return PerUnit(
                _price(values, field, "amount"), _divisor(values, field, "per"), _threshold(values, field, "free")
            )
        case "package":
            _check_keys(values, field, required=("type", "amount", "size"), optional=("free",))
            return Package(
                _price(values, field, "amount"), _divisor(values, field, "size"), _threshold(values, field, "free")
            )
        case "graduated" | "volume":
            _check_keys(values, field, required=("type", "tiers"))
            return Tiered(kind, _parse_tiers(values["tiers"], f"{field}.tiers"))
        case "dynamic":
            _check_keys(values, field, required=("type",))
            return Dynamic()
        case _:
            path = f"{field}.type"
            raise InvalidInput(f"{path} must be one of per_unit, package, graduated, volume, dynamic", field=path)


def parse_quantum(value: object, field: str = "quantum") -> Decimal:
    """The step that a price is rounded to, in units of the asset: a whole multiple of 0.000001, above 0, at most 10^6.

    Raises ``InvalidInput``.
    """
    return _number(value, field, least=MIN_QUANTUM, most=MAX_QUANTUM, places=QUANTUM_PLACES)


def _parse_tiers(value: object, field: str) -> tuple[Tier, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TIERS:
        raise InvalidInput(f"{field} must be a list of 1 to {MAX_TIERS} tiers", field=field)
    tiers: list[Tier] = []
    for index, item in enumerate(value):
        path = f"{field}[{index}]"
        values = _object(item, path)
        _check_keys(values, path, required=("up_to",), optional=("amount", "per", "flat"))
        up_to = _parse_up_to(values, path, tiers, is_last=index == len(value) - 1)
        amount, flat = _price(values, path, "amount"), _price(values, path, "flat")
        tiers.append(Tier(up_to, amount, _divisor(values, path, "per"), flat))
    return tuple(tiers)


def _parse_up_to(values: _Object, field: str, before: list[Tier], *, is_last: bool) -> Decimal | None:
    path = f"{field}.up_to"
    if is_last:
        if values["up_to"] is not None:
            raise InvalidInput(f"{path} must be null, because the last tier has no end", field=path)
        return None
    up_to = _threshold(values, field, "up_to")
    lower = (before[-1].up_to if before else None) or ZERO
    if up_to <= lower:
        raise InvalidInput(f"{path} must be greater than {'the tier before' if before else '0'}", field=path)
    return up_to


def _object(value: object, field: str) -> _Object:
    if not isinstance(value, dict):
        raise InvalidInput(f"{field} must be an object", field=field)
    return value


def _check_keys(values: _Object, field: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    for name in values:
        if name not in required and name not in optional:
            raise InvalidInput(f"{field} has an unknown key {name[:SHOWN_NAME]!a}", field=field)
    for name in required:
        if name not in values:
            raise InvalidInput(f"{field}.{name} is required", field=f"{field}.{name}")


def _price(values: _Object, field: str, name: str) -> Decimal:
    return _number(values.get(name, ZERO), f"{field}.{name}", least=ZERO, most=MAX_PRICE)


def _divisor(values: _Object, field: str, name: str) -> Decimal:
    return _number(values.get(name, ONE), f"{field}.{name}", least=MIN_DIVISOR, most=MAX_DIVISOR)


def _threshold(values: _Object, field: str, name: str) -> Decimal:
    return _number(values.get(name, ZERO), f"{field}.{name}", least=ZERO, most=MAX_THRESHOLD)


def _number(value: object, field: str, *, least: Decimal, most: Decimal, places: int = MAX_PLACES) -> Decimal:
    number = _exact_decimal(value)
    if number is None:
        raise InvalidInput(f"{field} must be a decimal number, written as a string or an integer", field=field)
    if number < least:
        raise InvalidInput(f"{field} must be at least {format_quantity(least)}", field=field)
    if number > most:
        raise InvalidInput(f"{field} must be at most {format_quantity(most)}", field=field)
    if (Fraction(number) * 10**places).denominator != 1:
        raise InvalidInput(f"{field} must have at most {places} decimal places", field=field)
    return number


def _exact_decimal(value: object) -> Decimal | None:
    """The number, or None if it is none, is not exact, or has a length or exponent that would make arithmetic slow."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    text = str(value) if isinstance(value, Decimal) else value
    return Decimal(text) if isinstance(text, str) and _DECIMAL.fullmatch(text) else None


# Computing: from a model to a function


def price_function(model: Model, quantum: Decimal) -> PriceFunction:
    """``F`` of ``model``, from any finite total to a multiple of ``quantum`` (in units of the asset), in microunits.

    The result has no bound of its own. It runs once per event, on integers: exact at any size, faster than ``Decimal``.
    """
    step = parse_amount(quantum, "quantum")
    if isinstance(model, Package):
        return _package_function(model, step)
    bounds, lines = _lines(model)
    scale = Fraction(MICROUNITS, step)
    pieces = [_integers(slope * scale, offset * scale) for slope, offset in lines]

    def price(total: Decimal) -> int:
        numerator, denominator = total.as_integer_ratio()
        slope, offset, divisor = pieces[bisect_left(bounds, total)]
        return step * _half_even(numerator * slope + denominator * offset, denominator * divisor)

    return price


def _package_function(model: Package, step: int) -> PriceFunction:
    size = Fraction(model.size)
    slope, offset, divisor = _integers(1 / size, -Fraction(model.free) / size)
    amount, amount_divisor = (Fraction(model.amount) * MICROUNITS / step).as_integer_ratio()
    has_allowance = model.free > 0

    def price(total: Decimal) -> int:
        numerator, denominator = total.as_integer_ratio()
        started = -((numerator * slope + denominator * offset) // (-denominator * divisor))  # ceil, where // is floor
        if has_allowance and started < 0:
            return 0
        return step * _half_even(started * amount, amount_divisor)

    return price


def _lines(model: PerUnit | Tiered | Dynamic) -> tuple[list[Decimal], list[_Line]]:
    """The model as straight lines, and the totals up to which (inclusive) each of them but the last holds."""
    match model:
        case Dynamic():
            return [], [(Fraction(1), Fraction(0))]
        case PerUnit(free=free):
            rate = _rate(model)
            if not free:
                return [], [(rate, Fraction(0))]
            return [free], [(Fraction(0), Fraction(0)), (rate, -Fraction(free) * rate)]
        case Tiered(tiers=tiers):
            return [ZERO, *(tier.up_to for tier in tiers if tier.up_to is not None)], list(_tier_lines(model))


def _tier_lines(model: Tiered) -> Iterator[_Line]:
    """One line for totals up to zero, then one for each tier."""
    yield _rate(model.tiers[0]), Fraction(0)
    lower, below = Fraction(0), Fraction(0)  # where the tier begins, and what is due for all the tiers before it
    for tier in model.tiers:
        rate, flat = _rate(tier), Fraction(tier.flat)
        yield rate, flat + below - lower * rate
        if model.type == "graduated" and tier.up_to is not None:
            below += flat + (Fraction(tier.up_to) - lower) * rate
            lower = Fraction(tier.up_to)


def _rate(priced: PerUnit | Tier) -> Fraction:
    return Fraction(priced.amount) / Fraction(priced.per)


def _integers(slope: Fraction, offset: Fraction) -> tuple[int, int, int]:
    """``a, b, d`` such that the line is ``(a * q + b) / d``."""
    divisor = lcm(slope.denominator, offset.denominator)
    return int(slope * divisor), int(offset * divisor), divisor


def _half_even(numerator: int, denominator: int) -> int:
    """The integer nearest to the fraction, or the even one of two; ``denominator`` is positive."""
    whole, rest = divmod(numerator, denominator)
    rest += rest
    if rest < denominator:
        return whole
    return whole + 1 if rest > denominator else whole + (whole & 1)


# Explaining: from a charge to its arithmetic


def describe(model: Model, quantum: Decimal, before: Decimal, after: Decimal, asset: str) -> list[str]:
    """The arithmetic of the charge for raising a total from ``before`` to ``after``, to be followed with a pencil.

    What is due comes from ``price_function``. A number with more than twelve decimal places is cut and ends in "…".
    """
    price = price_function(model, quantum)
    due_before, due_after = price(before), price(after)
    subtrahend = format_amount(due_before) if due_before >= 0 else f"({format_amount(due_before)})"
    return [
        *_describe_total(model, quantum, before, due_before, asset),
        *_describe_total(model, quantum, after, due_after, asset),
        f"charge = F({format_quantity(after)}) - F({format_quantity(before)})"
        f" = {format_amount(due_after)} - {subtrahend} = {format_amount(due_after - due_before)} {asset}",
    ]


def _describe_total(model: Model, quantum: Decimal, total: Decimal, due: int, asset: str) -> list[str]:
    """One line for each tier that is used, then ``F(total)``."""
    tiers: list[str] = []
    if isinstance(model, Tiered):
        tiers, steps, exact = _tier_arithmetic(model, total)
    else:
        steps, exact = _arithmetic(model, total)
    line = " = ".join([f"F({format_quantity(total)})", *steps, _decimal_text(exact)])
    if exact * MICROUNITS != due:
        line += f", rounded half to even to a multiple of {format_quantity(quantum)}: {format_amount(due)}"
    return [*tiers, f"{line} {asset}"]


def _arithmetic(model: PerUnit | Package | Dynamic, total: Decimal) -> tuple[list[str], Fraction]:
    """The expressions that equal ``F(total)``, ever simpler, and its exact value before rounding."""
    if isinstance(model, Dynamic):
        return [], Fraction(total)
    quantities = [format_quantity(total)]
    if model.free:
        quantities[0] = f"max(0, {quantities[0]} - {format_quantity(model.free)})"
        total = max(ZERO, EXACT.subtract(total, model.free))
        quantities.append(format_quantity(total))
    if isinstance(model, PerUnit):
        return [f"{quantity} x {_rate_text(model)}" for quantity in quantities], Fraction(total) * _rate(model)
    started = ceil(Fraction(total) / Fraction(model.size))
    size, amount = format_quantity(model.size), format_quantity(model.amount)
    steps = [f"ceil({quantity} / {size}) x {amount}" for quantity in quantities]
    return [*steps, f"{started} x {amount}"], started * Fraction(model.amount)


def _tier_arithmetic(model: Tiered, total: Decimal) -> tuple[list[str], list[str], Fraction]:
    """A line for each tier used, their sum if there are several, and the exact value before rounding."""
    lines, dues = [], []
    for name, quantity, tier, flat in _slices(model, total):
        due = Fraction(quantity) * _rate(tier) + Fraction(flat)
        flat_text = f" + flat {format_quantity(flat)}" if flat else ""
        lines.append(f"{name}: {format_quantity(quantity)} x {_rate_text(tier)}{flat_text} = {_decimal_text(due)}")
        dues.append(due)
    steps = [" + ".join(map(_decimal_text, dues))] if len(dues) > 1 else []
    return lines, steps, sum(dues, Fraction(0))


def _slices(model: Tiered, total: Decimal) -> Iterator[tuple[str, Decimal, Tier, Decimal]]:
    """The name of each tier that is used, the quantity that it prices, the tier, and the flat that is due."""
    if total < 0:
        yield "below 0, at the unit price of tier 1", total, model.tiers[0], ZERO
    lower = ZERO
    for number, tier in enumerate(model.tiers, start=1):
        upper = total if tier.up_to is None else min(total, tier.up_to)
        is_last_used = upper == total
        if upper > lower and (is_last_used or model.type == "graduated"):
            above = f" above {format_quantity(lower)}" if lower else ""
            up_to = f" up to {format_quantity(tier.up_to)}" if tier.up_to is not None else ""
            priced = EXACT.subtract(upper, lower) if model.type == "graduated" else total
            yield f"tier {number}{above}{up_to}", priced, tier, tier.flat
        if is_last_used:
            return
        lower = upper


def _rate_text(priced: PerUnit | Tier) -> str:
    amount = format_quantity(priced.amount)
    return amount if priced.per == 1 else f"{amount} / {format_quantity(priced.per)}"


def _decimal_text(value: Fraction) -> str:
    digits, rest = divmod(abs(value.numerator) * 10**SHOWN_PLACES, value.denominator)
    whole, decimals = divmod(digits, 10**SHOWN_PLACES)
    sign = "-" if value < 0 else ""
    text = f"{sign}{whole}.{decimals:0{SHOWN_PLACES}d}"
    return f"{text}…" if rest else text.rstrip("0").rstrip(".")
