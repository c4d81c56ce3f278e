"""What passes the HTTP surface: how many requests of each route, how long they took, why some were refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from tallystick.kernel.counting import SECONDS, Distribution

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

OTHER: Final = "other"
"""Stands for methods that no route has: callers may make up any number of them."""

UNMATCHED: Final = "unmatched"
"""Stands for paths that no route has."""

Kind = tuple[str, str, int]
"""Template of the path, method, first digit of the status."""


class Traffic:
    """Counts requests. There are only so many kinds: templates are ours, and whatever callers make up is one."""

    def __init__(self) -> None:
        self._seconds: dict[Kind, Distribution] = {}
        self._errors: Counter[str] = Counter()

    @property
    def seconds(self) -> Mapping[Kind, Distribution]:
        """How long requests of each kind took."""
        return self._seconds

    @property
    def errors(self) -> Mapping[str, int]:
        """How many requests were refused or failed, by the code of the refusal."""
        return self._errors

    def note(self, route: str | None, method: str, status: int, seconds: float, code: str | None) -> None:
        """Counts a request that has been answered. An error that was answered without a code goes by its status."""
        kind = (route or UNMATCHED, method, status // 100)
        durations = self._seconds.get(kind)
        if durations is None:
            if method not in METHODS:
                kind = (kind[0], OTHER, kind[2])
            durations = self._seconds.setdefault(kind, Distribution(SECONDS))
        durations.add(seconds)
        if status >= 400:
            self._errors[code or f"http_{status}"] += 1
