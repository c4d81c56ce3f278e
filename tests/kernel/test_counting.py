"""Values fall into the bucket whose bound they do not exceed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.counting import Distribution


def test_a_bound_belongs_to_its_bucket() -> None:
    distribution = Distribution([1, 10])
    for value in (0, 1, 2, 10, 11, 1000):
        distribution.add(value)
    assert (distribution.counts, distribution.total) == ([2, 2, 2], 1024)


@given(st.lists(st.integers(-10, 10), min_size=1, max_size=8, unique=True).map(sorted), st.lists(st.integers(-20, 20)))
def test_every_value_is_counted_once(bounds: list[int], values: list[int]) -> None:
    distribution = Distribution(bounds)
    for value in values:
        distribution.add(value)
    for place, bound in enumerate(bounds):
        assert sum(distribution.counts[: place + 1]) == sum(value <= bound for value in values)
    assert sum(distribution.counts) == len(values)
    assert distribution.total == sum(values)
