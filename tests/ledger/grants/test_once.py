"""Grants, on every engine: whatever is repeated, comes at once or dies is done once."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from uuid import uuid4

import pytest

from tallystick.billing.instructions import Instruction
from tallystick.kernel.errors import Conflict
from tallystick.ledger import remaining
from tallystick.ledger.grants import RETRY_AFTER
from tallystick.ledger.wallets import Balance
from tallystick.service import Service
from tests.ledger.grants.bank import DAY, LIMIT, Bank
from tests.ledger.services import CREDITS, NOW, StartService
from tests.metering.books import fetch


async def test_a_key_gives_the_same_answer_for_good(anyone: Bank) -> None:
    key = uuid4().hex
    first = await anyone.service.grants.give(anyone.order(10, expires_at=NOW + DAY, idempotency_key=key))
    assert await anyone.service.grants.give(anyone.order(10, expires_at=NOW + DAY, idempotency_key=key)) == first
    void_key = uuid4().hex
    voided = await anyone.void(first[0].id, void_key)
    anyone.clock.advance(9 * DAY)
    assert await anyone.service.grants.give(anyone.order(10, expires_at=NOW + DAY, idempotency_key=key)) == first
    assert await anyone.void(first[0].id, void_key) == voided
    for change in ({"amount": 11}, {"priority": 1}, {"category": "paid"}, {"source": "x"}, {"expires_at": None}):
        order = anyone.order(10, expires_at=NOW + DAY, idempotency_key=key)
        with pytest.raises(Conflict, match="Idempotency-Key"):
            await anyone.service.grants.give(replace(order, **change))
    assert (await anyone.balance()).granted == 0


async def test_carried_out_twice_it_is_given_once(anyone: Bank) -> None:
    """The answer to a commit was lost, so the group is run again, when its times may have passed."""
    group = [
        anyone.order(10),
        anyone.order(20, effective_at=NOW, expires_at=NOW + DAY),
        anyone.order(30, effective_at=NOW + DAY),
        anyone.order(40, effective_at=NOW + 3 * DAY),
    ]
    first = await anyone.service.desk._execute(list(group))
    await anyone.due(2 * DAY)
    before = await fetch(anyone.service, "select * from grants order by id")
    again = await anyone.service.desk._execute(list(group))
    assert await fetch(anyone.service, "select * from grants order by id") == before
    assert [a["grant"]["id"] for a in again if isinstance(a, dict)] == [
        a["grant"]["id"] for a in first if isinstance(a, dict)
    ]
    assert len(again) == 4
    assert await anyone.balance() == Balance(CREDITS, wallet=40, arrears=0, used=0, granted=60, expired=20)


async def test_many_who_void_at_once_take_it_once(anyone: Bank) -> None:
    grant = await anyone.give(10)
    await anyone.use(3)
    outcomes = await asyncio.gather(*(anyone.void(grant) for _ in range(20)))
    assert {outcome.taken for outcome in outcomes} == {7}
    assert (await anyone.balance()).wallet == 0


async def test_two_servers_do_what_is_due_once(anyone: Bank, start_service: StartService) -> None:
    other = Bank(await start_service(), anyone.clock)
    ends = [await anyone.give(10, days=1) for _ in range(20)]
    starts = [await anyone.give(1, effective_at=NOW + DAY) for _ in range(20)]
    await anyone.use(15)
    anyone.clock.advance(DAY)
    done = await asyncio.gather(*(bank.due() for bank in (anyone, other, anyone, other)))
    assert sum(done) == 40
    assert [sum(shown) for shown in zip(*[(await anyone.shown(g))[1:] for g in ends], strict=True)] == [15, 0, 185]
    assert await anyone.left(*starts) == [1] * 20
    assert await anyone.balance() == Balance(CREDITS, 20, 0, 15, granted=220, expired=185)


async def test_who_voids_and_what_is_due_at_the_same_time_take_it_once(
    anyone: Bank, start_service: StartService
) -> None:
    other = Bank(await start_service(), anyone.clock)
    grants = [await anyone.give(10, days=1) for _ in range(10)]
    anyone.clock.advance(DAY)
    outcomes = await asyncio.gather(
        other.due(), *(anyone.void(grant) for grant in grants), other.due(), return_exceptions=True
    )
    assert not [o for o in outcomes if isinstance(o, BaseException) and not isinstance(o, Conflict)]
    assert (await anyone.balance()).wallet == 0
    for grant in grants:
        state, used, left, taken = await anyone.shown(grant)
        assert (used, left, taken) == (0, 0, 10)
        assert state in ("expired", "voided")


class PowerCut(Exception):
    pass


async def cut(bank: Bank) -> None:
    """Does what is due, and dies before it is committed."""
    with contextlib.suppress(PowerCut):
        async with bank.service.pool.connection() as conn, conn.transaction():
            assert await bank.service.grants.run_due(conn, bank.clock.now(), LIMIT)
            raise PowerCut


async def test_who_dies_before_the_commit_has_done_nothing_twice(anyone: Bank) -> None:
    """On TigerBeetle the money has moved then; whoever comes next finds it done."""
    ends = await anyone.give(10, days=1)
    starts = await anyone.give(5, effective_at=NOW + DAY)
    await anyone.use(4)
    anyone.clock.advance(DAY)
    for _ in range(3):
        await cut(anyone)
    assert await anyone.due() == 2
    assert await anyone.due() == 0
    assert await anyone.shown(ends) == ("expired", 4, 0, 6)
    assert await anyone.shown(starts) == ("granted", 0, 5, 0)
    assert await anyone.balance() == Balance(CREDITS, 5, 0, 4, granted=15, expired=6)


async def test_who_dies_after_a_part_was_taken_takes_the_rest(prepaid: Bank) -> None:
    grant = await prepaid.give(10, days=1)
    hold = await prepaid.hold(7)
    prepaid.clock.advance(DAY)
    await cut(prepaid)
    await prepaid.release(hold)
    await cut(prepaid)
    assert await prepaid.due() == 1
    assert await prepaid.shown(grant) == ("expired", 0, 0, 10)
    assert await prepaid.due(RETRY_AFTER) == 0


@pytest.mark.parametrize("kind", ["grant_credits", "top_up"])
async def test_a_grant_that_is_written_down_after_its_transfer_is_found_in_its_place(prepaid: Bank, kind: str) -> None:
    """As if its caller had died on TigerBeetle, and sent it again after others had gone on."""
    soon, lost = await prepaid.give(10, days=1), prepaid.order(10, priority=1)
    order = lost if kind == lost.type else Instruction(lost.id, "top_up", "ada", CREDITS, 10)
    await prepaid.service.desk._execute([order])
    await execute(prepaid.service, "delete from grants where id = %s", lost.id)
    await prepaid.use(2)
    async with prepaid.service.pool.connection() as conn, conn.transaction():
        folded = await remaining.fold(conn, [(await prepaid.payer_id(), CREDITS)])
        await remaining.keep(conn, folded, posts=True)
    await prepaid.service.desk._execute([order])
    assert await prepaid.left(soon, lost.id) == ([10, 8] if order is lost else [8, 10])


async def test_a_grant_that_is_voided_before_its_row_knows_of_its_transfer_is_taken_back(anyone: Bank) -> None:
    """As if a server had died on TigerBeetle while it posted what was due."""
    grant = await anyone.give(10)
    await execute(anyone.service, "update grants set state = 'scheduled', due_at = effective_at")
    assert (await anyone.void(grant)).taken == 10
    assert await anyone.due() == 0
    assert await anyone.shown(grant) == ("voided", 0, 0, 10)


async def execute(service: Service, statement: str, *parameters: object) -> None:
    async with service.pool.connection() as conn:
        await conn.execute(statement, parameters)
