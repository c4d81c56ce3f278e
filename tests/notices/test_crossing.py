"""When a level is crossed, and armed again: pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.notices.crossing import Looked, level_of, look, loudest
from tallystick.notices.model import Kind, Memory, Rule, Standing

OPENED = datetime(2026, 3, 1, tzinfo=UTC)


def rule(number: int, threshold: str, kind: Kind = "share", **others: object) -> Rule:
    standard = Rule(
        UUID(int=number),
        number,
        None,
        None,
        kind,
        None,
        None,
        Decimal(threshold),
        ("maintainers",),
        ("governance",),
        None,
        None,
        {},
        OPENED - timedelta(days=1),
    )
    return replace(standard, **others)  # type: ignore[arg-type]


HALF, FIFTH, NOTHING = rule(1, "0.5"), rule(2, "0.2"), rule(3, "0")
STANDARD = (HALF, FIFTH, NOTHING)


def standing(balance: int, granted: int = 100, came_in: int | None = None) -> Standing:
    return Standing(balance, granted, granted if came_in is None else came_in, 0, OPENED)


def after(memory: Memory | None, at: Standing, rules: tuple[Rule, ...] = STANDARD) -> Looked:
    return look(at, memory, rules)


@pytest.mark.parametrize(
    ("share", "granted", "level"), [("0.5", 100, 50), ("0.5", 3, 1), ("0.333333", 10, 3), ("0", 7, 0), ("1", 7, 7)]
)
def test_the_level_of_a_share_is_the_greatest_balance_at_or_below_it(share: str, granted: int, level: int) -> None:
    assert level_of(rule(1, share), granted) == level


def test_a_share_of_nothing_has_no_level() -> None:
    assert level_of(HALF, 0) is None
    assert after(None, standing(0, 0)) == Looked([], None, None)


def test_a_level_is_crossed_when_the_balance_comes_to_it() -> None:
    first = after(None, standing(100))
    assert (first.crossed, first.alarm_at) == ([], 50)
    second = after(first.memory, standing(51))
    assert (second.crossed, second.alarm_at) == ([], 50)
    third = after(second.memory, standing(50))
    assert (third.crossed, third.alarm_at) == ([HALF], 20)
    fourth = after(third.memory, standing(49))
    assert (fourth.crossed, fourth.alarm_at) == ([], 20)


def test_all_levels_that_are_crossed_at_once_are_found_the_lowest_first() -> None:
    found = after(after(None, standing(100)).memory, standing(0))
    assert found.crossed == [NOTHING, FIFTH, HALF]
    assert found.alarm_at is None
    assert loudest(found.crossed) == [NOTHING]


def test_others_are_told_of_their_own_levels() -> None:
    sales = replace(FIFTH, recipients=("sales@cloud.test",))
    assert loudest([NOTHING, sales, HALF]) == [NOTHING, sales]


def test_money_that_comes_in_arms_what_it_lifts_the_balance_above() -> None:
    low = after(after(None, standing(100)).memory, standing(10)).memory
    more = after(low, standing(40, granted=130))
    assert (more.crossed, more.alarm_at) == ([], 26)
    assert after(more.memory, standing(26, granted=130)).crossed == [FIFTH]


def test_what_is_corrected_arms_nothing() -> None:
    low = after(after(None, standing(100)).memory, standing(50)).memory
    corrected = after(low, standing(80))
    assert (corrected.crossed, corrected.alarm_at) == ([], 20)
    assert after(corrected.memory, standing(50)).crossed == []


def test_a_rule_that_is_new_to_a_wallet_tells_of_no_crossing_before_it() -> None:
    before = after(None, standing(30), (HALF,)).memory
    looked = after(before, standing(10), (HALF, FIFTH))
    assert looked.crossed == []
    above = after(before, standing(30), (HALF, FIFTH))
    assert above.alarm_at == 20
    assert after(above.memory, standing(20), (HALF, FIFTH)).crossed == [FIFTH]


def test_a_wallet_opened_after_a_rule_on_debt_began_above_it() -> None:
    debt = rule(1, "-100", "balance")
    assert after(None, standing(-150, 0), (debt,)).crossed == [debt]
    younger = replace(debt, created_at=OPENED + timedelta(days=1))
    assert after(None, standing(-150, 0), (younger,)).crossed == []
    assert after(None, standing(-50, 0), (debt,)).alarm_at == -100


def test_a_wallet_without_credits_does_not_come_to_ten() -> None:
    assert after(None, standing(0, 0), (rule(1, "10", "balance"),)).crossed == []


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=40),
    st.lists(st.sampled_from(["0", "0.1", "0.2", "0.5", "0.9", "1"]), unique=True, max_size=4),
)
def test_each_crossing_is_told_once_and_the_alarm_misses_none(steps: list[tuple[int, int]], shares: list[str]) -> None:
    """Against a model that looks after each step, while ours looks only when its alarm says so or money comes in."""
    rules = tuple(rule(number, share) for number, share in enumerate(shares, 1))
    balance = granted = 0
    memory: Memory | None = None
    alarm_at: int | None = None
    armed: set[UUID] = set()
    for comes_in, goes_out in steps:
        for amount in (comes_in, -goes_out):
            if amount == 0:
                continue
            balance, granted = balance + amount, granted + max(0, amount)
            told: list[Rule] = []
            if amount > 0 or (alarm_at is not None and balance <= alarm_at):
                looked = look(standing(balance, granted), memory, rules)
                told, memory, alarm_at = looked.crossed, looked.memory, looked.alarm_at
            expected = []
            for each in rules:
                above = granted > 0 and balance > each.threshold * granted
                if each.id in armed and not above:
                    armed.discard(each.id)
                    expected.append(each)
                elif amount > 0 and above:
                    armed.add(each.id)
            assert sorted(told, key=lambda each: each.number) == expected
