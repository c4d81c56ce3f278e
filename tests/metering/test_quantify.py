"""From values to quantities: each rule by example, and what holds for any values in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.metering.model import Meter
from tallystick.metering.quantify import State, Step, fold_of, scope_of

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)

COUNTER = Meter("hours", "counter")
FROM_ZERO = Meter("hours", "counter", on_drop="from_zero")
MAXIMUM = Meter("peak", "gauge", "max")
LATEST = Meter("seats", "gauge", "latest")
UNIQUE = Meter("users", "delta", "unique")

Reading = tuple[int, Decimal]
"""Minutes after noon, and a value."""

numbers = st.integers(-(10**18) + 1, 10**18 - 1).map(Decimal) | st.decimals("-1000", "1000", places=6)
readings = st.lists(st.tuples(st.integers(0, 30), numbers), min_size=1, max_size=20)


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


@dataclass
class Folded:
    steps: list[Step]

    @property
    def quantities(self) -> list[Decimal]:
        return [step.quantity for step in self.steps]

    @property
    def total(self) -> Decimal:
        return sum(self.quantities, Decimal(0))

    @property
    def state(self) -> State | None:
        return self.steps[-1].state


def fold(meter: Meter, values: Iterable[tuple[int, int | Decimal]]) -> Folded:
    """One scope's measurements in the order in which they are recorded."""
    step, state, steps = fold_of(meter), None, []
    for minutes, value in values:
        steps.append(step(state, Decimal(value), at(minutes)))
        state = steps[-1].state
    return Folded(steps)


@pytest.mark.parametrize(
    ("meter", "values", "quantities", "state"),
    [
        # the first value is a baseline, however large
        (COUNTER, [(0, 100)], [0], (100, 0)),
        (COUNTER, [(0, 100), (1, 130), (5, 131)], [0, 30, 1], (131, 5)),
        # an equal value changes nothing, not even the time
        (COUNTER, [(0, 100), (2, 100), (1, 110)], [0, 0, 10], (110, 1)),
        # an older value, or another one of the same time, is kept and counts zero
        (COUNTER, [(2, 100), (1, 90), (3, 105)], [0, 0, 5], (105, 3)),
        (COUNTER, [(2, 100), (2, 200), (3, 205)], [0, 0, 105], (205, 3)),
        # a drop sets a new base, or counts from zero
        (COUNTER, [(0, 100), (1, 30), (2, 45)], [0, 0, 15], (45, 2)),
        (FROM_ZERO, [(0, 100), (1, 30), (2, 45)], [0, 30, 15], (45, 2)),
        (FROM_ZERO, [(0, 100), (1, 0), (2, 5)], [0, 0, 5], (5, 2)),
        (FROM_ZERO, [(1, 100), (0, 30)], [0, 0], (100, 1)),
        # the highest value of a period
        (MAXIMUM, [(0, 5), (2, 3), (1, 9), (3, 9)], [5, 0, 4, 0], (9, 1)),
        (MAXIMUM, [(0, -5), (1, -2)], [-5, 3], (-2, 1)),
        # the latest value of a period
        (LATEST, [(0, 5), (2, 3), (1, 9), (2, 7)], [5, -2, 0, 0], (3, 2)),
        # each value once; a scope of a unique count is one value
        (UNIQUE, [(0, 7), (1, 7)], [1, 0], (7, 0)),
    ],
)
def test_rules(meter: Meter, values: list[tuple[int, int]], quantities: list[int], state: tuple[int, int]) -> None:
    folded = fold(meter, values)
    assert folded.quantities == quantities
    assert folded.state == State(Decimal(state[0]), at(state[1]))


@pytest.mark.parametrize(
    ("meter", "values", "remark"),
    [
        (COUNTER, [(0, 1)], "baseline: the first value of this counter"),
        (COUNTER, [(0, 1), (1, 4)], "counter: 4 - 1"),
        (COUNTER, [(0, 1), (1, 1)], "unchanged since 2026-03-10T12:00:00+00:00"),
        (COUNTER, [(1, 1), (0, 4)], "not newer than the value 1 at 2026-03-10T12:01:00+00:00"),
        (COUNTER, [(0, 4), (1, 1)], "counter fell from 4: new base"),
        (FROM_ZERO, [(0, 4), (1, 1)], "counter fell from 4: counted from zero"),
        (MAXIMUM, [(0, 4)], "maximum: the first value of the period"),
        (MAXIMUM, [(0, 4), (1, 9)], "maximum: 9 - 4"),
        (MAXIMUM, [(0, 4), (1, 4)], "not above the maximum 4"),
        (LATEST, [(0, 4)], "latest: the first value of the period"),
        (LATEST, [(0, 4), (1, 1)], "latest: 1 - 4"),
        (LATEST, [(1, 4), (0, 1)], "not newer than the value at 2026-03-10T12:01:00+00:00"),
        (UNIQUE, [(0, 4)], "unique: 4 was not counted yet in this period"),
        (UNIQUE, [(0, 4), (1, 4)], "unique: 4 is counted already"),
    ],
)
def test_every_quantity_that_is_not_the_value_says_why(
    meter: Meter, values: list[tuple[int, int]], remark: str
) -> None:
    assert fold(meter, values).steps[-1].remark == remark


