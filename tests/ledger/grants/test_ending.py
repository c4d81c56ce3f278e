"""Grants, on every engine: what is left of them goes when they expire or are voided."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from tallystick.database.pool import Connection
from tallystick.kernel.errors import Conflict, NotFound
from tallystick.kernel.ids import derived_id
from tallystick.ledger import remaining
from tallystick.ledger.grants import RETRY_AFTER
from tallystick.ledger.wallets import Balance, TransferCode
from tests.ledger.grants.bank import DAY, Bank
from tests.ledger.services import CREDITS, NOW
from tests.metering.books import create_customer, fetch

# Expiring


async def test_what_is_left_expires(anyone: Bank) -> None:
    grant, stays = await anyone.give(10, days=1), await anyone.give(5, days=2)
    await anyone.use(4)
    assert await anyone.due(DAY - timedelta(microseconds=1)) == 0
    assert await anyone.due(timedelta(microseconds=1)) == 1
    assert await anyone.shown(grant) == ("expired", 4, 0, 6)
    assert await anyone.shown(stays) == ("granted", 0, 5, 0)
    assert await anyone.balance() == Balance(CREDITS, wallet=5, arrears=0, used=4, granted=15, expired=6)
    rows = await fetch(
        anyone.service, "select id, cause_id, amount from ledger_transfers where code = %s", TransferCode.EXPIRY
    )
    assert rows == [(derived_id("expiry", grant, "0"), grant, 6)]


async def test_a_grant_that_is_used_up_expires_without_a_transfer_and_is_not_filled_up_again(anyone: Bank) -> None:
    grant = await anyone.give(10, days=1)
    await anyone.use(10)
    assert await anyone.due(DAY) == 1
    assert await anyone.shown(grant) == ("expired", 10, 0, 0)
    await anyone.use(-3)
    assert await anyone.shown(grant) == ("expired", 10, 0, 0)
    assert (await anyone.balance()).balance == 3
    assert not await fetch(anyone.service, "select * from ledger_transfers where code = %s", TransferCode.EXPIRY)
    assert await anyone.due(9 * DAY) == 0


async def test_several_that_end_together_leave_the_others_alone(anyone: Bank) -> None:
    ends = [await anyone.give(10, days=1) for _ in range(3)]
    stays = await anyone.give(10, priority=1)
    await anyone.use(22)
    assert await anyone.due(DAY) == 3
    assert [await anyone.shown(grant) for grant in ends] == [
        ("expired", 10, 0, 0),
        ("expired", 2, 0, 8),
        ("expired", 0, 0, 10),
    ]
    assert await anyone.left(stays) == [0]


async def test_what_is_held_expires_when_it_is_free_again(prepaid: Bank) -> None:
    grant = await prepaid.give(100, days=1)
    hold = await prepaid.hold(60)
    assert await prepaid.due(DAY) == 1
    assert await prepaid.shown(grant) == ("expired", 0, 60, 40)
    assert await prepaid.due() == 0
    assert await prepaid.due(RETRY_AFTER) == 1  # in vain
    assert await prepaid.shown(grant) == ("expired", 0, 60, 40)
    await prepaid.settle(hold, 25)
    assert await prepaid.shown(grant) == ("expired", 25, 35, 40)
    assert await prepaid.due(RETRY_AFTER) == 1
    assert await prepaid.shown(grant) == ("expired", 25, 0, 75)
    assert await prepaid.due(RETRY_AFTER) == 0
    rows = await fetch(prepaid.service, "select id, amount from ledger_transfers where code = 7 order by sequence")
    assert rows == [(derived_id("expiry", grant, "0"), 40), (derived_id("expiry", grant, "1"), 35)]


async def test_what_is_held_and_then_used_up_by_others_never_goes_below_zero(prepaid: Bank) -> None:
    grant = await prepaid.give(10, days=1)
    hold = await prepaid.hold(10)
    assert await prepaid.due(DAY) == 1
    assert await prepaid.shown(grant) == ("expired", 0, 10, 0)
    await prepaid.settle(hold, 10)
    assert await prepaid.due(RETRY_AFTER) == 1
    assert await prepaid.shown(grant) == ("expired", 10, 0, 0)
    assert await prepaid.due(RETRY_AFTER) == 0


async def test_several_that_end_together_take_no_more_than_is_not_held(prepaid: Bank) -> None:
    ends = [await prepaid.give(10, days=1) for _ in range(3)]
    await prepaid.hold(16)
    assert await prepaid.due(DAY) == 3
    assert sorted([(await prepaid.shown(grant))[2:] for grant in ends]) == [(0, 10), (6, 4), (10, 0)]
    assert await fetch(prepaid.service, "select amount from ledger_transfers where code = 7 order by sequence") == [
        (10,),
        (4,),
    ]


async def test_what_is_used_while_somebody_waits_for_the_ledger_does_not_expire(
    anyone: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = await anyone.give(10, days=1)
    ledger = anyone.service.ledger
    serialise = ledger.serialise

    async def wait(conn: Connection) -> None:
        monkeypatch.undo()
        await anyone.use(4)
        await serialise(conn)

    monkeypatch.setattr(ledger, "serialise", wait)
    assert await anyone.due(DAY) == 1
    assert await anyone.shown(grant) == ("expired", 4, 0, 6)


async def test_a_fold_hears_of_what_was_closed_where_it_had_stopped(anyone: Bank) -> None:
    """Closing a grant that is used up leaves no transfer by which one could tell."""
    grant = await anyone.give(10, days=1)
    await anyone.use(10)
    wallet = await anyone.payer_id(), CREDITS
    async with anyone.service.pool.connection() as conn:
        folded = await remaining.fold(conn, [wallet])
        assert await anyone.due(DAY) == 1
        await anyone.use(-3)
        await remaining.catch_up(conn, folded)
    left = folded.wallets[wallet].remaining()
    assert (left.of.get(grant), left.unattributed) == (None, 3)


async def test_a_postpaid_wallet_below_zero_has_nothing_to_expire(postpaid: Bank) -> None:
    grant = await postpaid.give(10, days=1)
    await postpaid.use(25)
    assert await postpaid.due(DAY) == 1
    assert await postpaid.shown(grant) == ("expired", 10, 0, 0)
    assert (await postpaid.balance()).balance == -15


async def test_no_more_is_done_at_once_than_the_limit(anyone: Bank) -> None:
    for _ in range(5):
        await anyone.give(1, days=1)
    anyone.clock.advance(DAY)
    done: list[int] = []
    while not done or done[-1]:
        async with anyone.service.pool.connection() as conn, conn.transaction():
            done.append(await anyone.service.grants.run_due(conn, anyone.clock.now(), 2))
    assert done == [2, 2, 1, 0]


# Voiding


async def test_what_is_left_is_taken_back_once(anyone: Bank) -> None:
    grant, stays = await anyone.give(10, days=1), await anyone.give(5)
    await anyone.use(4)
    voided = await anyone.void(grant)
    assert (voided.grant.state, voided.used, voided.remaining, voided.taken) == ("voided", 4, 0, 6)
    again = await anyone.void(grant)
    assert (again.used, again.remaining, again.taken) == (4, 0, 6)
    assert await anyone.shown(grant) == ("voided", 4, 0, 6)
    assert await anyone.left(stays) == [5]
    assert await anyone.balance() == Balance(CREDITS, wallet=5, arrears=0, used=4, granted=9)
    assert await anyone.due(2 * DAY) == 0
    rows = await fetch(anyone.service, "select code, cause_id, amount from ledger_transfers where code in (7, 8)")
    assert rows == [(TransferCode.GRANT_VOIDED, grant, 6)]


async def test_a_grant_that_is_used_up_can_be_voided_and_is_not_filled_up_again(anyone: Bank) -> None:
    grant = await anyone.give(10)
    await anyone.use(10)
    assert (await anyone.void(grant)).taken == 0
    await anyone.use(-5)
    assert await anyone.shown(grant) == ("voided", 10, 0, 0)


async def test_a_scheduled_grant_can_be_voided_and_never_comes_in(anyone: Bank) -> None:
    grant = await anyone.give(10, effective_at=NOW + DAY)
    voided = await anyone.void(grant)
    assert (voided.used, voided.remaining, voided.taken) == (0, 0, 0)
    assert await anyone.due(2 * DAY) == 0
    assert await anyone.shown(grant) == ("voided", 0, 0, 0)
    assert (await anyone.balance()).granted == 0


async def test_an_expired_grant_and_one_that_is_not_there_cannot_be_voided(anyone: Bank) -> None:
    grant = await anyone.give(10, days=1)
    await anyone.due(DAY)
    with pytest.raises(Conflict, match="has expired"):
        await anyone.void(grant)
    with pytest.raises(NotFound, match="no grant"):
        await anyone.void(UUID(int=7))
    await create_customer(anyone.service, "eve")
    with pytest.raises(NotFound, match="no grant"):
        await Bank(anyone.service, anyone.clock, "eve").void(grant)
    with pytest.raises(NotFound, match="no customer"):
        await Bank(anyone.service, anyone.clock, "nobody").void(grant)


async def test_what_is_held_is_taken_back_when_it_is_free_again(prepaid: Bank) -> None:
    grant = await prepaid.give(10)
    hold = await prepaid.hold(8)
    assert (await prepaid.void(grant)).taken == 2
    await prepaid.release(hold)
    assert await prepaid.due(RETRY_AFTER) == 1
    assert await prepaid.shown(grant) == ("voided", 0, 0, 10)
