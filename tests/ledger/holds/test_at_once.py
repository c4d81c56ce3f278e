"""Holds, on every engine, asked for by many at once and over and over."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tallystick.billing.instructions import Instruction
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict
from tallystick.kernel.ids import derived_id, new_id
from tallystick.ledger.hold_model import Hold, HoldExpired, HoldOrder, HoldReleased, HoldSettled
from tallystick.ledger.wallets import Balance, InsufficientCredits
from tallystick.service import Service
from tests.ledger.holds.user import SECOND, User, everything, refusal, run_due, together
from tests.ledger.services import CREDITS, DOLLARS, NOW, UNIT, StartService

# At once


async def test_fifty_holds_at_once_hold_what_is_there_and_no_more(service: Service, user: User) -> None:
    await user.open(10 * UNIT)
    outcomes = await together(*((service, user.placing(UNIT)) for _ in range(50)))
    kinds = [type(outcome) for outcome in outcomes]
    assert (kinds.count(Hold), kinds.count(InsufficientCredits)) == (10, 40)
    assert await user.balance() == Balance(CREDITS, 10 * UNIT, 0, 0, 10 * UNIT, held=10 * UNIT)


async def test_fifty_holds_in_two_processes_hold_what_is_there_and_no_more(
    service: Service, start_service: StartService, user: User
) -> None:
    other = await start_service()
    await user.open(10 * UNIT)
    outcomes = await together(*((one, user.placing(UNIT)) for _ in range(25) for one in (service, other)))
    kinds = [type(outcome) for outcome in outcomes]
    assert (kinds.count(Hold), kinds.count(InsufficientCredits)) == (10, 40)
    assert (await user.balance()).available == 0
    settling: list[HoldOrder] = [user.settling(hold, UNIT) for hold in outcomes if isinstance(hold, Hold)]
    closed = await together(*((one, order) for order in settling for one in (service, other)))
    assert {hold.state for hold in closed if isinstance(hold, Hold)} == {"settled"}
    assert len(closed) == 20
    assert await user.balance() == Balance(CREDITS, 0, 0, 10 * UNIT, 10 * UNIT)


async def test_holds_bills_and_money_together_in_one_group(service: Service, user: User) -> None:
    await user.open(10)
    first, second = await user.place(5), await user.place(5)
    answers = await service.desk._execute(
        [
            user.placing(4),
            user.settling(first, 3),
            Instruction(new_id(NOW), "top_up", "ada", CREDITS, 1),
            user.releasing(second),
            user.placing(5),
            user.settling(first, 3),
            user.releasing(first),
        ]
    )
    kinds = [answer.get("state", "money") if isinstance(answer, dict) else type(answer) for answer in answers]
    assert kinds == ["open", "settled", "money", "released", InsufficientCredits, "settled", HoldSettled]
    assert await user.balance() == Balance(CREDITS, 8, 0, 3, 11, held=4)


async def test_of_all_who_close_a_hold_at_once_one_does(
    service: Service, start_service: StartService, user: User, clock: TestClock
) -> None:
    """Two processes, and the worker of each that expires what is due, over and over."""
    other = await start_service()
    await user.open(1000)
    for number in range(12):
        hold = await user.place(10, expires_in_seconds=1)
        if number % 3 == 0:
            clock.advance(SECOND)
        orders: list[HoldOrder] = [user.settling(hold, 4), user.settling(hold, 11), user.releasing(hold)]
        outcomes, *expired = await asyncio.gather(
            together(*((one, order) for order in orders for one in (service, other))), run_due(service), run_due(other)
        )
        assert {type(outcome) for outcome in outcomes} <= {Hold, HoldSettled, HoldReleased, HoldExpired}
        done = await user.get(hold)
        assert all(outcome == done for outcome in outcomes if isinstance(outcome, Hold)), "one way of being closed"
        assert (done.state == "expired") == (number % 3 == 0)
        assert sum(expired) <= 1
        assert isinstance(await refusal(user.settle(hold, 5)), Conflict)
    assert (await user.balance()).held == 0


async def test_those_who_post_and_those_who_close_do_not_wait_for_each_other_in_a_circle(
    service: Service, start_service: StartService, user: User, clock: TestClock
) -> None:
    """A group with a bill locks the ledger before it comes to its holds. Nobody is told to try again here."""
    other = await start_service()
    await user.open(1000)
    holds = [await user.place(1, expires_in_seconds=30) for _ in range(40)]
    for number, hold in enumerate(holds):
        if number == 30:
            clock.advance(timedelta(seconds=30))
        settle = user.settling(hold, 1)
        bill = Instruction(new_id(NOW), "bill", "ada", CREDITS, 1)
        await asyncio.gather(
            service.desk._execute([bill, settle]),
            *(one.desk._execute([user.settling(hold, 1)]) for one in (other, service, other)),
            run_due(other, 1),
        )
    assert {(await user.get(hold)).state for hold in holds[:30]} == {"settled"}
    assert {(await user.get(hold)).state for hold in holds[30:]} == {"expired"}
    assert await user.balance() == Balance(CREDITS, 930, 0, 70, 1000)


# Idempotency keys


async def test_a_key_gives_the_same_answer_for_good(service: Service, user: User, key: str) -> None:
    await user.open(10)
    hold = await user.place(4, idempotency_key=f"{key} place")
    assert hold.id == derived_id("idempotency", f"{key} place")
    settled = await user.settle(hold, 3, idempotency_key=f"{key} settle")
    other = await user.place(5)
    released = await user.release(other, idempotency_key=f"{key} release")
    refused = await refusal(user.place(8, idempotency_key=f"{key} too much"))
    await user.instruct("top_up", 100)
    before = await everything(service)
    assert await user.place(4, idempotency_key=f"{key} place") == hold, "as it was then"
    assert await user.settle(hold, 3, idempotency_key=f"{key} settle") == settled
    assert await user.release(other, idempotency_key=f"{key} release") == released
    again = await refusal(user.place(8, idempotency_key=f"{key} too much"))
    assert (type(again), str(again)) == (type(refused), str(refused))
    assert str(again) == "Insufficient balance: 0.000008 is needed, 0.000007 is available"
    assert await everything(service) == before


@pytest.mark.parametrize(
    "change",
    [{"customer": "bob"}, {"ledger": DOLLARS}, {"amount": 5}, {"expires_in_seconds": 5}, {"description": "x"}],
    ids=lambda change: next(iter(change)),
)
async def test_a_key_stands_for_one_hold(service: Service, user: User, key: str, change: dict[str, Any]) -> None:
    await user.open(10)
    order = user.placing(4, idempotency_key=key)
    hold = await user.carry_out(order)
    before = await everything(service)
    refused = await refusal(user.carry_out(replace(order, **change)))
    assert (type(refused), str(refused)) == (Conflict, "Idempotency-Key was used for another request before")
    assert await everything(service) == before
    assert await user.carry_out(order) == hold


async def test_a_key_stands_for_one_way_of_closing_one_hold(service: Service, user: User, key: str) -> None:
    await user.open(10)
    hold, other = await user.place(4), await user.place(4)
    order = user.settling(hold, 3, idempotency_key=key)
    settled = await user.carry_out(order)
    before = await everything(service)
    for wrong in (
        replace(order, hold_id=other.id),
        replace(order, amount=4),
        replace(order, on_excess="refuse"),
        user.releasing(hold, idempotency_key=key),
        user.placing(4, idempotency_key=key),
    ):
        assert str(await refusal(user.carry_out(wrong))) == "Idempotency-Key was used for another request before"
    assert await everything(service) == before
    assert await user.carry_out(order) == settled


async def test_a_key_used_many_times_at_once_holds_once(
    service: Service, start_service: StartService, user: User, key: str
) -> None:
    other = await start_service()
    await user.open(10)
    orders = [(one, user.placing(3, idempotency_key=key)) for _ in range(20) for one in (service, other)]
    outcomes = await together(*orders)
    assert isinstance(outcomes[0], Hold)
    assert outcomes == [outcomes[0]] * 40
    assert (await user.balance()).held == 3
