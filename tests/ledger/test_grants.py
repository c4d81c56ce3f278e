"""Grants, on every engine: they come in once, are used in order, and what is left of them goes when they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest

from tallystick.billing.instructions import Instruction
from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tallystick.kernel.ids import derived_id, new_id
from tallystick.ledger import remaining
from tallystick.ledger.grant_model import GrantCredits, Standing, VoidGrant
from tallystick.ledger.grants import RETRY_AFTER
from tallystick.ledger.hold_model import PlaceHold, ReleaseHold, SettleHold
from tallystick.ledger.remaining import Wallet
from tallystick.ledger.wallets import Balance, Movement, TransferCode
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.ledger.engines import NO_TIGERBEETLE, tigerbeetle_addresses
from tests.ledger.tigerbeetle_server import CLUSTER_ID
from tests.metering.books import assert_books_hold, balance, create_customer, create_price, fetch, measurement, submit

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
CREDITS, DOLLARS = 1, 840
DAY = timedelta(days=1)
LIMIT = 100

StartService = Callable[[], Awaitable[Service]]


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture(scope="module", params=["postgres", "tigerbeetle"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the setting ``ledger`` says."""
    if request.param == "postgres":
        yield "postgres"
        return
    with tigerbeetle_addresses(tmp_path_factory.mktemp("tigerbeetle")) as addresses:
        if addresses is None:
            pytest.skip(NO_TIGERBEETLE)
        yield f"tigerbeetle://{CLUSTER_ID}@{addresses}"


@pytest.fixture
async def start_service(database_url: str, clock: TestClock, engine: str) -> AsyncIterator[StartService]:
    """Starts what one server process would."""
    async with AsyncExitStack() as services:

        async def start() -> Service:
            settings = Settings(dev=True, database_pool_size=4, ledger=engine)
            return await services.enter_async_context(open_service(settings, database_url, clock))

        yield start


@pytest.fixture
async def service(start_service: StartService) -> AsyncIterator[Service]:
    """A service. Whatever the test did with it, its books must hold in the end, and agree with the grants."""
    started = await start_service()
    await create_price(started, model={"type": "per_unit", "amount": "0.000001"})
    yield started
    await assert_books_hold(started)
    await assert_grants_agree(started)


@pytest.fixture(params=["prepaid", "postpaid"])
async def anyone(request: pytest.FixtureRequest, service: Service, clock: TestClock) -> Bank:
    """A customer under either policy."""
    await create_customer(service, "ada", credit_policy=request.param)
    return Bank(service, clock)


@pytest.fixture
async def prepaid(service: Service, clock: TestClock) -> Bank:
    await create_customer(service, "ada", credit_policy="prepaid")
    return Bank(service, clock)


@pytest.fixture
async def postpaid(service: Service, clock: TestClock) -> Bank:
    await create_customer(service, "ada")
    return Bank(service, clock)


