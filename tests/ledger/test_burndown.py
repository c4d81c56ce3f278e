"""The burn-down by itself: examples by hand, and laws that hold for every sequence of events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import permutations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.ledger.burndown import BurnDown, Grant, Remaining

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def grant(number: int, amount: int, *, priority: int = 100, days: int | None = None) -> Grant:
    """Its number is also its age, 1 being the oldest."""
    expires_at = None if days is None else NEW_YEAR + timedelta(days=days)
    return Grant(UUID(int=number), amount, priority, expires_at, number)


def wallet(*grants: Grant) -> BurnDown:
    down = BurnDown()
    for each in grants:
        down.granted(each)
    return down


def left(down: BurnDown) -> dict[int, int]:
    """What is left, by number of the grant; 0 is what belongs to none."""
    remaining = down.remaining()
    shown = {grant_id.int: amount for grant_id, amount in remaining.of.items()}
    return shown | ({0: remaining.unattributed} if remaining.unattributed else {})


# By hand


def test_grants_are_used_by_priority_then_expiry_then_age() -> None:
    grants = [
        grant(6, 10, priority=0),
        grant(3, 10, priority=50, days=10),
        grant(2, 10, priority=50, days=20),
        grant(1, 10, priority=50),
        grant(4, 10, priority=50),
        grant(5, 10, priority=1000, days=1),
    ]
    for spent in range(0, 61, 5):
        down = wallet(*sorted(grants, key=lambda g: g.sequence))
        down.moved(spent)
        whole, part = divmod(spent, 10)
        expected = {g.id.int: 10 for g in grants[whole:]}
        if part:
            expected[grants[whole].id.int] = 10 - part
        assert left(down) == expected


def test_money_given_back_fills_up_what_was_used_last_and_no_more_than_was_granted() -> None:
    down = wallet(grant(1, 10), grant(2, 10), grant(3, 10))
    down.moved(25)
    down.granted(grant(4, 1))
    down.moved(-7)
    assert left(down) == {2: 2, 3: 10, 4: 1}
    down.close(UUID(int=4))
    down.moved(-30)
    assert left(down) == {0: 12, 1: 10, 2: 10, 3: 10, 4: 1}


def test_within_an_interval_only_the_net_amount_counts() -> None:
    for order in permutations([30, -12, 5, -40, 9]):
        down = wallet(grant(1, 10), grant(2, 10, priority=1))
        for out in order:
            down.moved(out)
            down.remaining()  # looking at it does not end the interval
        assert left(down) == {0: 8, 1: 10, 2: 10}


def test_a_grant_pays_what_is_owed_first() -> None:
    down = wallet(grant(1, 10))
    down.moved(25)
    assert left(down) == {0: -15}
    down.granted(grant(2, 20))
    assert left(down) == {2: 5}
    down.moved(-17)
    assert left(down) == {1: 2, 2: 20}


def test_money_without_a_grant_is_used_last_and_comes_back_first() -> None:
    down = wallet(grant(1, 10))
    down.moved(0, income=10)
    down.moved(14)
    assert left(down) == {0: 6}
    down.close(UUID(int=9))
    down.granted(grant(2, 5))
    down.moved(-6)
    assert left(down) == {0: 10, 1: 2, 2: 5}
    assert down.remaining().balance == 17


def test_what_is_taken_away_is_gone_and_is_not_filled_up_again() -> None:
    down = wallet(grant(1, 10), grant(2, 10))
    down.moved(4)
    one = UUID(int=1)
    down.close(one)
    down.take(one, 5)
    assert left(down) == {1: 1, 2: 10}
    assert down.taken(one) == [5]
    down.moved(3)  # what could not be taken may still be used
    assert left(down) == {2: 8}
    down.granted(grant(3, 1))
    down.moved(-9)
    assert left(down) == {0: 7, 2: 10, 3: 1}


def test_taking_more_than_is_left_uses_the_others() -> None:
    down = wallet(grant(1, 10), grant(2, 10))
    down.take(UUID(int=1), 13)
    assert left(down) == {2: 7}


def test_what_never_came_in_is_not_known() -> None:
    down = wallet(grant(1, 10))
    down.close(UUID(int=7))
    assert down.knows(UUID(int=1))
    assert not down.knows(UUID(int=7))
    assert down.taken(UUID(int=7)) == []


def test_it_goes_on_from_where_another_one_was() -> None:
    down = wallet(grant(1, 10), grant(2, 10, priority=1), grant(3, 10))
    down.moved(13, income=2)
    down.take(UUID(int=1), 4)
    resumed = BurnDown.resumed(
        down.interrupted(),
        {UUID(int=n): g for n, g in ((1, grant(1, 10)), (2, grant(2, 10, priority=1)), (3, grant(3, 10)))},
        {UUID(int=1)},
        {UUID(int=1): [4]},
    )
    for state in (down, resumed):
        state.moved(-9)
        state.granted(grant(4, 1))
        assert left(state) == {0: 2, 1: 3, 2: 9, 3: 10, 4: 1}
        assert state.taken(UUID(int=1)) == [4]


# Laws


@dataclass(frozen=True)
class Moved:
    out: int
    income: int = 0


@dataclass(frozen=True)
class Ended:
    """The one of this number, counted from the oldest, is closed, and this share of what is left of it is taken."""

    number: int
    percent: int


Event = Grant | Moved | Ended

amounts = st.integers(0, 100)
grants = st.builds(
    grant, st.just(0), st.integers(1, 100), priority=st.integers(0, 2), days=st.none() | st.integers(1, 3)
)
movements = st.builds(Moved, st.integers(-100, 100), st.just(0) | st.integers(0, 100))
endings = st.builds(Ended, st.integers(0, 9), st.sampled_from((0, 30, 100)))
histories = st.lists(grants | movements | endings, max_size=25)


@dataclass
class Told:
    """A burn-down, and what a bookkeeper writes down beside it."""

    down: BurnDown
    balance: int
    grants: dict[UUID, Grant]
    closed: set[UUID]


def tell(history: list[Event]) -> Told:
    told = Told(BurnDown(), 0, {}, set())
    for event in history:
        match event:
            case Grant():
                new = grant(len(told.grants) + 1, event.amount, priority=event.priority)
                new = Grant(new.id, new.amount, new.priority, event.expires_at, new.sequence)
                told.down.granted(new)
                told.grants[new.id] = new
                told.balance += new.amount
            case Moved():
                told.down.moved(event.out, event.income)
                told.balance += event.income - event.out
            case Ended() if told.grants:
                ended = list(told.grants)[event.number % len(told.grants)]
                amount = told.down.remaining().of.get(ended, 0) * event.percent // 100
                told.down.close(ended)
                told.down.take(ended, amount)
                told.closed.add(ended)
                told.balance -= amount
    return told


@given(histories)
def test_what_is_left_sums_up_to_the_balance_and_is_never_more_than_was_granted(history: list[Event]) -> None:
    told = tell(history)
    remaining = told.down.remaining()
    assert remaining.balance == told.balance
    for grant_id, amount in remaining.of.items():
        assert 0 < amount <= told.grants[grant_id].amount - sum(told.down.taken(grant_id))


@given(histories)
def test_nothing_is_owed_while_a_grant_has_something_left(history: list[Event]) -> None:
    remaining = tell(history).down.remaining()
    assert remaining.unattributed >= 0 or not remaining.of


@given(histories, st.lists(st.integers(-100, 100), max_size=5), st.randoms())
def test_the_order_of_movements_between_two_events_does_not_matter(
    history: list[Event], outs: list[int], random: object
) -> None:
    one, other, net = tell(history), tell(history), tell(history)
    for out in outs:
        one.down.moved(out)
    for out in sorted(outs, key=lambda _: random.random()):  # type: ignore[attr-defined]
        other.down.moved(out)
        other.down.remaining()
    net.down.moved(sum(outs))
    assert one.down.remaining() == other.down.remaining() == net.down.remaining()


@given(histories, st.integers(1, 100))
def test_what_is_used_comes_off_the_first_in_rank(history: list[Event], out: int) -> None:
    told = tell(history)
    told.down.close(next(iter(told.grants), UUID(int=0)))
    before = told.down.remaining()
    expected, rest = dict(before.of), out
    for usable in sorted((told.grants[grant_id] for grant_id in before.of), key=lambda g: g.rank):
        used = min(rest, expected[usable.id])
        expected[usable.id] -= used
        rest -= used
    told = tell(history)
    told.down.close(next(iter(told.grants), UUID(int=0)))
    told.down.granted(grant(99, 0))  # ends the interval
    told.down.moved(out)
    after = told.down.remaining()
    assert dict(after.of) == {grant_id: amount for grant_id, amount in expected.items() if amount}
    assert after.unattributed == before.unattributed - rest


@given(histories, st.integers(1, 100))
def test_a_closed_grant_is_never_filled_up(history: list[Event], back: int) -> None:
    told = tell(history)
    before = told.down.remaining().of
    told.down.granted(grant(99, 0))
    told.down.moved(-back)
    after = told.down.remaining().of
    assert all(after.get(grant_id, 0) <= before.get(grant_id, 0) for grant_id in told.closed)


@given(histories)
def test_taking_exactly_what_is_left_leaves_nothing_and_touches_no_other(history: list[Event]) -> None:
    told = tell(history)
    before = told.down.remaining()
    for grant_id, amount in before.of.items():
        told.down.take(grant_id, amount)
    after = told.down.remaining()
    assert after == Remaining({}, before.unattributed, before.unattributed_used)


@given(histories, st.lists(movements | endings, max_size=8))
def test_a_fold_that_is_resumed_goes_on_as_if_it_had_never_stopped(
    history: list[Event], later: list[Moved | Ended]
) -> None:
    told = tell(history)
    taken = {grant_id: told.down.taken(grant_id) for grant_id in told.grants}
    resumed = BurnDown.resumed(told.down.interrupted(), told.grants, told.closed, taken)
    assert resumed.remaining() == told.down.remaining()
    for down in (told.down, resumed):
        for event in later:
            if isinstance(event, Moved):
                down.moved(event.out, event.income)
            else:
                down.close(UUID(int=event.number))
    assert resumed.remaining() == told.down.remaining()
    assert resumed.interrupted() == told.down.interrupted()


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_closing_together_what_ends_together_takes_the_same_in_any_order(order: tuple[int, ...]) -> None:
    down = wallet(grant(1, 10, days=1), grant(2, 10, days=1), grant(3, 10))
    down.moved(14)
    ids = [UUID(int=number) for number in (1, 2, 3)]
    remaining = down.remaining().of
    for number in order:
        down.close(ids[number])
    for number in order:
        down.take(ids[number], remaining.get(ids[number], 0))
    assert left(down) == {}
    assert [sum(down.taken(grant_id)) for grant_id in ids] == [0, 6, 10]
