"""Gauges whose gaps are filled: whatever order values come in, the levels are what the policy says of all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.metering.gaps import (
    Change,
    Level,
    hours_remark,
    in_hours,
    level_scope,
    max_slots_of,
    put,
    slot_of,
    start_of,
)
from tallystick.metering.model import Meter
from tests.metering.levels import expected_levels

TEN = datetime(2026, 3, 10, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)

HELD = Meter("m", "gauge", on_gap="held", max_gap_hours=3)
INTERPOLATED = Meter("m", "gauge", on_gap="interpolated", max_gap_hours=3)


def told(meter: Meter, *values: tuple[int, int | str], covered: tuple[int, ...] = ()) -> list[dict[int, Decimal]]:
    """After each value, given as (hours after ten, value): what it changed, by hours after ten, itself included."""
    known: dict[int, Level] = {}
    ten = slot_of(meter, TEN)
    changed = []
    for place, (hour, value) in enumerate(values):
        at = TEN + HOUR * hour + timedelta(seconds=place)
        step = put(meter, known, {ten + hour for hour in covered}, slot_of(meter, at), Decimal(value), at)
        changed.append(
            {hour: step.difference} | {change.slot - ten: change.after - change.before for change in step.changes}
        )
    return changed


def test_held_the_last_value_goes_on_until_the_next_one() -> None:
    assert told(HELD, (0, 5), (3, 8)) == [{0: 5}, {1: 5, 2: 5, 3: 8}]


def test_interpolated_values_lie_on_the_line_between() -> None:
    assert told(INTERPOLATED, (0, 2), (4, 10)) == [{0: 2}, {1: 4, 2: 6, 3: 8, 4: 10}]
    thirds = told(INTERPOLATED, (0, 0), (3, 1))[1]
    assert thirds == {1: Decimal("0.333333"), 2: Decimal("0.666667"), 3: 1}


@pytest.mark.parametrize("meter", [HELD, INTERPOLATED])
def test_a_gap_that_is_too_long_is_free(meter: Meter) -> None:
    assert told(meter, (0, 5), (4, 5))[1] == {1: 5, 2: 5, 3: 5, 4: 5}
    assert told(meter, (0, 5), (5, 5))[1] == {5: 5}


@pytest.mark.parametrize("meter", [HELD, INTERPOLATED])
def test_nothing_is_estimated_before_the_first_or_after_the_last_value(meter: Meter) -> None:
    assert told(meter, (0, 5), (1, 6), (-1, 4)) == [{0: 5}, {1: 6}, {-1: 4}]


@pytest.mark.parametrize("meter", [HELD, INTERPOLATED])
def test_where_the_source_was_read_and_named_no_value_there_was_none(meter: Meter) -> None:
    assert told(meter, (0, 5), (3, 5), covered=(1,))[1] == {3: 5}
    assert told(meter, (0, 5), (3, 5), covered=(0, 3, 7))[1] == {1: 5, 2: 5, 3: 5}


def test_a_late_value_takes_the_place_of_its_estimate() -> None:
    assert told(HELD, (0, 5), (3, 8), (1, 7))[2] == {1: 2, 2: 2}
    assert told(INTERPOLATED, (0, 2), (4, 10), (2, 0))[2] == {1: -3, 2: -6, 3: -3}
    assert told(INTERPOLATED, (0, 2), (4, 10), (2, 6))[2] == {2: 0}


def test_a_late_value_may_make_two_gaps_of_a_stretch_that_was_too_long() -> None:
    assert told(HELD, (0, 5), (6, 8), (3, 2)) == [{0: 5}, {6: 8}, {1: 5, 2: 5, 3: 2, 4: 2, 5: 2}]


def test_of_two_values_in_an_interval_the_later_counts() -> None:
    known: dict[int, Level] = {}
    first = put(HELD, known, (), slot_of(HELD, TEN), Decimal(5), TEN + HOUR / 2)
    older = put(HELD, known, (), slot_of(HELD, TEN), Decimal(9), TEN)
    equal = put(HELD, known, (), slot_of(HELD, TEN), Decimal(9), TEN + HOUR / 2)
    later = put(HELD, known, (), slot_of(HELD, TEN), Decimal(7), TEN + HOUR / 2 + timedelta(microseconds=1))
    assert [step.difference for step in (first, older, equal, later)] == [5, 0, 0, 2]
    assert older.remark == equal.remark == "not newer than the value 5 of its interval, at 2026-03-10T10:30:00+00:00"
    assert (first.remark, later.remark) == (None, "7 instead of the value 5 of its interval")


def test_an_estimate_is_taken_back_once_its_interval_turns_out_to_have_been_read() -> None:
    ten = slot_of(HELD, TEN)
    known = {ten: Level(Decimal(5), TEN), ten + 1: Level(Decimal(5), None), ten + 2: Level(Decimal(5), TEN + 2 * HOUR)}
    step = put(HELD, known, {ten + 1}, ten + 2, Decimal(6), TEN + 2 * HOUR + HOUR / 2)
    assert step.difference == 1
    assert step.changes == [Change(ten + 1, Decimal(5), Decimal(0))]


# Intervals


@pytest.mark.parametrize(
    ("minutes", "quantity", "remark"),
    [(60, "3", None), (15, "0.75", "3 x 15 minutes"), (3, "0.15", "3 x 3 minutes"), (1440, "72", "3 x 1440 minutes")],
)
def test_a_quantity_is_value_times_hours(minutes: int, quantity: str, remark: str | None) -> None:
    meter = Meter("m", "gauge", interval_minutes=minutes)
    assert in_hours(meter, Decimal(3)) == Decimal(quantity)
    assert hours_remark(meter, Decimal(3), None) == remark
    assert hours_remark(meter, Decimal(3), "why") == (f"why; {remark}" if remark else "why")


def test_intervals_follow_each_other_without_gap() -> None:
    for minutes in (3, 15, 60, 1440):
        meter = Meter("m", "gauge", interval_minutes=minutes)
        slot = slot_of(meter, TEN)
        assert start_of(meter, slot) <= TEN < start_of(meter, slot + 1)
        assert slot_of(meter, start_of(meter, slot)) == slot
        assert slot_of(meter, start_of(meter, slot + 1) - timedelta(microseconds=1)) == slot
    assert max_slots_of(Meter("m", "gauge", max_gap_hours=24, interval_minutes=15)) == 96


def test_each_series_has_levels_of_its_own() -> None:
    parts = ("source", "kind", "resource", "agent")
    scopes = {level_scope(HELD, *parts)}
    for place in range(len(parts)):
        scopes.add(level_scope(HELD, *(*parts[:place], "other", *parts[place + 1 :])))
    scopes.add(level_scope(Meter("other", "gauge"), *parts))
    assert len(scopes) == len(parts) + 2


# Any order

meters = st.builds(
    lambda policy, gap, minutes: Meter("m", "gauge", on_gap=policy, max_gap_hours=gap, interval_minutes=minutes),
    st.sampled_from(["held", "interpolated"]),
    st.integers(1, 5),
    st.sampled_from([30, 60]),
)
values = st.integers(-20, 50).map(Decimal) | st.decimals("-9", "9", places=8)
measured = st.dictionaries(st.integers(0, 40 * 60), values, max_size=30).flatmap(
    lambda found: st.permutations(sorted(found.items()))
)


@given(meter=meters, items=measured, covered=st.sets(st.integers(0, 40), max_size=6))
def test_in_any_order_the_levels_are_those_of_the_policy(
    meter: Meter, items: list[tuple[int, Decimal]], covered: set[int]
) -> None:
    """Values at minutes after ten, no two at the same instant: of equal times the first to come would count."""
    read = {start_of(meter, slot_of(meter, TEN + HOUR * hour)) for hour in covered}
    slots = {slot_of(meter, begin) for begin in read}
    known: dict[int, Level] = {}
    charged: dict[int, Fraction] = {}
    for minute, value in items:
        at = TEN + timedelta(minutes=minute)
        step = put(meter, known, slots, slot_of(meter, at), value, at)
        charged[slot_of(meter, at)] = charged.get(slot_of(meter, at), Fraction(0)) + Fraction(step.difference)
        for change in step.changes:
            assert change.before != change.after
            difference = Fraction(change.after) - Fraction(change.before)
            charged[change.slot] = charged.get(change.slot, Fraction(0)) + difference
    all_values = [(TEN + timedelta(minutes=minute), Fraction(value)) for minute, value in items]
    expected = {slot_of(meter, begin): level for begin, level in expected_levels(meter, all_values, read).items()}
    assert {slot: level for slot, level in charged.items() if level} == {s: v for s, v in expected.items() if v}
    assert {slot: Fraction(level.value) for slot, level in known.items() if level.value} == {
        slot: level for slot, level in expected.items() if level
    }