class Bank:
    """Where a customer's money moves; amounts in microcredits."""

    def __init__(self, service: Service, clock: TestClock, customer: str = "ada") -> None:
        self.service = service
        self.clock = clock
        self.customer = customer

    def order(self, amount: int, **terms: Any) -> GrantCredits:
        return GrantCredits(new_id(self.clock.now()), self.customer, terms.pop("ledger", CREDITS), amount, **terms)

    async def give(self, amount: int, *, days: int | None = None, **terms: Any) -> UUID:
        """A grant that ends after so many days."""
        if days is not None:
            terms["expires_at"] = self.clock.now() + days * DAY
        given, _ = await self.service.grants.give(self.order(amount, **terms))
        return given.id

    async def void(self, grant_id: UUID, key: str | None = None) -> Standing:
        order = VoidGrant(new_id(self.clock.now()), self.customer, grant_id, idempotency_key=key)
        return await self.service.grants.void(order)

    async def instruct(self, type_: Any, amount: int, **fields: Any) -> UUID:
        instruction = Instruction(new_id(self.clock.now()), type_, self.customer, CREDITS, amount, **fields)
        await self.service.instructions.carry_out(instruction)
        return instruction.id

    async def use(self, *amounts: int) -> None:
        """Usage that has happened, each in a transaction of its own; negative if it is corrected."""
        for amount in amounts:
            await submit(self.service, measurement(self.customer, amount, at=NOW))
        async with self.service.pool.connection() as conn:  # a ledger elsewhere has carried it out when it answers
            await self.service.wallets.left(conn, [await self.payer_id()], CREDITS)

    async def hold(self, amount: int) -> UUID:
        hold = PlaceHold(new_id(self.clock.now()), self.customer, CREDITS, amount, expires_in_seconds=7 * 86_400)
        return (await self.service.holds.carry_out(hold)).id

    async def settle(self, hold_id: UUID, amount: int) -> None:
        await self.service.holds.carry_out(SettleHold(new_id(self.clock.now()), self.customer, hold_id, amount))

    async def release(self, hold_id: UUID) -> None:
        await self.service.holds.carry_out(ReleaseHold(new_id(self.clock.now()), self.customer, hold_id))

    async def due(self, after: timedelta = timedelta(0)) -> int:
        """Does what is due after so much time."""
        self.clock.advance(after)
        async with self.service.pool.connection() as conn, conn.transaction():
            return await self.service.grants.run_due(conn, self.clock.now(), LIMIT)

    async def payer_id(self) -> UUID:
        async with self.service.pool.connection() as conn:
            return (await self.service.customers.find(conn, [self.customer]))[self.customer][1].id

    async def standing(self, grant_id: UUID) -> Standing:
        async with self.service.pool.connection() as conn, conn.transaction():
            return await self.service.grants.get(conn, await self.payer_id(), grant_id)

    async def left(self, *grant_ids: UUID) -> list[int]:
        return [(await self.standing(grant_id)).remaining for grant_id in grant_ids]

    async def shown(self, grant_id: UUID) -> tuple[str, int, int, int]:
        """State, used, left, and taken away."""
        standing = await self.standing(grant_id)
        return standing.grant.state, standing.used, standing.remaining, standing.taken

    async def balance(self) -> Balance:
        return await balance(self.service, self.customer)


async def assert_grants_agree(service: Service) -> None:
    """Every wallet folded from its beginning: what is left sums up to its balance, and to what is shown; every ended
    grant that is done with has nothing left; nothing was taken away that was not left.
    """
    payers = await fetch(service, "select distinct customer_id, ledger from ledger_accounts")
    async with service.pool.connection() as conn, conn.transaction(force_rollback=True):
        shown = {wallet: {s.grant.id: s for s in await _standings(service, conn, wallet)} for wallet in payers}
        await conn.execute("delete from grant_checkpoints")
        folded = await remaining.fold(conn, payers)
    for wallet, down in folded.wallets.items():
        left = down.remaining()
        (standing,) = (await _balances(service, wallet)) or (Balance(wallet[1], 0, 0, 0, 0),)
        assert left.balance == standing.wallet
        for grant_id, one in shown[wallet].items():
            assert one.remaining == left.of.get(grant_id, 0), "a checkpoint says otherwise than the books"
            assert one.taken == sum(down.taken(grant_id))
            assert one.used >= 0
            assert one.remaining == 0 or one.grant.state == "granted" or one.grant.due_at is not None


async def _balances(service: Service, wallet: Wallet) -> list[Balance]:
    async with service.pool.connection() as conn:
        return await service.wallets.balances(conn, wallet[0], [wallet[1]])


async def _standings(service: Service, conn: Connection, wallet: Wallet) -> list[Standing]:
    page = await service.grants.page(conn, wallet[0], None, None, 1000)
    return [standing for standing in page.items if standing.grant.ledger == wallet[1]]


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


# Once


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


# Lists


