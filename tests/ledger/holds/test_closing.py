"""Holds, on every engine: each is settled, released or expired, exactly once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import NotFound
from tallystick.ledger.hold_model import DEFAULT_SECONDS, HoldExpired, HoldReleased, HoldSettled, UnknownHold
from tallystick.ledger.wallets import Balance
from tallystick.service import Service
from tests.ledger.holds.user import SECOND, User, as_one_group, everything, refusal, run_due
from tests.ledger.services import CREDITS, NOW

# Closed once


async def test_what_was_done_to_a_hold_can_be_asked_for_again_and_nothing_else(
    service: Service, user: User, clock: TestClock
) -> None:
    await user.open(100)
    settled, released, expired = [await user.place(10) for _ in range(3)]
    await user.settle(settled, 12)
    await user.release(released)
    clock.advance(timedelta(seconds=DEFAULT_SECONDS))
    assert await run_due(service) == 1
    before = await everything(service)
    assert (await user.settle(settled, 12)).excess == 2
    assert (await user.release(released)).state == "released"
    refused = [
        await refusal(user.settle(settled, 10)),
        await refusal(user.release(settled)),
        await refusal(user.settle(released, 10)),
        await refusal(user.settle(expired, 10)),
        await refusal(user.release(expired)),
    ]
    assert [type(one) for one in refused] == [HoldSettled, HoldSettled, HoldReleased, HoldExpired, HoldExpired]
    assert {(one.status, one.field) for one in refused} == {(409, "id")}
    assert str(refused[0]) == f"the hold {settled.id} was settled with 0.000012 before"
    assert str(refused[3]) == f"the hold {expired.id} is expired: nothing is held any more"
    assert await everything(service) == before


async def test_whoever_does_not_exist_is_named(user: User) -> None:
    await user.open(10)
    unknown = UUID(int=7)
    for refused in (await refusal(user.settle(unknown, 1)), await refusal(user.release(unknown))):
        assert (type(refused), refused.status, refused.code) == (UnknownHold, 404, "hold_not_found")
        assert str(refused) == f"the customer has no hold {unknown}"
    nobody = user("nobody")
    for order in (nobody.placing(1), nobody.settling(unknown, 1), nobody.releasing(unknown)):
        missing = await refusal(user.carry_out(order))
        assert (type(missing), missing.field) == (NotFound, "key")
        assert str(missing) == "there is no customer 'nobody'"


async def test_nobody_closes_the_hold_of_another_who_closes_it_at_the_same_time(service: Service, user: User) -> None:
    ada, eve = user("ada"), user("eve")
    await ada.open(10)
    await eve.open(10)
    hold = await ada.place(4)
    answers = await as_one_group(service, [eve.settling(hold, 4), ada.settling(hold, 3), eve.releasing(hold)])
    assert [type(answer) for answer in answers] == [UnknownHold, dict, UnknownHold]
    assert ((await ada.balance()).used, (await eve.balance()).used) == (3, 0)


# Expiry


async def test_holds_expire_when_their_time_is_up(service: Service, user: User, clock: TestClock) -> None:
    await user.open(100)
    short, long = await user.place(10, expires_in_seconds=1), await user.place(20, expires_in_seconds=2)
    clock.advance(SECOND - timedelta(microseconds=1))
    assert await run_due(service) == 0
    assert (await user.balance()).held == 30
    clock.advance(timedelta(microseconds=1))
    assert await run_due(service) == 1
    assert await user.get(short) == replace(short, state="expired", closed_at=NOW + SECOND)
    assert (await user.get(long)).state == "open"
    assert await user.balance() == Balance(CREDITS, 100, 0, 0, 100, held=20)
    assert await run_due(service) == 0


async def test_what_is_due_is_expired_in_portions_oldest_first(service: Service, user: User, clock: TestClock) -> None:
    await user.open(100)
    holds = [await user.place(1, expires_in_seconds=seconds) for seconds in (3, 1, 2, 1, 60)]
    clock.advance(3 * SECOND)
    assert await run_due(service, 3) == 3
    assert [(await user.get(hold)).state for hold in holds] == ["open", "expired", "expired", "expired", "open"]
    assert await run_due(service, 3) == 1
    assert (await user.balance()).held == 1


@pytest.mark.parametrize("way", ["settle", "release"])
async def test_a_hold_is_over_at_its_time_even_if_nobody_came_by(user: User, clock: TestClock, way: str) -> None:
    """Whoever comes too late expires it."""
    await user.open(10)
    hold = await user.place(8)
    clock.advance(timedelta(seconds=DEFAULT_SECONDS))
    late = user.settle(hold, 8) if way == "settle" else user.release(hold)
    assert isinstance(await refusal(late), HoldExpired)
    assert await user.get(hold) == replace(hold, state="expired", closed_at=clock.now())
    assert await user.balance() == Balance(CREDITS, 10, 0, 0, 10)
