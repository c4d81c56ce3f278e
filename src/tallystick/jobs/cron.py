"""When an entry of the schedule is due: a cron expression in a zone. Pure.

A slot is an instant. Each time of day that the clocks of the zone show is one slot: a time that comes twice, in autumn,
counts when it comes first (as in RFC 5545, 3.3.5), and one that is skipped, in spring, counts at the moment of the
change. So a daily job runs once a day, all year. What is to run every hour belongs into UTC, where no hour is special.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]

FIELDS = 5
"""Minute, hour, day of the month, month, day of the week."""

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, read in a zone. Raises ``ValueError`` if it is none."""

    expression: str
    zone: ZoneInfo

    def __post_init__(self) -> None:
        if len(self.expression.split()) != FIELDS or not croniter.is_valid(self.expression):
            raise ValueError(f"{self.expression!r} is no cron expression of {FIELDS} fields")

    def after(self, instant: datetime) -> Iterator[datetime]:
        """All slots later than ``instant``, in their order; in UTC."""
        # A reading up to that of `instant` stands for no later instant, so none is missed by starting there.
        readings = croniter(self.expression, self._reading(instant))
        latest = instant
        while True:
            try:
                slot = self._instant(readings.get_next(datetime))
            except CroniterBadDateError:  # there is no such day, as the 30th of February
                return
            if slot > latest:  # else another reading that the change skips, or one that came before `instant`
                latest = slot
                yield slot

    def last(self, after: datetime, until: datetime) -> datetime | None:
        """The last slot later than ``after`` and not later than ``until``."""
        reading = self._reading(until)
        # While clocks show an hour for the second time, the rest of that hour has come before already.
        repeated = until - self._instant(reading)
        readings = croniter(self.expression, reading + repeated + _TICK)
        while True:
            try:
                slot = self._instant(readings.get_prev(datetime))
            except CroniterBadDateError:
                return None
            if slot <= until:
                return slot if slot > after else None

    def _reading(self, instant: datetime) -> datetime:
        """What clocks of the zone show then. It is no instant, although it says UTC: croniter counts best in that."""
        return instant.astimezone(self.zone).replace(tzinfo=UTC, fold=0)

    def _instant(self, reading: datetime) -> datetime:
        """When clocks of the zone first show this, or pass over it."""
        instant = reading.replace(tzinfo=self.zone).astimezone(UTC)
        if self._reading(instant) == reading:
            return instant
        return _change(self.zone, instant - timedelta(days=1), instant)


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first whole second between two instants at which the zone's offset is the later one's."""
    offset = after.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return before + timedelta(seconds=high)
