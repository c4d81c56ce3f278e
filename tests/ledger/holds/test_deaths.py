"""Holds, on every engine, when somebody dies before the answer, or before the database has heard of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict
from tallystick.kernel.ids import derived_id
from tallystick.ledger.contract import Transfer
from tallystick.ledger.desk import Answer, Desk, Order
from tallystick.ledger.hold_model import (
    DEFAULT_SECONDS,
    Hold,
    HoldExpired,
    HoldOrder,
    HoldReleased,
    HoldSettled,
    PlaceHold,
    closing_transfers,
    placed,
    placing_transfer,
)
from tallystick.ledger.holds import UNHEARD_SECONDS, Holds
from tallystick.ledger.wallets import Balance, Movement
from tallystick.service import Service
from tests.ledger.holds.user import SECOND, User, all_holds, as_one_group, everything, refusal, run_due
from tests.ledger.services import CREDITS, NOW, StartService
from tests.metering.books import fetch


async def test_carried_out_twice_it_is_done_once(service: Service, user: User, key: str) -> None:
    """The answer to a commit was lost."""
    await user.open(20)
    holds = [await user.place(5) for _ in range(3)]
    group: list[HoldOrder] = [
        user.placing(2, description="chat"),
        user.placing(90),
        user.settling(holds[0], 3),
        user.settling(holds[1], 7),
        user.releasing(holds[2]),
        user.placing(1, idempotency_key=key),
    ]
    group[-1] = replace(group[-1], id=derived_id("idempotency", key))
    first = await as_one_group(service, group)
    before = await everything(service)
    again = await as_one_group(service, group)
    assert await everything(service) == before
    assert [type(answer) for answer in again] == [type(answer) for answer in first]
    assert [answer for answer in again if isinstance(answer, dict)] == [a for a in first if isinstance(a, dict)]
    assert str(again[1]) == "Insufficient balance: 0.00009 was needed"


class LostAnswers(Desk):
    """Loses its connection after each commit, twice."""

    lost = 0

    async def _execute(self, orders: list[Order]) -> list[Answer]:
        answers = await super()._execute(orders)
        if self.lost < 2:
            self.lost += 1
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answers


class BrokenTransactions(Desk):
    """Fails at the very end of its transaction, twice: a ledger elsewhere has done it then."""

    broken = 0

    async def _keep(self, *arguments: Any) -> None:
        await super()._keep(*arguments)
        if self.broken < 2:
            self.broken += 1
            raise psycopg.OperationalError("server closed the connection unexpectedly")


@asynccontextmanager
async def desk_of(kind: type[Desk], service: Service) -> AsyncIterator[Holds]:
    """Holds with a desk of their own on the service's database."""
    desk = kind(service.pool, service.clock)
    holds = Holds(service.clock, desk, service.ledger, service.wallets, service.customers.find)
    await desk.group.start()
    try:
        yield holds
    finally:
        await desk.group.stop()


@pytest.mark.parametrize("kind", [LostAnswers, BrokenTransactions])
async def test_callers_do_not_notice_a_lost_connection(
    service: Service, user: User, key: str, kind: type[Desk]
) -> None:
    await user.open(10)
    async with desk_of(kind, service) as holds:
        hold = await holds.carry_out(user.placing(4, idempotency_key=key))
    async with desk_of(kind, service) as holds:
        assert (await holds.carry_out(user.settling(hold, 6))).state == "settled"
    async with desk_of(kind, service) as holds:
        hold = await holds.carry_out(user.placing(3))
    async with desk_of(kind, service) as holds:
        assert (await holds.carry_out(user.releasing(hold))).state == "released"
    assert await user.balance() == Balance(CREDITS, 4, 0, 6, 10)


async def post_only(service: Service, transfers: list[Transfer], hold: Hold) -> None:
    """What stands in the books when a process dies after a ledger elsewhere did what it asked for."""
    async with service.pool.connection() as conn, conn.transaction():
        await service.wallets.post(conn, [transfers], [Movement(hold.id, hold.payer, hold.ledger, hold.amount)])


@pytest.mark.parametrize("way", ["settle", "settle otherwise", "release", "expiry"])
@pytest.mark.parametrize("amount", [3, 4, 9])
async def test_a_settlement_of_which_the_database_did_not_hear_stands(
    service: Service, user: User, clock: TestClock, way: str, amount: int
) -> None:
    await user.open(10)
    hold = await user.place(4)
    settled = replace(
        hold, state="settled", settled_amount=min(amount, 4), excess=max(0, amount - 4), closed_at=clock.now()
    )
    await post_only(service, closing_transfers(settled), settled)
    clock.advance(SECOND)
    if way == "settle":
        assert await user.settle(hold, amount) == settled
    elif way == "settle otherwise":
        assert isinstance(await refusal(user.settle(hold, 1)), HoldSettled)
    elif way == "release":
        assert isinstance(await refusal(user.release(hold)), HoldSettled)
    else:
        clock.advance(timedelta(seconds=DEFAULT_SECONDS))
        assert await run_due(service) == 1
        assert await run_due(service) == 0
    assert await user.get(hold) == settled
    assert await user.balance() == Balance(CREDITS, 10 - amount, 0, amount, 10)


