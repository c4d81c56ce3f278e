"""From values to quantities: what a measurement adds to its usage total. Pure.

Where the quantity depends on what came before, a ``State`` is folded over the measurements of one scope in the order of
their times. A measurement older than its state is kept and counts zero, so the fold never has to be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from tallystick.kernel.clock import instant_text
from tallystick.kernel.ids import derived_id
from tallystick.kernel.money import EXACT, plain
from tallystick.metering.model import Meter

ZERO = Decimal(0)
ONE = Decimal(1)


class State(msgspec.Struct, frozen=True, gc=False):
    """Where a scope stands: the last value that counted and its time."""

    value: Decimal
    at: datetime


class Step(msgspec.Struct, frozen=True, gc=False):
    """What one measurement adds, the state after it, and, if the quantity is not simply the value, why."""

    quantity: Decimal
    state: State
    remark: str | None


Fold = Callable[[State | None, Decimal, datetime], Step]


WITHOUT_UNIT_PRICE = "waits: the price is dynamic and the measurement brought no unit_price"


def in_money(quantity: Decimal, unit_price: Decimal, remark: str | None) -> tuple[Decimal, str]:
    """What a quantity is under a dynamic price, which is money: units times the unit price the sender gave; and why."""
    reason = f"{plain(quantity)} x unit price {plain(unit_price)}"
    return EXACT.multiply(quantity, unit_price), f"{remark}; {reason}" if remark else reason


def counter_scope(meter: Meter, resource: str) -> UUID:
    """The id of what a counter keeps its state for: the resource, for ever."""
    return derived_id("counter", meter.key, resource)


def scope_of(meter: Meter, kind: str, resource: str, period: str, value: Decimal) -> UUID:
    """The id of what a stateful meter keeps its state for.

    A counter: the resource, for ever. A maximum or latest value: the kind in a period. A unique count: each value of
    the kind in a period.
    """
    if meter.kind == "counter":
        return counter_scope(meter, resource)
    if meter.aggregation == "unique":
        return derived_id("unique", meter.key, kind, period, format(value.normalize(EXACT), "f"))
    return derived_id(meter.aggregation, meter.key, kind, period)


def fold_of(meter: Meter) -> Fold:
    """The fold of a meter."""
    if meter.kind == "counter":
        return _counter_from_zero if meter.on_drop == "from_zero" else _counter_rebasing
    return {"sum": _sum, "max": _maximum, "latest": _latest, "unique": _unique}[meter.aggregation]


def _sum(_: State | None, value: Decimal, at: datetime) -> Step:
    return Step(value, State(value, at), None)


def _counter_rebasing(state: State | None, value: Decimal, at: datetime) -> Step:
    return _counter(state, value, at, None)


def _counter_from_zero(state: State | None, value: Decimal, at: datetime) -> Step:
    return _counter(state, value, at, value)


def _counter(state: State | None, value: Decimal, at: datetime, after_drop: Decimal | None) -> Step:
    if state is None:
        return Step(ZERO, State(value, at), "baseline: the first value of this counter")
    if at <= state.at:
        return Step(ZERO, state, f"not newer than the value {plain(state.value)} at {instant_text(state.at)}")
    if value == state.value:
        return Step(ZERO, state, f"unchanged since {instant_text(state.at)}")
    if value > state.value:
        return Step(EXACT.subtract(value, state.value), State(value, at), _difference("counter", value, state.value))
    if after_drop is None:
        return Step(ZERO, State(value, at), f"counter fell from {plain(state.value)}: new base")
    return Step(after_drop, State(value, at), f"counter fell from {plain(state.value)}: counted from zero")


def _maximum(state: State | None, value: Decimal, at: datetime) -> Step:
    if state is None:
        return Step(value, State(value, at), "maximum: the first value of the period")
    if value <= state.value:
        return Step(ZERO, state, f"not above the maximum {plain(state.value)}")
    return Step(EXACT.subtract(value, state.value), State(value, at), _difference("maximum", value, state.value))


def _latest(state: State | None, value: Decimal, at: datetime) -> Step:
    if state is None:
        return Step(value, State(value, at), "latest: the first value of the period")
    if at <= state.at:
        return Step(ZERO, state, f"not newer than the value at {instant_text(state.at)}")
    return Step(EXACT.subtract(value, state.value), State(value, at), _difference("latest", value, state.value))


def _unique(state: State | None, value: Decimal, at: datetime) -> Step:
    if state is None:
        return Step(ONE, State(value, at), f"unique: {plain(value)} was not counted yet in this period")
    return Step(ZERO, state, f"unique: {plain(value)} is counted already")


def _difference(what: str, value: Decimal, before: Decimal) -> str:
    remark = f"{what}: {value!s} - {before!s}"  # many times as fast as formats, and right unless one has an exponent
    return remark if "E" not in remark else f"{what}: {value:f} - {before:f}"
