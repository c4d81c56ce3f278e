"""Holds, on every engine: what is held is not spent twice, and is owed where there is not enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tallystick.customers.model import NewCustomer
from tallystick.kernel.clock import TestClock
from tallystick.kernel.ids import derived_id
from tallystick.ledger.hold_model import DEFAULT_SECONDS, ExceedsHold, Hold, UnknownHold
from tallystick.ledger.wallets import Balance, InsufficientCredits
from tallystick.service import Service
from tests.ledger.holds.user import SECOND, User, all_holds, everything, refusal, run_due
from tests.ledger.services import CREDITS, DOLLARS, NOW, UNIT
from tests.metering.books import fetch

# One after the other


async def test_a_hold_is_not_available_and_what_is_settled_is_used(user: User, clock: TestClock) -> None:
    await user.open(10 * UNIT)
    hold = await user.place(4 * UNIT, description="a long answer")
    assert (hold.state, hold.amount, hold.closed_at) == ("open", 4 * UNIT, None)
    assert (hold.created_at, hold.expires_at) == (NOW, NOW + timedelta(seconds=DEFAULT_SECONDS))
    standing = await user.balance()
    assert standing == Balance(CREDITS, 10 * UNIT, 0, 0, 10 * UNIT, held=4 * UNIT)
    assert (standing.balance, standing.available) == (10 * UNIT, 6 * UNIT)
    clock.advance(SECOND)
    settled = await user.settle(hold, 3 * UNIT)
    assert settled == replace(hold, state="settled", settled_amount=3 * UNIT, closed_at=NOW + SECOND)
    assert await user.balance() == Balance(CREDITS, 7 * UNIT, 0, 3 * UNIT, 10 * UNIT)
    assert await user.get(hold) == settled


async def test_a_hold_can_be_settled_to_the_last_microcredit(user: User) -> None:
    await user.open(10)
    assert (await user.settle(await user.place(10), 10)).settled_amount == 10
    assert (await user.settle(await refill(user, 1), 1)).state == "settled"
    assert await user.balance() == Balance(CREDITS, 0, 0, 11, 11)


async def refill(user: User, amount: int) -> Hold:
    await user.instruct("top_up", amount)
    return await user.place(amount)


async def test_a_released_hold_is_available_again(user: User) -> None:
    await user.open(10)
    hold = await user.place(10)
    released = await user.release(hold)
    assert (released.state, released.settled_amount, released.closed_at) == ("released", 0, NOW)
    assert await user.balance() == Balance(CREDITS, 10, 0, 0, 10)
    assert (await user.place(10)).state == "open"


async def test_a_postpaid_wallet_holds_whatever_is_asked(user: User) -> None:
    await user.open(0, "postpaid")
    hold = await user.place(10)
    assert (await user.balance()).available == -10
    assert (await user.settle(hold, 15)).excess == 5
    assert await user.balance() == Balance(CREDITS, -15, 0, 15, 0)
    await user.release(await user.place(7))
    assert (await user.balance()).available == -15


async def test_a_hold_of_more_than_is_available_is_refused_and_says_by_how_much(service: Service, user: User) -> None:
    await user.open(10 * UNIT)
    await user.place(7 * UNIT)
    before = await everything(service)
    refused = await refusal(user.place(4 * UNIT))
    assert (type(refused), refused.status) == (InsufficientCredits, 402)
    assert str(refused) == "Insufficient balance: 4.00 is needed, 3.00 is available"
    assert await everything(service) == before
    assert (await user.place(3 * UNIT)).state == "open"


async def test_bills_respect_holds(user: User) -> None:
    await user.open(10)
    hold = await user.place(8)
    assert isinstance(await refusal(user.instruct("bill", 3)), InsufficientCredits)
    await user.instruct("bill", 2)
    await user.release(hold)
    await user.instruct("bill", 8)
    assert await user.balance() == Balance(CREDITS, 0, 0, 10, 10)


async def test_assets_are_kept_apart(user: User) -> None:
    await user.open(10)
    assert isinstance(await refusal(user.place(1, ledger=DOLLARS)), InsufficientCredits)
    await user.instruct("grant", 5, ledger=DOLLARS)
    hold = await user.place(5, ledger=DOLLARS)
    assert hold.ledger == DOLLARS
    assert (await user.balance()).held == 0
    assert (await user.settle(hold, 5)).state == "settled"


async def test_the_payers_wallet_is_held_and_the_hold_is_the_customers(service: Service, user: User) -> None:
    org, project = user("org"), user("project")
    await org.open(10)
    async with service.pool.connection() as conn, conn.transaction():
        await service.customers.create(conn, NewCustomer("project", payer="org"))
    hold = await project.place(6)
    assert ((await org.balance()).held, (await project.balance()).held) == (6, 0)
    assert await all_holds(service, "org") == []
    assert await all_holds(service, "project") == [hold]
    assert isinstance(await refusal(org.settle(hold, 1)), UnknownHold)
    assert (await project.settle(hold, 5)).settled_amount == 5
    assert (await org.balance()).used == 5


async def test_what_a_hold_is_for_is_noted_where_the_history_looks(service: Service, user: User) -> None:
    await user.open(10)
    hold = await user.place(6, description="chat")
    await user.settle(hold, 8)
    await user.settle(await user.place(1), 1)
    noted = await fetch(service, "select transfer_id, type, description from wallet_operations where type <> 'open'")
    assert sorted(noted) == sorted([(hold.id, "hold", "chat"), (derived_id("excess", hold.id), "hold", "chat")])


# Arrears and excess


async def test_usage_while_credits_are_held_is_repaid_by_what_becomes_free(user: User) -> None:
    await user.open(10)
    hold = await user.place(8)
    await user.use(5)
    assert await user.balance() == Balance(CREDITS, 8, 3, 5, 10, held=8)
    await user.settle(hold, 6)
    assert await user.balance() == Balance(CREDITS, 0, 1, 11, 10)


@pytest.mark.parametrize("way", ["release", "expiry"])
async def test_a_voided_hold_repays_arrears(service: Service, user: User, clock: TestClock, way: str) -> None:
    await user.open(10)
    hold = await user.place(8)
    await user.use(5)
    if way == "release":
        await user.release(hold)
    else:
        clock.advance(timedelta(seconds=DEFAULT_SECONDS))
        assert await run_due(service) == 1
    assert await user.balance() == Balance(CREDITS, 5, 0, 5, 10)


async def test_an_excess_is_taken_from_what_is_available(user: User) -> None:
    await user.open(10)
    settled = await user.settle(await user.place(4), 7)
    assert (settled.settled_amount, settled.excess) == (4, 3)
    assert await user.balance() == Balance(CREDITS, 3, 0, 7, 10)


async def test_an_excess_over_what_is_available_is_owed(user: User) -> None:
    await user.open(10)
    other = await user.place(5)
    await user.settle(await user.place(4), 7)
    assert await user.balance() == Balance(CREDITS, 5, 2, 7, 10, held=5)
    await user.release(other)
    assert await user.balance() == Balance(CREDITS, 3, 0, 7, 10)


async def test_arrears_are_owed_as_long_as_everything_is_held(user: User) -> None:
    await user.open(10)
    await user.place(8)
    await user.use(5)
    standing = await user.balance()
    assert standing == Balance(CREDITS, 8, 3, 5, 10, held=8)
    assert standing.available == -3
    assert isinstance(await refusal(user.place(1)), InsufficientCredits)


async def test_an_excess_that_is_to_be_refused_changes_nothing(service: Service, user: User) -> None:
    await user.open(10 * UNIT)
    hold = await user.place(4_500_000)
    before = await everything(service)
    refused = await refusal(user.settle(hold, 4_500_001, on_excess="refuse"))
    assert (type(refused), refused.status, refused.field) == (ExceedsHold, 422, "amount")
    assert str(refused) == "amount must be at most what is held, 4.5, to be settled without an excess"
    assert await everything(service) == before
    assert (await user.settle(hold, 4_500_000, on_excess="refuse")).state == "settled"