@pytest.mark.parametrize("late", [False, True], ids=["released", "expired"])
async def test_a_void_of_which_the_database_did_not_hear_stands(
    service: Service, user: User, clock: TestClock, late: bool
) -> None:
    await user.open(10)
    hold = await user.place(4)
    clock.advance(timedelta(seconds=DEFAULT_SECONDS if late else 1))
    voided = replace(hold, state="expired" if late else "released", closed_at=clock.now())
    await post_only(service, closing_transfers(voided), voided)
    assert isinstance(await refusal(user.settle(hold, 4)), HoldExpired if late else HoldReleased)
    assert await user.get(hold) == voided
    assert (await user.balance()).available == 10


async def placed_only(service: Service, order: PlaceHold) -> Hold:
    async with service.pool.connection() as conn:
        found = (await service.customers.find(conn, [order.customer]))[order.customer]
    hold = placed(order, *found, service.clock.now())
    await post_only(service, [placing_transfer(hold)], hold)
    return hold


async def test_a_hold_of_which_the_database_did_not_hear_is_given_to_whoever_asks_again(
    service: Service, user: User, key: str
) -> None:
    await user.open(10)
    order = user.placing(4, idempotency_key=key)
    lost = await placed_only(service, replace(order, id=derived_id("idempotency", key)))
    assert await user.carry_out(order) == lost
    assert await user.balance() == Balance(CREDITS, 10, 0, 0, 10, held=4)


@pytest.mark.parametrize("engine", ["tigerbeetle"], indirect=True)  # elsewhere one transaction writes transfer and hold
@pytest.mark.parametrize("amount", [4, 5], ids=["same request", "other request"])
async def test_a_hold_of_which_nobody_heard_until_it_was_voided_is_not_given_to_anybody(
    service: Service, user: User, key: str, amount: int
) -> None:
    await user.open(10)
    order = user.placing(4, idempotency_key=key)
    lost = await placed_only(service, replace(order, id=derived_id("idempotency", key)))
    await post_only(service, closing_transfers(replace(lost, state="expired")), lost)
    refused = await refusal(user.carry_out(replace(order, amount=amount)))
    assert type(refused) is (HoldExpired if amount == 4 else Conflict)
    assert await all_holds(service, "ada") == []
    assert (await user.balance()).available == 10


@pytest.mark.parametrize("engine", ["tigerbeetle"], indirect=True)
async def test_what_is_held_for_somebody_who_died_is_let_go(
    service: Service, start_service: StartService, user: User, clock: TestClock, key: str
) -> None:
    other = await start_service()
    await user.open(10)
    known = await user.place(1, expires_in_seconds=5000)
    lost = [await placed_only(service, user.placing(2)) for _ in range(3)]
    again = user.placing(1, idempotency_key=key)
    found = await placed_only(service, replace(again, id=derived_id("idempotency", key)))
    await user.use(6)
    assert await user.balance() == Balance(CREDITS, 8, 4, 6, 10, held=8)
    clock.advance(timedelta(seconds=UNHEARD_SECONDS - 1))
    assert await run_due(service) == 0
    assert replace(await user.carry_out(again), created_at=NOW, expires_at=found.expires_at) == found
    clock.advance(SECOND)
    assert await run_due(service, 2) == 1, "the hold that is known was looked at, too"
    assert sum(await asyncio.gather(run_due(service), run_due(other))) == len(lost) - 1
    assert await run_due(service) == 0
    assert [hold.id for hold in await all_holds(service, "ada")] == [found.id, known.id]
    assert await user.balance() == Balance(CREDITS, 4, 0, 6, 10, held=2)
    assert await fetch(service, "select sequence from holds_checked") == await fetch(
        service, "select max(sequence) from ledger_transfers where code = 6 and flags = 2"
    )


async def test_what_was_looked_through_is_not_looked_through_again(
    service: Service, user: User, clock: TestClock
) -> None:
    await user.open(10)
    for _ in range(3):
        await user.place(1, expires_in_seconds=5000)
    clock.advance(timedelta(seconds=UNHEARD_SECONDS))
    assert await run_due(service, 2) == 0
    ((checked,),) = await fetch(service, "select sequence from holds_checked")
    assert await run_due(service, 2) == 0
    assert await fetch(service, "select sequence - %s from holds_checked", checked) == [(1,)]
    assert (await user.balance()).held == 3
