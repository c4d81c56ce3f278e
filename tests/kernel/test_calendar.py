from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.calendar import DEFAULT_ZONE, Month, month_before, month_of, month_starting, parse_month
from tallystick.kernel.errors import InvalidInput

MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1)

zones = st.sampled_from(
    [
        "UTC",
        "America/New_York",
        "Europe/Zurich",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "Pacific/Kiritimati",
        "Australia/Lord_Howe",
    ]
).map(ZoneInfo)
instants = st.timedeltas(timedelta(0), timedelta(days=365 * 300)).map(datetime(1900, 1, 1, tzinfo=UTC).__add__)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# The bounds that billing in New York has always had.


@pytest.mark.parametrize(
    ("as_of", "start", "end"),
    [
        ("2025-02-01 05:00:00", "2025-01-01 05:00", "2025-02-01 05:00"),
        ("2025-02-01 04:59:59", "2024-12-01 05:00", "2025-01-01 05:00"),
        ("2025-02-15 05:00:00", "2025-01-01 05:00", "2025-02-01 05:00"),
        ("2025-04-01 04:00:00", "2025-03-01 05:00", "2025-04-01 04:00"),
        ("2025-12-01 05:00:00", "2025-11-01 04:00", "2025-12-01 05:00"),
    ],
)
def test_the_month_before(as_of: str, start: str, end: str) -> None:
    month = month_before(utc(as_of))
    assert (month.start, month.end) == (utc(start), utc(end))


@pytest.mark.parametrize(
    ("month", "hours"),
    [
        ("2025-03", 743),  # summer time begins
        ("2025-11", 721),  # and ends
        ("2025-02", 672),
        ("2024-02", 696),
        ("2025-04", 720),
        ("2025-01", 744),
    ],
)
def test_months_have_the_hours_their_days_have(month: str, hours: int) -> None:
    bounds = parse_month(month)
    assert bounds.end - bounds.start == hours * HOUR


@pytest.mark.parametrize(("year", "february"), [(2023, 28), (2024, 29), (1900, 28), (2000, 29)])
def test_months_have_28_to_31_days(year: int, february: int) -> None:
    zone = ZoneInfo("UTC")
    months = [month_starting(date(year, number, 1), zone) for number in range(1, 13)]
    assert [(month.end - month.start).days for month in months] == [
        31,
        february,
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ]


def test_a_month_is_half_open_to_the_microsecond() -> None:
    march = parse_month("2025-03")
    assert march.start in march
    assert march.end - MICROSECOND in march
    assert march.end not in march
    assert march.start - MICROSECOND not in march
    assert month_of(march.end - MICROSECOND) == march
    assert str(month_of(march.end)) == "2025-04"


@given(instants, zones)
def test_every_instant_lies_in_the_month_that_its_zone_shows(instant: datetime, zone: ZoneInfo) -> None:
    month = month_of(instant, zone)
    local = instant.astimezone(zone)
    assert instant in month
    assert (month.first_day.year, month.first_day.month, month.first_day.day) == (local.year, local.month, 1)
    assert month.start.tzinfo is UTC
    assert month.end.tzinfo is UTC


@given(instants, zones)
def test_months_follow_each_other_without_gap_or_overlap(instant: datetime, zone: ZoneInfo) -> None:
    month = month_of(instant, zone)
    assert month_of(month.end, zone).start == month.end
    assert month_before(instant, zone).end == month.start
    assert month_of(month.start - MICROSECOND, zone) == month_before(instant, zone)


def test_a_year_is_its_months() -> None:
    months = [parse_month(f"2025-{number:02}") for number in range(1, 13)]
    assert all(earlier.end == later.start for earlier, later in pairwise(months))
    assert months[-1].end - months[0].start == timedelta(days=365)
    assert month_before(utc("2025-01-15 12:00")) == parse_month("2024-12")


def test_the_zone_makes_the_month() -> None:
    newyear = utc("2026-01-01 00:30")
    assert str(month_of(newyear, ZoneInfo("Europe/Zurich"))) == "2026-01"
    assert str(month_of(newyear)) == "2025-12"
    assert ZoneInfo("America/New_York") == DEFAULT_ZONE


def test_an_instant_may_come_in_any_zone() -> None:
    kathmandu = datetime(2026, 1, 1, 4, tzinfo=ZoneInfo("Asia/Kathmandu"))
    assert month_of(kathmandu) == parse_month("2025-12")


@given(st.dates(min_value=date(2, 1, 1), max_value=date(9998, 12, 31)), zones)
def test_a_month_is_read_as_it_is_written(day: date, zone: ZoneInfo) -> None:
    month = month_starting(day.replace(day=1), zone)
    assert parse_month(f"{day.year:04}-{day.month:02}", zone) == month


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2025",
        "2025-13",
        "2025-00",
        "2025-1",
        "25-01",
        "2025-01-01",
        " 2025-01",
        "2025-01\n",
        "2025/01",
        "٢٠٢٥-٠١",  # noqa: RUF001  # digits, but not those of ISO 8601
        "0001-01",
        "9999-12",
    ],
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_month(text, field="period")
    assert str(refused.value) == "period must be a month as YYYY-MM"
    assert refused.value.field == "period"


def test_months_are_values() -> None:
    assert parse_month("2025-05") == Month(date(2025, 5, 1), utc("2025-05-01 04:00"), utc("2025-06-01 04:00"))
    assert len({parse_month("2025-05"), parse_month("2025-05")}) == 1
