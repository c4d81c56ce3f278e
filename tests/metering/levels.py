"""What a gauge's policy makes of values, worked out from all of them at once, with fractions.

Shares no code with metering but the shape of meters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from tallystick.metering.model import Meter

Value = tuple[datetime, Fraction]

_FIRST = datetime(2, 1, 1, tzinfo=UTC)


def interval_at(meter: Meter, at: datetime) -> datetime:
    """When the interval begins in which ``at`` lies."""
    return at - (at - _FIRST) % timedelta(minutes=meter.interval_minutes)


def expected_levels(
    meter: Meter, values: Iterable[Value], covered: Collection[datetime] = ()
) -> dict[datetime, Fraction]:
    """The level of each interval, by its begin: of several values the latest, and estimates in gaps."""
    step = timedelta(minutes=meter.interval_minutes)
    latest: dict[datetime, Value] = {}
    for at, value in sorted(values):
        latest[interval_at(meter, at)] = (at, value)
    levels = {begin: value for begin, (_, value) in latest.items()}
    begins = sorted(latest)
    for left, right in pairwise(begins):
        missing = [left + step * number for number in range(1, (right - left) // step)]
        if not missing or step * len(missing) > timedelta(hours=meter.max_gap_hours) or set(missing) & set(covered):
            continue
        first, last = latest[left][1], latest[right][1]
        for number, begin in enumerate(missing, 1):
            on_line = first + (last - first) * number / (len(missing) + 1)
            levels[begin] = first if meter.on_gap == "held" else Fraction(round(on_line * 10**6), 10**6)
    return levels