@pytest.mark.parametrize("large", [Decimal(10) ** 17, Decimal("1E+17")])
def test_remarks_spell_numbers_out(large: Decimal) -> None:
    assert fold(COUNTER, [(0, large), (1, 2 * large)]).steps[1].remark == f"counter: {2 * 10**17} - {10**17}"


# A counter


@given(readings)
def test_in_the_order_of_time_a_counter_counts_its_rises(values: list[Reading]) -> None:
    in_order = sorted(dict(values).items())
    rises = [max(Decimal(0), after - before) for (_, before), (_, after) in pairwise(in_order)]
    assert fold(COUNTER, in_order).quantities == [0, *rises]


@given(readings)
def test_counting_from_zero_adds_what_stands_after_each_drop(values: list[Reading]) -> None:
    in_order = sorted(dict(values).items())
    counted = [after - before if after > before else after for (_, before), (_, after) in pairwise(in_order)]
    unchanged = [before == after for (_, before), (_, after) in pairwise(in_order)]
    expected = [Decimal(0) if same else quantity for quantity, same in zip(counted, unchanged, strict=True)]
    assert fold(FROM_ZERO, in_order).quantities == [0, *expected]


@given(st.permutations([(minutes, Decimal(minutes * minutes)) for minutes in range(8)]))
def test_a_rising_counter_that_comes_in_any_order_counts_from_the_first_to_the_last(values: list[Reading]) -> None:
    """What is older than the first value that came is before the baseline, and gone; nothing counts twice."""
    assert fold(COUNTER, values).total == 49 - values[0][1]


@given(readings)
def test_a_rebasing_counter_never_gives_back(values: list[Reading]) -> None:
    folded = fold(COUNTER, values)
    assert min(folded.quantities) >= 0
    assert folded.steps[0].quantity == 0
    assert folded.state is not None
    assert folded.state.at <= at(max(minutes for minutes, _ in values))


@given(readings, st.integers(0, 19))
def test_a_fold_may_stop_anywhere_and_go_on_from_its_state(values: list[Reading], cut: int) -> None:
    for meter in (COUNTER, FROM_ZERO, MAXIMUM, LATEST):
        whole, step = fold(meter, values), fold_of(meter)
        state = whole.steps[cut - 1].state if 0 < cut <= len(values) else None
        for expected, (minutes, value) in list(zip(whole.steps, values, strict=True))[cut:]:
            stepped = step(state, value, at(minutes))
            assert stepped == expected
            state = stepped.state


# A period


@given(readings)
def test_a_maximum_totals_to_the_greatest_value_in_any_order(values: list[Reading]) -> None:
    assert fold(MAXIMUM, values).total == max(value for _, value in values)


@given(readings)
def test_a_latest_value_totals_to_the_first_that_came_of_the_latest_time(values: list[Reading]) -> None:
    latest = max(minutes for minutes, _ in values)
    assert fold(LATEST, values).total == next(value for minutes, value in values if minutes == latest)


@given(readings)
def test_a_unique_count_totals_to_the_number_of_different_values(values: list[Reading]) -> None:
    scopes: dict[object, list[Reading]] = {}
    for reading in values:
        scopes.setdefault(scope_of(UNIQUE, "", "", "2026-03-01", reading[1]), []).append(reading)
    assert sum(fold(UNIQUE, scope).total for scope in scopes.values()) == len({value for _, value in values})


# Scopes


def test_what_a_state_belongs_to() -> None:
    """Meter, aggregation, and what of kind, resource, period and value matters to it."""
    matters = {
        COUNTER: {"resource"},
        MAXIMUM: {"kind", "period"},
        LATEST: {"kind", "period"},
        UNIQUE: {"kind", "period", "value"},
    }
    place = {"kind": "", "resource": "", "period": "2026-03-01", "value": Decimal(1)}
    other = {"kind": "large", "resource": "vm", "period": "2026-04-01", "value": Decimal(2)}
    for meter, names in matters.items():
        differ = {
            name
            for name in place
            if scope_of(meter, **place) != scope_of(meter, **{**place, name: other[name]})  # type: ignore[arg-type]
        }
        assert differ == names
    scopes = {scope_of(Meter("m", meter.kind, meter.aggregation), **place) for meter in matters}  # type: ignore[arg-type]
    assert len(scopes) == len(matters)
    assert scope_of(COUNTER, "", "", "", Decimal(1)) != scope_of(Meter("other", "counter"), "", "", "", Decimal(1))


@pytest.mark.parametrize("spelling", ["1", "1.0", "1.00000", "1E+0", "0.1E+1"])
def test_a_value_is_the_same_however_it_is_spelled(spelling: str) -> None:
    assert scope_of(UNIQUE, "", "", "", Decimal(spelling)) == scope_of(UNIQUE, "", "", "", Decimal(1))


@pytest.mark.parametrize(
    ("meter", "has_state"),
    [
        (Meter("m"), False),
        (Meter("m", "gauge"), False),
        (Meter("m", "gauge", interval_minutes=15), False),
        (Meter("m", "gauge", on_gap="held"), True),
        (COUNTER, True),
        (MAXIMUM, True),
        (LATEST, True),
        (UNIQUE, True),
    ],
)
def test_only_sums_of_values_need_no_state(meter: Meter, has_state: bool) -> None:
    assert meter.has_state == has_state
