"""How many requests a minute somebody may make: a token bucket for each, in memory. Pure.

Each process counts for itself: behind n of them a key may do n times as much.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from tallystick.kernel.errors import Overloaded

MAX_BUCKETS: Final = 50_000
"""Of more callers than that, whoever has not called for longest gets a full bucket again."""

MINUTE_MICROSECONDS: Final = 60_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TooManyRequests(Overloaded):
    """The caller's bucket is empty; there is something in it again after ``retry_after_seconds``."""

    code = "too_many_requests"


class RequestLimits:
    """A bucket holds the requests of a minute, and fills evenly. It is kept as the instant at which it is full."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[UUID, int] = OrderedDict()

    def take(self, caller: UUID, per_minute: int, now: datetime) -> None:
        """Takes one request out of the bucket. Raises ``TooManyRequests`` if it is empty."""
        instant = (now - _EPOCH) // timedelta(microseconds=1)
        each = MINUTE_MICROSECONDS // per_minute
        # Whoever sets the clock back must not lock callers out: a bucket is never emptier than empty.
        missing = min(max(self._full_at.get(caller, instant) - instant, 0), MINUTE_MICROSECONDS)
        if missing + each > MINUTE_MICROSECONDS:
            self._full_at[caller] = instant + missing
            wait_seconds = -(-(missing + each - MINUTE_MICROSECONDS) // 1_000_000)
            raise TooManyRequests(f"this key may make {per_minute} requests a minute", retry_after_seconds=wait_seconds)
        self._full_at[caller] = instant + missing + each
        self._full_at.move_to_end(caller)
        if len(self._full_at) > MAX_BUCKETS:
            self._full_at.popitem(last=False)
