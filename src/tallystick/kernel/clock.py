"""Where the time comes from. Nothing in Tallystick asks the machine for the time except through a ``Clock``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol


@lru_cache(maxsize=10_000)
def instant_text(at: datetime) -> str:
    """ISO 8601. Kept, as making it takes long and most measurements share their instants with others."""
    return at.isoformat()


class Clock(Protocol):
    """Gives the present instant, aware and in UTC."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class TestClock:
    """A clock that stands still until it is moved; lets a test run a year in a second."""

    __test__ = False  # pytest would otherwise collect the class for its name

    def __init__(self, instant: datetime) -> None:
        self._instant = instant.astimezone(UTC)

    def now(self) -> datetime:
        return self._instant

    def set(self, instant: datetime) -> None:
        """Moves to ``instant`` (aware). Raises ``ValueError`` if that is past: business time never runs backwards."""
        if instant < self._instant:
            raise ValueError(f"the clock stands at {self._instant.isoformat()} and does not run backwards")
        self._instant = instant.astimezone(UTC)

    def advance(self, by: timedelta) -> None:
        """Moves forward by ``by``."""
        self.set(self._instant + by)
