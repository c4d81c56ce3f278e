from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tallystick.kernel.clock import SystemClock, TestClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_machines_clock_tells_utc() -> None:
    assert SystemClock().now().tzinfo is UTC


def test_a_test_clock_stands_still_until_it_is_moved() -> None:
    clock = TestClock(NOON)
    assert clock.now() == clock.now() == NOON
    clock.advance(timedelta(days=365))
    assert clock.now() == datetime(2027, 3, 1, 12, tzinfo=UTC)
    clock.set(datetime(2027, 3, 2, tzinfo=UTC))
    assert clock.now() == datetime(2027, 3, 2, tzinfo=UTC)


def test_a_test_clock_tells_utc_in_whatever_zone_it_was_set() -> None:
    clock = TestClock(datetime(2026, 3, 1, 7, tzinfo=ZoneInfo("America/New_York")))
    assert clock.now() == NOON
    assert clock.now().tzinfo is UTC
    clock.set(datetime(2026, 7, 1, 14, tzinfo=ZoneInfo("Europe/Zurich")))
    assert clock.now().tzinfo is UTC


def test_business_time_never_runs_backwards() -> None:
    clock = TestClock(NOON)
    with pytest.raises(ValueError, match="does not run backwards"):
        clock.advance(timedelta(microseconds=-1))
    with pytest.raises(ValueError, match="does not run backwards"):
        clock.set(NOON - timedelta(days=1))
    assert clock.now() == NOON
