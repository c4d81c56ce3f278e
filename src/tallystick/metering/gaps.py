"""Gauges whose gaps are filled: what one more value changes, in its own interval and in those around it. Pure.

Time is cut into intervals as long as a value of the meter stands for. In each a series has one value, the latest of
those that were measured in it. Where values are missing between two others, and the gap is not too long, each missing
interval gets an estimate: the value before the gap (``held``), or one on the line between the values on its two sides
(``interpolated``). What an interval has been charged for so far is its level; when another value or estimate takes its
place, the difference is charged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple
from uuid import UUID

from tallystick.kernel.ids import derived_id
from tallystick.kernel.money import EXACT, format_quantity
from tallystick.metering.model import Meter
from tallystick.metering.sources.values import EARLIEST

HOUR_MINUTES = 60

ESTIMATE_PLACES = 6
"""An interpolated value is rounded to so many decimal places, half to even."""

_ZERO = Decimal(0)
_MINUTE = timedelta(minutes=1)


class Level(NamedTuple):
    """What an interval stands at: a value that was measured ``at`` some time in it or, without that, an estimate."""

    value: Decimal
    at: datetime | None


class Change(NamedTuple):
    """The estimate of an interval becomes ``after``; what it stood at so far was ``before``."""

    slot: int
    before: Decimal
    after: Decimal


class Step(NamedTuple):
    """What one value adds to the level of its own interval, why if that is not the value, and what else it changes."""

    difference: Decimal
    remark: str | None
    changes: list[Change]


def slot_of(meter: Meter, at: datetime) -> int:
    """The number of the interval in which ``at`` lies. All are counted from one instant on."""
    return (at - EARLIEST) // (_MINUTE * meter.interval_minutes)


def start_of(meter: Meter, slot: int) -> datetime:
    """The instant at which an interval begins."""
    return EARLIEST + _MINUTE * meter.interval_minutes * slot


def reach_of(meter: Meter) -> int:
    """How many intervals away a value can change anything, or be changed by anything."""
    return max_slots_of(meter) + 1


def max_slots_of(meter: Meter) -> int:
    """How many intervals in a row are filled at most."""
    return meter.max_gap_hours * HOUR_MINUTES // meter.interval_minutes


def level_scope(meter: Meter, source: str, kind: str, resource: str, agent: str) -> UUID:
    """The id of what has one level in each interval."""
    return derived_id("gauge", source, meter.key, kind, resource, agent)


def in_hours(meter: Meter, difference: Decimal) -> Decimal:
    """The quantity of a level: value times the hours of an interval."""
    if meter.interval_minutes == HOUR_MINUTES:
        return difference
    return EXACT.multiply(difference, EXACT.divide(Decimal(meter.interval_minutes), HOUR_MINUTES))


def hours_remark(meter: Meter, value: Decimal, remark: str | None) -> str | None:
    """Why a quantity is not the value, if an interval is no hour."""
    if meter.interval_minutes == HOUR_MINUTES:
        return remark
    reason = f"{format_quantity(value)} x {meter.interval_minutes} minutes"
    return f"{remark}; {reason}" if remark else reason


def estimate_remark(meter: Meter, change: Change) -> str:
    """What stands beside an estimate."""
    instead = f": {format_quantity(change.after)} instead of {format_quantity(change.before)}" if change.before else ""
    return f"estimated ({meter.on_gap}){instead}"


def put(
    meter: Meter, known: MutableMapping[int, Level], covered: Collection[int], slot: int, value: Decimal, at: datetime
) -> Step:
    """Takes a value of the interval ``slot`` in. ``known`` holds the levels within reach, the new ones too afterwards.

    ``covered`` are intervals in which the source was read: if it named no value there, there was nothing to measure,
    and a stretch with such an interval in it is no gap.
    """
    standing = known.get(slot)
    if standing is not None and standing.at is not None and at <= standing.at:
        reason = (
            f"not newer than the value {format_quantity(standing.value)} of its interval, at {standing.at.isoformat()}"
        )
        return Step(_ZERO, reason, [])
    known[slot] = Level(value, at)
    changes = []
    for beside, estimate in _estimates(meter, known, covered, slot).items():
        before = known[beside].value if beside in known else _ZERO
        if estimate != before:
            known[beside] = Level(estimate, None)
            changes.append(Change(beside, before, estimate))
    if standing is None:
        return Step(value, None, changes)
    what = "estimate" if standing.at is None else "value"
    reason = f"{format_quantity(value)} instead of the {what} {format_quantity(standing.value)} of its interval"
    return Step(EXACT.subtract(value, standing.value), reason, changes)


def _estimates(meter: Meter, known: Mapping[int, Level], covered: Collection[int], slot: int) -> dict[int, Decimal]:
    """What the intervals between the measured one ``slot`` and its measured neighbours are to stand at."""
    reach = reach_of(meter)
    before = next((other for other in range(slot - 1, slot - reach - 1, -1) if _is_measured(known, other)), None)
    after = next((other for other in range(slot + 1, slot + reach + 1) if _is_measured(known, other)), None)
    found: dict[int, Decimal] = {}
    for left, right in ((before, slot), (slot, after)):
        if left is not None and right is not None:
            found |= _between(meter, known, covered, left, right)
    return found


def _between(
    meter: Meter, known: Mapping[int, Level], covered: Collection[int], left: int, right: int
) -> dict[int, Decimal]:
    slots = range(left + 1, right)
    if len(slots) > max_slots_of(meter) or any(slot in covered for slot in slots):
        return {slot: _ZERO for slot in slots if slot in known}
    first, last = known[left].value, known[right].value
    if meter.on_gap == "held":
        return dict.fromkeys(slots, first)
    return {slot: _on_line(first, last, slot - left, right - left) for slot in slots}


def _is_measured(known: Mapping[int, Level], slot: int) -> bool:
    return slot in known and known[slot].at is not None


def _on_line(first: Decimal, last: Decimal, part: int, whole: int) -> Decimal:
    """The value ``part`` steps of ``whole`` behind ``first``."""
    exact = Fraction(first) + (Fraction(last) - Fraction(first)) * Fraction(part, whole)
    return Decimal(format_quantity(EXACT.scaleb(Decimal(round(exact * 10**ESTIMATE_PLACES)), -ESTIMATE_PLACES)))
