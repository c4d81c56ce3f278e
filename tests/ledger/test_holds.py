"""Holds, on every engine: what is held is not spent twice, and is settled, released or expired exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tallystick.billing.instructions import Instruction
from tallystick.customers.model import NewCustomer
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, NotFound, TallyError
from tallystick.kernel.ids import derived_id, new_id
from tallystick.ledger.contract import Transfer
from tallystick.ledger.desk import Answer, Desk, Order
from tallystick.ledger.hold_model import (
    DEFAULT_SECONDS,
    ExceedsHold,
    Hold,
    HoldExpired,
    HoldOrder,
    HoldReleased,
    HoldSettled,
    PlaceHold,
    ReleaseHold,
    SettleHold,
    UnknownHold,
    closing_transfers,
    placed,
    placing_transfer,
)
from tallystick.ledger.holds import UNHEARD_SECONDS, Holds
from tallystick.ledger.wallets import Balance, InsufficientCredits, Movement
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.ledger.engines import NO_TIGERBEETLE, tigerbeetle_addresses
from tests.ledger.tigerbeetle_server import CLUSTER_ID
from tests.metering.books import assert_books_hold, balance, create_price, fetch, measurement, submit

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
UNIT = 1_000_000
CREDITS, DOLLARS = 1, 840
SECOND = timedelta(seconds=1)

Outcome = Hold | int | BaseException
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
    """A service. Whatever the test did with it, its books must hold in the end, and agree with the holds."""
    started = await start_service()
    yield started
    await assert_books_hold(started)
    await assert_holds_agree(started)


@pytest.fixture
def key() -> str:
    """An idempotency key that was never used on this ledger, which tests share."""
    return uuid4().hex


@pytest.fixture
def user(service: Service) -> User:
    return User(service)


class User:
    """Somebody who gives orders; amounts in microcredits."""

    def __init__(self, service: Service, customer: str = "ada") -> None:
        self.service = service
        self.customer = customer

    def __call__(self, customer: str) -> User:
        return User(self.service, customer)

    def _id(self) -> UUID:
        return new_id(self.service.clock.now())

    async def instruct(self, type_: Any, amount: int, **fields: Any) -> int:
        instruction = Instruction(self._id(), type_, self.customer, fields.pop("ledger", CREDITS), amount, **fields)
        return await self.service.instructions.carry_out(instruction)

    async def open(self, amount: int, policy: Any = "prepaid") -> None:
        await self.instruct("open", amount, credit_policy=policy)

    def placing(self, amount: int, **fields: Any) -> PlaceHold:
        return PlaceHold(self._id(), self.customer, fields.pop("ledger", CREDITS), amount, **fields)

    def settling(self, hold: Hold | UUID, amount: int, **fields: Any) -> SettleHold:
        return SettleHold(self._id(), self.customer, _id_of(hold), amount, **fields)

    def releasing(self, hold: Hold | UUID, **fields: Any) -> ReleaseHold:
        return ReleaseHold(self._id(), self.customer, _id_of(hold), **fields)

    async def place(self, amount: int, **fields: Any) -> Hold:
        return await self.carry_out(self.placing(amount, **fields))

    async def settle(self, hold: Hold | UUID, amount: int, **fields: Any) -> Hold:
        return await self.carry_out(self.settling(hold, amount, **fields))

    async def release(self, hold: Hold | UUID, **fields: Any) -> Hold:
        return await self.carry_out(self.releasing(hold, **fields))

    async def carry_out(self, order: HoldOrder) -> Hold:
        return await self.service.holds.carry_out(order)

    async def use(self, amount: int) -> None:
        """Usage that has already happened, beyond what is held."""
        await create_price(self.service, model={"type": "per_unit", "amount": "0.000001"})
        await submit(self.service, measurement(self.customer, amount))

    async def balance(self) -> Balance:
        return await balance(self.service, self.customer)

    async def get(self, hold: Hold) -> Hold:
        async with self.service.pool.connection() as conn:
            return await self.service.holds.get(conn, hold.customer_id, hold.id)


def _id_of(hold: Hold | UUID) -> UUID:
    return hold.id if isinstance(hold, Hold) else hold


async def refusal(awaitable: Awaitable[Any]) -> TallyError:
    with pytest.raises(TallyError) as refused:
        await awaitable
    return refused.value


async def together(*orders: tuple[Service, HoldOrder]) -> list[Hold | BaseException]:
    """Hands all in at once; what each of them came to."""
    return await asyncio.gather(*(service.holds.carry_out(order) for service, order in orders), return_exceptions=True)


async def as_one_group(service: Service, orders: Sequence[HoldOrder]) -> list[Answer]:
    """Carries out orders in one transaction, as the queue does with those that arrive together."""
    return await service.desk._execute(list(orders))


async def run_due(service: Service, limit: int = 500) -> int:
    async with service.pool.connection() as conn, conn.transaction():
        return await service.holds.run_due(conn, service.clock.now(), limit)


async def all_holds(service: Service, customer: str, state: Any = None) -> list[Hold]:
    """Newest first, over pages of two."""
    found: list[Hold] = []
    async with service.pool.connection() as conn:
        customer_id = (await service.customers.find(conn, [customer]))[customer][0]
        cursor = None
        while True:
            page = await service.holds.page(conn, customer_id, state, cursor, 2)
            found += page.items
            if (cursor := page.next) is None:
                return found


async def assert_holds_agree(service: Service) -> None:
    """Every hold has a pending transfer of its amount; what was closed is resolved, with what the hold says."""
    rows = await fetch(
        service,
        "select h.state, h.amount, h.settled_amount, h.excess, t.amount, t.flags, r.flags & 12, r.amount, e.amount"
        " from holds as h full join"
        " (select * from ledger_transfers where code = 6 and flags & 2 <> 0) as t on t.id = h.id"
        " left join ledger_transfers as r on r.customer_id = t.customer_id and r.pending_id = t.id"
        " left join ledger_transfers as e on e.customer_id = t.customer_id and e.cause_id = t.id and e.code = 6",
    )
    for state, amount, settled, excess, pending, flags, resolved, moved, beyond in rows:
        if state is None:
            assert resolved == 8, "credits are held for nobody"
            continue
        assert (pending, flags) == (amount, 2)
        expected = {"open": (None, None), "settled": (4, settled)}.get(state, (8, amount))
        assert (resolved, moved) == expected, state
        assert (beyond or 0) == excess


async def everything(service: Service) -> list[Any]:
    """All that orders can change."""
    tables = ("ledger_accounts", "ledger_transfers", "holds", "wallet_operations", "idempotency_keys")
    return [sorted(await fetch(service, f"select * from {table}"), key=str) for table in tables]


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


# When something dies


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
