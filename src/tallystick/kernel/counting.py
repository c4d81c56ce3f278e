"""Plain counts of what happens, for whoever watches. They belong to the event loop's thread, and need no lock there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Bounds for how long something takes."""


class Distribution:
    """How values are distributed over buckets, each of which reaches up to its bound and includes it.

    ``counts`` has one number per bound and one for what lies above the last; ``total`` is the sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[int | float]) -> None:
        """``bounds`` ascend."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total: int | float = 0

    def add(self, value: int | float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
