"""Grants, on every engine: they come in once, at their time, and are used in order."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.ledger.grant_model import Standing
from tallystick.ledger.wallets import Balance, Movement, TransferCode
from tests.ledger.grants.bank import DAY, Bank
from tests.ledger.services import CREDITS, DOLLARS, NOW
from tests.metering.books import create_customer, fetch

# Coming in


async def test_a_grant_comes_in_and_says_what_it_is(anyone: Bank) -> None:
    terms: dict[str, Any] = {
        "category": "paid",
        "priority": 7,
        "source": "order 12",
        "reason": "spring",
        "expires_at": NOW + DAY,
    }
    order = anyone.order(200, **terms)
    given, left = await anyone.service.grants.give(order)
    assert left == 200
    assert (given.id, given.ledger, given.amount, given.state) == (order.id, CREDITS, 200, "granted")
    assert (given.effective_at, given.created_at) == (NOW, NOW)
    assert {name: getattr(given, name) for name in terms} == terms
    assert await anyone.standing(given.id) == Standing(given, used=0, remaining=200, taken=0)
    assert await anyone.balance() == Balance(CREDITS, wallet=200, arrears=0, used=0, granted=200)
    assert await fetch(anyone.service, "select transfer_id, type, description from wallet_operations") == [
        (given.id, "grant", "spring")
    ]


async def test_each_of_a_group_is_told_the_balance_after_it(anyone: Bank) -> None:
    orders = [anyone.order(amount) for amount in (1, 10, 100)] + [anyone.order(5, ledger=DOLLARS)]
    answers = await anyone.service.desk._execute(list(orders))
    assert [answer["balance"] for answer in answers if isinstance(answer, dict)] == ["1", "11", "111", "5"]


async def test_arrears_are_repaid_first(prepaid: Bank) -> None:
    await prepaid.use(30)
    one = await prepaid.give(20)
    other = await prepaid.give(20)
    assert await prepaid.balance() == Balance(CREDITS, wallet=10, arrears=0, used=30, granted=40)
    assert await prepaid.shown(one) == ("granted", 20, 0, 0)
    assert await prepaid.shown(other) == ("granted", 10, 10, 0)


async def test_what_a_postpaid_wallet_owes_comes_off_a_grant(postpaid: Bank) -> None:
    await postpaid.use(30)
    one = await postpaid.give(100)
    assert await postpaid.shown(one) == ("granted", 30, 70, 0)
    await postpaid.use(-10)
    assert await postpaid.shown(one) == ("granted", 20, 80, 0)


async def test_every_income_is_a_grant(anyone: Bank) -> None:
    top_up = await anyone.instruct("top_up", 10, description="invoice 3")
    grant = await anyone.instruct("grant", 5)
    await anyone.instruct("bill", 12)
    one, other = await anyone.standing(top_up), await anyone.standing(grant)
    assert (one.grant.category, one.grant.reason, one.used, one.remaining) == ("paid", "invoice 3", 10, 0)
    assert (other.grant.category, other.grant.reason, other.used, other.remaining) == ("promotional", None, 2, 3)
    assert {one.grant.priority, other.grant.priority} == {100}
    opened = Bank(anyone.service, anyone.clock, "bob")
    first = await opened.instruct("open", 7)
    assert (await opened.standing(first)).grant.category == "paid"
    assert len(await fetch(anyone.service, "select * from grants")) == 3  # a bill is none


async def test_a_payer_gets_what_is_granted_to_whom_it_pays_for(anyone: Bank) -> None:
    await create_customer(anyone.service, "project", payer="ada")
    project = Bank(anyone.service, anyone.clock, "project")
    grant = await project.give(10)
    await project.use(4)
    assert await project.left(grant) == await anyone.left(grant) == [6]
    assert (await anyone.balance()).wallet == 6
    assert (await project.void(grant)).taken == 6


async def test_times_that_have_passed_are_refused_by_name(anyone: Bank) -> None:
    tick = timedelta(microseconds=1)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"effective_at": NOW - tick}, "effective_at"),
        ({"expires_at": NOW}, "expires_at"),
        ({"expires_at": NOW - DAY}, "expires_at"),
        ({"effective_at": NOW + DAY, "expires_at": NOW + DAY}, "expires_at"),
    ]
    for terms, field in wrong:
        with pytest.raises(InvalidInput) as refused:
            await anyone.give(1, **terms)
        assert refused.value.field == field
    await anyone.give(1, effective_at=NOW, expires_at=NOW + tick)
    with pytest.raises(NotFound, match="there is no customer 'nobody'"):
        await Bank(anyone.service, anyone.clock, "nobody").give(1)
    assert len(await fetch(anyone.service, "select * from grants")) == 1


# Burning down


async def test_credits_are_used_by_priority_then_expiry_then_age(anyone: Bank) -> None:
    late = await anyone.give(10, days=9)
    never = await anyone.give(10)
    soon = await anyone.give(10, days=2)
    first = await anyone.give(10, priority=1)
    newer = await anyone.give(10, days=9)
    last = await anyone.give(10, days=1, priority=101)
    order = [first, soon, late, newer, never, last]
    for spent in range(6):
        assert await anyone.left(*order) == [0] * spent + [10] * (6 - spent)
        await anyone.use(7)
        await anyone.instruct("bill", 3)
    assert (await anyone.balance()).balance == 0


async def test_money_given_back_comes_back_to_what_was_used_last(anyone: Bank) -> None:
    soon, late = await anyone.give(10, days=1), await anyone.give(10, days=2)
    await anyone.use(15)
    newer = await anyone.give(1, days=9)
    await anyone.use(-8)
    assert await anyone.left(soon, late, newer) == [3, 10, 1]
    await anyone.use(-20)
    assert await anyone.left(soon, late, newer) == [10, 10, 1]
    assert (await anyone.balance()).balance == 34


async def test_assets_are_kept_apart(anyone: Bank) -> None:
    credit, dollar = await anyone.give(10), await anyone.give(10, ledger=DOLLARS)
    await anyone.use(4)
    assert await anyone.left(credit, dollar) == [6, 10]


async def test_money_from_elsewhere_belongs_to_no_grant(prepaid: Bank) -> None:
    """A transfer without a row, as an exchange makes it: it is used when the grants are."""
    grant = await prepaid.give(10)
    async with prepaid.service.pool.connection() as conn, conn.transaction():
        payer = (await prepaid.service.customers.find(conn, ["ada"]))["ada"][1]
        await prepaid.service.wallets.grant(conn, [Movement(uuid4(), payer, CREDITS, 10)], TransferCode.GRANT)
    await prepaid.use(4)
    assert await prepaid.left(grant) == [6]
    await prepaid.use(9)
    assert await prepaid.left(grant) == [0]
    assert (await prepaid.balance()).wallet == 7


async def test_holds_count_when_they_are_settled(prepaid: Bank) -> None:
    soon, late = await prepaid.give(10, days=1), await prepaid.give(10, days=2)
    hold = await prepaid.hold(15)
    assert await prepaid.left(soon, late) == [10, 10]
    await prepaid.settle(hold, 12)
    assert await prepaid.left(soon, late) == [0, 8]
    await prepaid.release(await prepaid.hold(5))
    assert await prepaid.left(soon, late) == [0, 8]


# Scheduled


async def test_a_scheduled_grant_comes_in_when_its_time_has_come(anyone: Bank) -> None:
    grant = await anyone.give(10, effective_at=NOW + DAY, expires_at=NOW + 2 * DAY, reason="next day")
    assert await anyone.shown(grant) == ("scheduled", 0, 0, 0)
    assert await anyone.due(DAY - timedelta(microseconds=1)) == 0
    assert (await anyone.balance()).balance == 0
    assert await anyone.due(timedelta(microseconds=1)) == 1
    assert await anyone.due() == 0
    assert await anyone.shown(grant) == ("granted", 0, 10, 0)
    assert await fetch(anyone.service, "select transfer_id, description from wallet_operations") == [
        (grant, "next day")
    ]
    assert await anyone.due(DAY) == 1
    assert await anyone.shown(grant) == ("expired", 0, 0, 10)


async def test_what_nobody_was_up_for_comes_in_and_expires(anyone: Bank) -> None:
    grant = await anyone.give(10, effective_at=NOW + DAY, expires_at=NOW + 2 * DAY)
    assert [await anyone.due(9 * DAY), await anyone.due(), await anyone.due()] == [1, 1, 0]
    assert await anyone.shown(grant) == ("expired", 0, 0, 10)
    assert await anyone.balance() == Balance(CREDITS, 0, 0, 0, granted=10, expired=10)
