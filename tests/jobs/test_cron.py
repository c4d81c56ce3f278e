"""When slots are: cron expressions over both changes of the clock, and in zones with odd ones."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.jobs.cron import Cron

NEW_YORK = ZoneInfo("America/New_York")
UTC_ZONE = ZoneInfo("UTC")
ZONES = [
    UTC_ZONE,
    NEW_YORK,
    ZoneInfo("Europe/Berlin"),
    ZoneInfo("Australia/Lord_Howe"),  # half an hour
    ZoneInfo("America/Havana"),  # at midnight
    ZoneInfo("Pacific/Apia"),
]

expressions = st.sampled_from(
    [
        "30 2 * * *",
        "*/15 * * * *",
        "1 * * * *",
        "1 6 1 * *",
        "0 0 * * *",
        "45 1,2 * * 0",
        "59 23 28-31 * *",
        "30 0 30 12 *",
    ]
)
instants = st.datetimes(datetime(2011, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
spans = st.timedeltas(timedelta(0), timedelta(days=3))


def between(cron: Cron, after: datetime, until: datetime) -> list[datetime]:
    return list(takewhile(lambda slot: slot <= until, cron.after(after)))


def test_a_time_that_spring_skips_is_the_moment_of_the_change() -> None:
    daily = Cron("30 2 * * *", NEW_YORK)
    days = between(daily, datetime(2026, 3, 7, 0, tzinfo=UTC), datetime(2026, 3, 10, 0, tzinfo=UTC))
    assert days == [
        datetime(2026, 3, 7, 7, 30, tzinfo=UTC),
        datetime(2026, 3, 8, 7, 0, tzinfo=UTC),
        datetime(2026, 3, 9, 6, 30, tzinfo=UTC),
    ]


def test_a_time_that_comes_twice_in_autumn_counts_the_first_time() -> None:
    daily = Cron("30 1 * * *", NEW_YORK)
    days = between(daily, datetime(2026, 10, 31, 0, tzinfo=UTC), datetime(2026, 11, 3, 0, tzinfo=UTC))
    assert days == [
        datetime(2026, 10, 31, 5, 30, tzinfo=UTC),
        datetime(2026, 11, 1, 5, 30, tzinfo=UTC),
        datetime(2026, 11, 2, 6, 30, tzinfo=UTC),
    ]


@pytest.mark.parametrize("expression", ["30 1 * * *", "30 2 * * *"])
@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_a_daily_job_runs_once_on_each_day_of_a_year(zone: ZoneInfo, expression: str) -> None:
    begin, end = (datetime(year, 1, 1, tzinfo=zone) for year in (2026, 2027))
    days = Counter(slot.astimezone(zone).date() for slot in between(Cron(expression, zone), begin, end))
    assert len(days) == 365
    assert set(days.values()) == {1}


def test_every_hour_of_utc_is_one_slot_whatever_clocks_show() -> None:
    hourly = Cron("1 * * * *", UTC_ZONE)
    slots = between(hourly, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert len(slots) == 8760
    assert {later - earlier for earlier, later in pairwise(slots)} == {timedelta(hours=1)}


def test_the_first_of_the_month_in_new_york() -> None:
    """Whatever the season, the month has ended there, and six hours have passed."""
    monthly = Cron("1 6 1 * *", NEW_YORK)
    slots = list(islice(monthly.after(datetime(2026, 2, 15, tzinfo=UTC)), 3))
    assert slots == [datetime(2026, month, 1, hour, 1, tzinfo=UTC) for month, hour in ((3, 11), (4, 10), (5, 10))]


def test_a_day_that_a_zone_has_skipped() -> None:
    """Samoa went from the 29th of December 2011 to the 31st."""
    daily = Cron("0 12 * * *", ZoneInfo("Pacific/Apia"))
    slots = list(islice(daily.after(datetime(2011, 12, 29, 0, tzinfo=UTC)), 3))
    assert slots == [
        datetime(2011, 12, 29, 22, tzinfo=UTC),
        datetime(2011, 12, 30, 10, tzinfo=UTC),  # the change itself
        datetime(2011, 12, 30, 22, tzinfo=UTC),
    ]


def test_a_day_that_never_comes() -> None:
    never = Cron("0 0 30 2 *", NEW_YORK)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert list(never.after(now)) == []
    assert never.last(now - timedelta(days=9999), now) is None


@pytest.mark.parametrize("text", ["", "* * * *", "* * * * * *", "61 * * * *", "@daily", "a b c d e", "* * 32 * *"])
def test_what_is_no_cron_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no cron expression of 5 fields"):
        Cron(text, NEW_YORK)


@given(expressions, st.sampled_from(ZONES), instants, spans, spans)
def test_slots_follow_each_other_from_wherever_one_starts(
    expression: str, zone: ZoneInfo, begin: datetime, first: timedelta, second: timedelta
) -> None:
    cron = Cron(expression, zone)
    middle, end = begin + first, begin + first + second
    whole = between(cron, begin, end)
    assert whole == sorted(set(whole))
    assert whole == between(cron, begin, middle) + between(cron, middle, end)
    assert all(begin < slot <= end for slot in whole)
    assert cron.last(begin, end) == (whole[-1] if whole else None)


@given(st.sampled_from(ZONES), instants)
def test_slots_are_the_times_that_clocks_show(zone: ZoneInfo, begin: datetime) -> None:
    """Held against a clock on the wall that is looked at every minute."""
    cron = Cron("30 0,1,2,3 * * *", zone)
    begin = begin.replace(second=0, microsecond=0)
    seen: dict[datetime, datetime] = {}
    for minute in range(1, 26 * 60):
        instant = begin + timedelta(minutes=minute)
        reading = instant.astimezone(zone)
        if reading.hour < 4 and reading.minute == 30 and not reading.fold:
            seen.setdefault(reading.replace(tzinfo=None), instant)
    slots = between(cron, begin, begin + timedelta(minutes=26 * 60 - 1))
    assert set(seen.values()) <= set(slots)
    skipped = [slot for slot in slots if slot not in seen.values()]
    for slot in skipped:  # each stands for a time that clocks did not show: they were put forward just then
        assert slot.astimezone(zone).utcoffset() > (slot - timedelta(seconds=1)).astimezone(zone).utcoffset()  # type: ignore[operator]
