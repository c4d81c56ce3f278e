"""Periods of reports: business time, whatever the database's time zone and the machine's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.billing.periods import MAX_PERIODS, Unit, period_of, periods
from tallystick.kernel.calendar import month_before, month_of
from tallystick.kernel.errors import InvalidInput

NEW_YORK = ZoneInfo("America/New_York")
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
UNITS: tuple[Unit, ...] = ("day", "week", "month", "year")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


def test_fixed_the_last_month_is_that_of_the_business_zone() -> None:
    """[B] theirs was cut by the time zone of the database session."""
    for now, first, end in (
        (utc(2025, 2, 1, 5), utc(2025, 1, 1, 5), utc(2025, 2, 1, 5)),
        (utc(2025, 2, 1, 4, 59, 59), utc(2024, 12, 1, 5), utc(2025, 1, 1, 5)),
        (utc(2025, 4, 1, 4), utc(2025, 3, 1, 5), utc(2025, 4, 1, 4)),
        (utc(2025, 12, 1, 5), utc(2025, 11, 1, 4), utc(2025, 12, 1, 5)),
    ):
        (last,) = periods("month", -1, 0, now, NEW_YORK)
        assert (last.start, last.end) == (first, end)
        assert last == period_of(month_before(now, NEW_YORK))


@pytest.mark.parametrize(
    ("unit", "labels", "start", "end"),
    [
        ("day", ["2026-03-18", "2026-03-19", "2026-03-20"], utc(2026, 3, 18, 4), utc(2026, 3, 21, 4)),
        ("week", ["2026-W10", "2026-W11", "2026-W12"], utc(2026, 3, 2, 5), utc(2026, 3, 23, 4)),
        ("month", ["2026-01", "2026-02", "2026-03"], utc(2026, 1, 1, 5), utc(2026, 4, 1, 4)),
        ("year", ["2024", "2025", "2026"], utc(2024, 1, 1, 5), utc(2027, 1, 1, 5)),
    ],
)
def test_periods_are_counted_from_the_present_one(
    unit: Unit, labels: list[str], start: datetime, end: datetime
) -> None:
    found = periods(unit, -2, 1, NOW, NEW_YORK)
    assert [period.label for period in found] == labels
    assert (found[0].start, found[-1].end) == (start, end)


@given(
    st.sampled_from(UNITS),
    st.integers(-300, 300),
    st.integers(1, MAX_PERIODS),
    st.integers(-(10**9) * 2, 7 * 10**9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.sampled_from([NEW_YORK, ZoneInfo("UTC"), ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Africa/Monrovia")]),
)
def test_periods_follow_each_other_without_gaps(
    unit: Unit, after: int, number: int, now: datetime, zone: ZoneInfo
) -> None:
    found = periods(unit, after, after + number, now, zone)
    assert len({period.label for period in found}) == len(found) == number
    assert all(one.end == other.start for one, other in pairwise(found))
    assert all(period.start < period.end for period in found)
    assert all(period.window[0] <= period.start < period.end <= period.window[1] for period in found)
    if after <= 0 < after + number:
        present = found[-after]
        assert present.start <= now < present.end
        if unit == "month":
            assert present == period_of(month_of(now, zone))


def test_a_year_is_its_twelve_months() -> None:
    (year,) = periods("year", -1, 0, NOW, NEW_YORK)
    assert year.months is not None
    assert [day.isoformat() for day in year.months] == ["2025-01-01", "2025-12-01"]
    assert periods("day", -1, 0, NOW, NEW_YORK)[0].months is None


def test_the_hour_that_comes_twice_is_in_one_day() -> None:
    (day,) = periods("day", 0, 1, utc(2026, 11, 1, 12), NEW_YORK)
    assert day.end - day.start == timedelta(hours=25)


@pytest.mark.parametrize(
    ("after", "before", "rule"),
    [
        (0, 0, "less than"),
        (1, 0, "less than"),
        (-10_001, 0, "less than"),
        (0, 10_001, "less than"),
        (-MAX_PERIODS, 1, f"{MAX_PERIODS} periods apart"),
        (-10_000, -9_999, "years"),
        (9_999, 10_000, "years"),
    ],
)
def test_what_is_no_stretch_of_periods_is_refused(after: int, before: int, rule: str) -> None:
    with pytest.raises(InvalidInput, match=rule) as refused:
        periods("year", after, before, NOW, NEW_YORK)
    assert refused.value.field == "after"
