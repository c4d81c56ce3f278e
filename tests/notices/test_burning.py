"""Forecasts and unusual spending: pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tallystick.notices.burning import Burn, Days, forecast, unusual
from tallystick.notices.model import Standing
from tests.notices.test_crossing import rule

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)


def days(known: int, before: int, today_began_with: int | None = None) -> Days:
    """So many days before today, in which ``before`` was used."""
    began = NOW.date() - timedelta(days=known)
    at = NOW - timedelta(days=known)
    return Days(began, at, 1000, NOW.date(), 1000 + (before if today_began_with is None else today_began_with))


def standing(balance: int, used: int) -> Standing:
    return Standing(balance, 0, 0, 1000 + used, NOW)


def test_a_forecast_goes_on_as_it_went() -> None:
    week = rule(1, "7", "forecast")
    assert forecast(week, standing(70, 70), days(7, 0), NOW) == Burn(70, ends_at=NOW + timedelta(days=7))
    assert forecast(week, standing(71, 70), days(7, 0), NOW) is None
    assert forecast(week, standing(1, 70), days(7, 0), NOW) == Burn(70, ends_at=NOW + timedelta(hours=2, minutes=24))


def test_a_forecast_needs_a_day_something_used_and_something_left() -> None:
    year = rule(1, "366", "forecast")
    assert forecast(year, standing(1, 70), days(1, 0), NOW) is not None
    young = Days(NOW.date(), NOW - timedelta(hours=23), 1000, NOW.date(), 1000)
    assert forecast(year, standing(1, 70), young, NOW) is None
    assert forecast(year, standing(100, 0), days(7, 0), NOW) is None
    assert forecast(year, standing(100, -5), days(7, 0), NOW) is None
    assert forecast(year, standing(0, 70), days(7, 0), NOW) is None


def test_spending_is_unusual_above_the_factor() -> None:
    double = rule(1, "2", "unusual")
    assert unusual(double, standing(0, 70 + 20), days(7, 70)) is None
    assert unusual(double, standing(0, 70 + 21), days(7, 70)) == Burn(21, usual=10)
    half_more = rule(1, "1.5", "unusual")
    assert unusual(half_more, standing(0, 70 + 16), days(7, 70)) == Burn(16, usual=10)


def test_what_is_usual_is_known_after_three_days_on_which_something_was_spent() -> None:
    double = rule(1, "2", "unusual")
    assert unusual(double, standing(0, 1000), days(2, 20)) is None
    assert unusual(double, standing(0, 1000), days(3, 30)) == Burn(970, usual=10)
    assert unusual(double, standing(0, 1000), days(7, 0)) is None
