"""Token buckets, by a clock that the test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.access import limits
from tallystick.access.limits import RequestLimits, TooManyRequests

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ADA, BOB, EVE = (UUID(int=number) for number in (1, 2, 3))


def taken(buckets: RequestLimits, caller: UUID, per_minute: int, now: datetime) -> bool:
    try:
        buckets.take(caller, per_minute, now)
    except TooManyRequests:
        return False
    return True


def test_a_bucket_holds_the_requests_of_a_minute_and_fills_evenly() -> None:
    buckets = RequestLimits()
    assert [taken(buckets, ADA, 6, NOW) for _ in range(8)] == [True] * 6 + [False] * 2
    assert taken(buckets, BOB, 6, NOW)
    assert not taken(buckets, ADA, 6, NOW + timedelta(seconds=9))
    assert taken(buckets, ADA, 6, NOW + timedelta(seconds=10))
    assert not taken(buckets, ADA, 6, NOW + timedelta(seconds=10))
    later = NOW + timedelta(hours=1)
    assert [taken(buckets, ADA, 6, later) for _ in range(7)] == [True] * 6 + [False]


def test_whoever_waits_as_long_as_is_said_is_let_in() -> None:
    buckets = RequestLimits()
    buckets.take(ADA, 1, NOW)
    with pytest.raises(TooManyRequests, match="1 requests a minute") as refused:
        buckets.take(ADA, 1, NOW + timedelta(milliseconds=500))
    assert refused.value.retry_after_seconds == 60
    buckets.take(ADA, 1, NOW + timedelta(seconds=60.5))


def test_a_clock_that_is_set_back_locks_nobody_out_for_long() -> None:
    buckets = RequestLimits()
    buckets.take(ADA, 2, NOW)
    before = NOW - timedelta(days=1)
    assert not taken(buckets, ADA, 2, before)
    assert taken(buckets, ADA, 2, before + timedelta(minutes=1))


def test_whoever_has_not_called_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BUCKETS", 2)
    buckets = RequestLimits()
    assert [taken(buckets, caller, 1, NOW) for caller in (ADA, BOB, EVE)] == [True] * 3
    assert taken(buckets, ADA, 1, NOW), "it has a full bucket again"
    assert not taken(buckets, EVE, 1, NOW)


@given(
    per_minute=st.integers(1, 1_000_000),
    gaps=st.lists(st.integers(0, 90_000_000), max_size=60),
)
def test_never_more_than_a_bucket_and_what_has_flown_into_it(per_minute: int, gaps: list[int]) -> None:
    buckets, now, passed, microseconds = RequestLimits(), NOW, 0, 0
    for gap in gaps:
        now, microseconds = now + timedelta(microseconds=gap), microseconds + gap
        passed += taken(buckets, ADA, per_minute, now)
        each = 60_000_000 // per_minute
        assert passed <= (60_000_000 + microseconds) // each
