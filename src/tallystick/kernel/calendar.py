"""The business calendar: months of a configured zone, half open, right across daylight saving."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from tallystick.kernel.errors import InvalidInput

DEFAULT_ZONE = ZoneInfo("America/New_York")


@dataclass(frozen=True, slots=True)
class Month:
    """A business month: named by its first day, and the UTC instants ``start`` (inclusive) and ``end`` (exclusive)."""

    first_day: date
    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.first_day:%Y-%m}"

    @property
    def next_first_day(self) -> date:
        """The first day of the month after it."""
        return _month_after(self.first_day)

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end


def month_of(instant: datetime, zone: ZoneInfo = DEFAULT_ZONE) -> Month:
    """The month of ``zone`` in which ``instant`` lies."""
    return month_starting(instant.astimezone(zone).date().replace(day=1), zone)


def month_before(instant: datetime, zone: ZoneInfo = DEFAULT_ZONE) -> Month:
    """The last month of ``zone`` that had ended at ``instant``."""
    first_day = month_of(instant, zone).first_day
    year, month = (first_day.year, first_day.month - 1) if first_day.month > 1 else (first_day.year - 1, 12)
    return month_starting(date(year, month, 1), zone)


def month_starting(first_day: date, zone: ZoneInfo = DEFAULT_ZONE) -> Month:
    """The month whose first day is ``first_day``."""
    return Month(first_day, _midnight(first_day, zone), _midnight(_month_after(first_day), zone))


def parse_month(text: str, zone: ZoneInfo = DEFAULT_ZONE, *, field: str = "month") -> Month:
    """Reads ``YYYY-MM``. Raises ``InvalidInput``."""
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text, re.ASCII) or not "0002" <= text[:4] <= "9998":
        raise InvalidInput(f"{field} must be a month as YYYY-MM", field=field)
    return month_starting(date(int(text[:4]), int(text[5:]), 1), zone)


def _month_after(first_day: date) -> date:
    return date(first_day.year + first_day.month // 12, first_day.month % 12 + 1, 1)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