async def test_grants_come_newest_first_in_pages_and_by_state(anyone: Bank) -> None:
    ids: list[UUID] = []
    for number in range(5):
        ids.append(await anyone.give(10 + number, days=1 if number == 2 else 9))
        anyone.clock.advance(timedelta(seconds=1))
    await anyone.due(DAY)
    await anyone.void(ids[3])
    payer_id = await anyone.payer_id()

    async def listed(state: Any = None, limit: int = 2) -> list[Standing]:
        found: list[Standing] = []
        cursor: str | None = None
        while True:
            async with anyone.service.pool.connection() as conn, conn.transaction():
                page = await anyone.service.grants.page(conn, payer_id, state, cursor, limit)
            found += page.items
            if (cursor := page.next) is None:
                return found

    assert [standing.grant.id for standing in await listed()] == ids[::-1]
    assert [standing.grant.id for standing in await listed("granted")] == [ids[4], ids[1], ids[0]]
    assert [standing.remaining for standing in await listed("expired")] == [0]
    assert [standing.taken for standing in await listed("voided")] == [13]
    assert await listed("scheduled") == []
    with pytest.raises(InvalidInput) as refused:
        async with anyone.service.pool.connection() as conn:
            await anyone.service.grants.page(conn, payer_id, None, "x", 2)
    assert refused.value.field == "cursor"


async def test_how_far_a_long_history_was_read_is_kept(anyone: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remaining, "MANY_TRANSFERS", 10)
    grant = await anyone.give(1000)
    await anyone.use(*[1] * 20)
    assert await anyone.left(grant) == [980]
    ((sequence, moved_out),) = await fetch(anyone.service, "select sequence, moved_out from grant_checkpoints")
    assert moved_out == 20
    await anyone.use(-5, 7)
    assert await anyone.left(grant) == [978]
    assert await fetch(anyone.service, "select sequence from grant_checkpoints") == [(sequence,)]
    await anyone.use(*[1] * 20)
    assert await anyone.left(grant) == [958]
    ((later, moved_out),) = await fetch(anyone.service, "select sequence, moved_out from grant_checkpoints")
    assert (later > sequence, moved_out) == (True, 42)


# Any day


async def refused(doing: Awaitable[Any]) -> int | None:
    """The status with which it is refused, if it is."""
    try:
        await doing
    except TallyError as error:
        return error.status
    return None


async def test_any_day_comes_out_as_the_books_say(anyone: Bank) -> None:
    """Whatever happens, in any order: the fixture compares every wallet with a fold from its beginning."""
    random = Random(7)
    grants: list[UUID] = []
    holds: list[UUID] = []
    for _ in range(120):
        match random.choice(("give", "later", "use", "use", "back", "bill", "hold", "settle", "void", "due", "due")):
            case "give":
                days = random.choice((None, 1, 2, 5))
                grants.append(await anyone.give(random.randint(1, 50), days=days, priority=random.randint(99, 101)))
            case "later":
                at = anyone.clock.now() + random.randint(1, 3) * DAY
                grants.append(await anyone.give(random.randint(1, 50), effective_at=at, expires_at=at + DAY))
            case "use":
                await anyone.use(*(random.randint(0, 30) for _ in range(random.randint(1, 3))))
            case "back":
                await anyone.use(-random.randint(0, 20))
            case "bill":
                assert await refused(anyone.instruct("bill", random.randint(1, 20))) in (None, 402)
            case "hold":
                hold = asyncio.ensure_future(anyone.hold(random.randint(1, 20)))
                if await refused(hold) is None:
                    holds.append(hold.result())
            case "settle" if holds:
                await anyone.settle(holds.pop(), random.randint(1, 25))
            case "void" if grants:
                assert await refused(anyone.void(random.choice(grants))) in (None, 409)
            case "due":
                await anyone.due(timedelta(hours=random.randint(1, 30)))
        for grant in random.sample(grants, min(2, len(grants))):
            standing = await anyone.standing(grant)
            assert standing.used + standing.remaining + standing.taken in (0, standing.grant.amount)
