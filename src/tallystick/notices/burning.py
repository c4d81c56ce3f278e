"""How fast a wallet is used up, and whether that is unusual: pure.

Known are what had been used in all when the wallet was first looked at on each of the last ``DAYS`` business days, and
what has been used by now.

- A forecast goes on as it went: what was used since the first of those instants, divided by the time since then. It is
  told if, at that rate, nothing is left within the days of its rule. It needs a day to go by.
- Spending is unusual if that of today is more than the rule's factor times that of a usual day: the average of those
  days before today. It needs ``USUAL_DAYS`` of them, and a usual day on which something was spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from tallystick.kernel.money import EXACT
from tallystick.notices.model import Rule, Standing

DAYS: Final = 7
USUAL_DAYS: Final = 3

_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Days:
    """What is known of a wallet's days; ``used`` is all that was ever used by then, in microunits."""

    first: date
    first_at: datetime
    first_used: int
    today: date
    today_used: int


@dataclass(frozen=True, slots=True)
class Burn:
    """What is told: spent in the last days, and when nothing is left; or spent today, and on a usual day."""

    spent: int
    usual: int | None = None
    ends_at: datetime | None = None


def forecast(rule: Rule, standing: Standing, days: Days, now: datetime) -> Burn | None:
    """What to tell of a wallet of which nothing will be left within the rule's days; else ``None``."""
    elapsed, spent = now - days.first_at, standing.used - days.first_used
    if elapsed < _DAY or spent <= 0 or standing.balance <= 0:
        return None
    remaining_microseconds = standing.balance * (elapsed // _MICROSECOND) // spent
    if remaining_microseconds > int(rule.threshold) * (_DAY // _MICROSECOND):
        return None
    return Burn(spent, ends_at=now + timedelta(microseconds=remaining_microseconds))


def unusual(rule: Rule, standing: Standing, days: Days) -> Burn | None:
    """What to tell of a wallet of which more is spent today than usual; else ``None``."""
    known = (days.today - days.first).days
    before, today = days.today_used - days.first_used, standing.used - days.today_used
    if known < USUAL_DAYS or before <= 0 or today * known <= EXACT.multiply(rule.threshold, before):
        return None
    return Burn(today, usual=before // known)
