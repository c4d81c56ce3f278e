"""Periods that reports are made for: days, weeks, months and years of the business zone, counted from the present."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from tallystick.kernel.calendar import Month
from tallystick.kernel.errors import InvalidInput

MAX_PERIODS = 60
"""The most periods of one report."""
MAX_OFFSET = 10_000
"""How many periods back or ahead a report may start."""

Unit = Literal["day", "week", "month", "year"]

_FIRST_YEAR, _LAST_YEAR = 2, 9998
_ZONES_APART = timedelta(days=2)
"""No instant of a business month, in whatever zone, is farther outside of it than that in another one."""


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of business time: the UTC instants ``start`` (inclusive) and ``end`` (exclusive), and its label.

    Usage is in a month, or year, if it was charged in it: its bill decides. It is in a day or week by its own time.
    """

    label: str
    start: datetime
    end: datetime
    months: tuple[date, date] | None
    """First and last month, by their first days, if it is made of whole months."""

    @property
    def window(self) -> tuple[datetime, datetime]:
        """Where its measurements lie; for months a little more than that, since ``months`` decides."""
        slack = timedelta(0) if self.months is None else _ZONES_APART
        return self.start - slack, self.end + slack


def period_of(month: Month) -> Period:
    """A business month as a period."""
    return Period(str(month), month.start, month.end, (month.first_day, month.first_day))


def periods(unit: Unit, after: int, before: int, now: datetime, zone: ZoneInfo) -> list[Period]:
    """From the period ``after`` periods from the present one up to the one before ``before``: -1 and 0 mean the last.

    The present one is that in which ``now`` lies in the zone. Raises ``InvalidInput``.
    """
    if not -MAX_OFFSET <= after < before <= MAX_OFFSET:
        raise InvalidInput(
            f"after must be less than before, and both from -{MAX_OFFSET} to {MAX_OFFSET}: -1 and 0 mean the last one",
            field="after",
        )
    if before - after > MAX_PERIODS:
        raise InvalidInput(f"after and before must be at most {MAX_PERIODS} periods apart", field="after")
    today = now.astimezone(zone).date()
    try:
        return [_period(unit, today, offset, zone) for offset in range(after, before)]
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"after and before must lie in the years {_FIRST_YEAR} to {_LAST_YEAR}", field="after"
        ) from None


def _period(unit: Unit, today: date, offset: int, zone: ZoneInfo) -> Period:
    first, after_last = _first_day(unit, today, offset), _first_day(unit, today, offset + 1)
    if first.year < _FIRST_YEAR or after_last.year > _LAST_YEAR:
        raise ValueError(first)
    months = None if unit in ("day", "week") else (first, (after_last - timedelta(days=1)).replace(day=1))
    return Period(_label(unit, first), _midnight(first, zone), _midnight(after_last, zone), months)


def _first_day(unit: Unit, today: date, offset: int) -> date:
    """The first day of the period ``offset`` periods from the one in which ``today`` lies. Weeks begin on Mondays."""
    match unit:
        case "day":
            return today + timedelta(days=offset)
        case "week":
            return today - timedelta(days=today.weekday()) + timedelta(weeks=offset)
        case "month":
            number = today.year * 12 + today.month - 1 + offset
            return date(number // 12, number % 12 + 1, 1)
        case "year":
            return date(today.year + offset, 1, 1)


def _label(unit: Unit, first: date) -> str:
    match unit:
        case "day":
            return first.isoformat()
        case "week":
            year, week, _ = first.isocalendar()
            return f"{year:04}-W{week:02}"
        case "month":
            return f"{first.year:04}-{first.month:02}"
        case "year":
            return f"{first.year:04}"


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
