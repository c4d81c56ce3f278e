from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
import pytest

from tallystick.billing.instructions import CustomerExists, Instruction, Instructions, UnknownCustomer
from tallystick.customers.model import NewCustomer
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, TallyError
from tallystick.kernel.ids import derived_id, new_id
from tallystick.ledger.desk import Answer, Desk, Order
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import Balance, InsufficientCredits
from tallystick.service import Service
from tests.billing.conftest import StartService
from tests.metering.books import balance, fetch, measurement, submit

UNIT = 1_000_000
CREDITS, DOLLARS = 1, 840

Outcome = int | BaseException
SomeDesk = TypeVar("SomeDesk", bound=Desk)


@pytest.fixture
def make(clock: TestClock) -> Make:
    return Make(clock)


class Make:
    """Instructions, each with an id of its own; amounts in microcredits."""

    def __init__(self, clock: TestClock) -> None:
        self._clock = clock

    def __call__(self, type_: Any, amount: int, customer: str = "ada", **fields: Any) -> Instruction:
        return Instruction(new_id(self._clock.now()), type_, customer, fields.pop("ledger", CREDITS), amount, **fields)

    def keyed(self, key: str, type_: Any, amount: int, customer: str = "ada", **fields: Any) -> Instruction:
        """As ``carry_out`` hands it to the queue."""
        made = self(type_, amount, customer, idempotency_key=key, **fields)
        return replace(made, id=derived_id("idempotency", key))


@asynccontextmanager
async def running(kind: type[SomeDesk], service: Service) -> AsyncIterator[tuple[SomeDesk, Instructions]]:
    """A desk of its own on the service's database, and whoever carries out instructions there."""
    desk = kind(service.pool, service.clock)
    instructions = Instructions(desk, service.customers, PostgresLedger(service.clock), service.wallets)
    await desk.group.start()
    try:
        yield desk, instructions
    finally:
        await desk.group.stop()


async def together(*orders: tuple[Instructions, Instruction]) -> list[Outcome]:
    """Hands all in at once; what each of them came to."""
    return await asyncio.gather(
        *(instructions.carry_out(instruction) for instructions, instruction in orders), return_exceptions=True
    )


async def at_once(instructions: Instructions, orders: Iterable[Instruction]) -> list[Outcome]:
    return await together(*((instructions, order) for order in orders))


async def as_one_group(service: Service, orders: list[Instruction]) -> list[int | type[TallyError]]:
    """Carries out orders in one transaction, as the queue does with those that arrive together."""
    answers = await service.desk._execute(list(orders))
    return [type(answer) if isinstance(answer, TallyError) else int(answer["balance"]) for answer in answers]


async def refusal(instructions: Instructions, instruction: Instruction) -> TallyError:
    with pytest.raises(TallyError) as refused:
        await instructions.carry_out(instruction)
    return refused.value


async def everything(service: Service) -> list[Any]:
    """All that instructions can change."""
    tables = ("customers", "ledger_accounts", "ledger_transfers", "wallet_operations", "idempotency_keys")
    return [sorted(await fetch(service, f"select * from {table}"), key=str) for table in tables]


# One after the other


async def test_a_wallet_from_opening_to_bill(service: Service, instructions: Instructions, make: Make) -> None:
    assert await instructions.carry_out(make("open", 10 * UNIT)) == 10 * UNIT
    assert await instructions.carry_out(make("top_up", 5 * UNIT)) == 15 * UNIT
    assert await instructions.carry_out(make("grant", 1)) == 15 * UNIT + 1
    assert await instructions.carry_out(make("bill", 2_800)) == 14_997_201
    assert await balance(service, "ada") == Balance(CREDITS, 14_997_201, 0, 2_800, 15 * UNIT + 1)


async def test_an_account_may_be_opened_empty_and_under_either_policy(instructions: Instructions, make: Make) -> None:
    assert await instructions.carry_out(make("open", 0)) == 0
    assert isinstance(await refusal(instructions, make("bill", 1)), InsufficientCredits)
    assert await instructions.carry_out(make("open", 0, "bob", credit_policy="postpaid")) == 0
    assert await instructions.carry_out(make("bill", 1, "bob")) == -1


async def test_opening_twice_is_refused_and_moves_nothing(
    service: Service, instructions: Instructions, make: Make
) -> None:
    await instructions.carry_out(make("open", 10))
    before = await everything(service)
    refused = await refusal(instructions, make("open", 99))
    assert isinstance(refused, CustomerExists)
    assert (refused.status, str(refused)) == (409, "there is a customer 'ada' already")
    assert await everything(service) == before


async def test_who_was_created_by_usage_exists(service: Service, instructions: Instructions, make: Make) -> None:
    await submit(service, measurement("ada"))
    assert isinstance(await refusal(instructions, make("open", 10)), CustomerExists)
    assert await instructions.carry_out(make("top_up", 10)) == 10


@pytest.mark.parametrize("type_", ["top_up", "grant", "bill"])
async def test_an_unknown_customer_is_named(instructions: Instructions, make: Make, type_: str) -> None:
    refused = await refusal(instructions, make(type_, 10, "nobody"))
    assert isinstance(refused, UnknownCustomer)
    assert (refused.status, refused.code) == (404, "customer_not_found")
    assert str(refused) == "there is no customer 'nobody'"


async def test_a_bill_over_the_balance_is_refused_and_says_by_how_much(
    service: Service, instructions: Instructions, make: Make
) -> None:
    await instructions.carry_out(make("open", 9_990_000))
    before = await everything(service)
    refused = await refusal(instructions, make("bill", 10 * UNIT))
    assert (refused.status, refused.code) == (402, "insufficient_credits")
    assert str(refused) == "Insufficient balance: 10.00 is needed, 9.99 is available"
    assert await everything(service) == before


async def test_the_payers_wallet_pays(service: Service, instructions: Instructions, make: Make) -> None:
    await instructions.carry_out(make("open", 10, "org"))
    async with service.pool.connection() as conn, conn.transaction():
        await service.customers.create(conn, NewCustomer("project", payer="org"))
    assert await instructions.carry_out(make("bill", 4, "project", description="disk")) == 6
    assert isinstance(await refusal(instructions, make("bill", 7, "project")), InsufficientCredits)
    assert await instructions.carry_out(make("top_up", 3, "project")) == 9
    assert (await balance(service, "org")).wallet == 9
    noted = await fetch(
        service,
        "select c.key, o.type, o.description from wallet_operations as o join customers as c on c.id = customer_id",
    )
    assert sorted(noted) == [("org", "bill", "disk"), ("org", "open", None)]  # the rest is what the transfers say


async def test_assets_are_kept_apart(instructions: Instructions, make: Make) -> None:
    await instructions.carry_out(make("open", 10))
    assert await instructions.carry_out(make("grant", 5, ledger=DOLLARS)) == 5
    assert isinstance(await refusal(instructions, make("bill", 6, ledger=DOLLARS)), InsufficientCredits)
    assert await instructions.carry_out(make("bill", 6)) == 4


# Handed in together


async def test_fifty_bills_at_once_take_what_is_there_and_no_more(
    service: Service, instructions: Instructions, make: Make
) -> None:
    await instructions.carry_out(make("open", 10 * UNIT))
    outcomes = await at_once(instructions, [make("bill", UNIT) for _ in range(50)])
    paid = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert sorted(paid) == [left * UNIT for left in range(10)]
    assert [type(outcome) for outcome in outcomes].count(InsufficientCredits) == 40
    assert await balance(service, "ada") == Balance(CREDITS, 0, 0, 10 * UNIT, 10 * UNIT)


async def test_each_of_a_group_is_told_the_balance_after_it(service: Service, make: Make) -> None:
    """Nobody can say who came first among those that come together; the balances are those of one order."""
    outcomes = await as_one_group(
        service,
        [
            make("bill", 3),
            make("open", 10),
            make("bill", 30),
            make("top_up", 5),
            make("grant", 2),
            make("bill", 1),
            make("open", 8, "bob"),
            make("bill", 1, "nobody"),
            make("top_up", 0),
        ],
    )
    assert outcomes == [14, 10, InsufficientCredits, 15, 17, 13, 8, UnknownCustomer, 17]


async def test_of_several_who_open_one_account_at_once_one_does(
    service: Service, instructions: Instructions, make: Make
) -> None:
    outcomes = await at_once(instructions, [make("open", 10 + number) for number in range(5)])
    (opened,) = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert [type(outcome) for outcome in outcomes].count(CustomerExists) == 4
    assert await balance(service, "ada") == Balance(CREDITS, opened, 0, 0, opened)


# Idempotency keys


async def test_a_key_gives_the_same_answer_for_good(instructions: Instructions, make: Make) -> None:
    await instructions.carry_out(make("open", 10))
    first = await instructions.carry_out(make("bill", 3, idempotency_key="k"))
    await instructions.carry_out(make("top_up", 100))
    assert await instructions.carry_out(make("bill", 3, idempotency_key="k")) == first == 7
    assert await instructions.carry_out(make("bill", 3)) == 104  # without the key it is another one


async def test_a_key_gives_the_same_refusal_for_good(service: Service, instructions: Instructions, make: Make) -> None:
    orders = [
        make("open", 1, idempotency_key="opened already"),
        make("bill", 3, idempotency_key="too much"),
        make("top_up", 3, "bob", idempotency_key="unknown"),
    ]
    await instructions.carry_out(make("open", 0))
    refused = [await refusal(instructions, order) for order in orders]
    assert [type(error) for error in refused] == [CustomerExists, InsufficientCredits, UnknownCustomer]
    await instructions.carry_out(make("top_up", 100))
    await instructions.carry_out(make("open", 0, "bob"))
    before = await everything(service)
    again = [await refusal(instructions, order) for order in orders]
    assert [(type(error), str(error)) for error in again] == [(type(error), str(error)) for error in refused]
    assert await everything(service) == before


@pytest.mark.parametrize(
    "change",
    [
        {"type": "top_up"},
        {"customer": "bob"},
        {"ledger": DOLLARS},
        {"amount": 4},
        {"description": None},
        {"credit_policy": "postpaid"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_key_stands_for_one_request(
    service: Service, instructions: Instructions, make: Make, change: dict[str, Any]
) -> None:
    await instructions.carry_out(make("open", 10))
    order = make("bill", 3, description="disk", idempotency_key="k")
    await instructions.carry_out(order)
    before = await everything(service)
    refused = await refusal(instructions, replace(order, **change))
    assert isinstance(refused, Conflict)
    assert refused.status == 409
    assert str(refused) == "Idempotency-Key was used for another request before"
    assert await everything(service) == before
    assert await instructions.carry_out(order) == 7


async def test_a_key_used_many_times_at_once_moves_once(
    service: Service, instructions: Instructions, make: Make
) -> None:
    """First within one group, then across groups: the queue takes later ones while the first is under way."""
    await instructions.carry_out(make("open", 10))
    outcomes = await at_once(instructions, [make("bill", 3, idempotency_key="k") for _ in range(20)])
    assert outcomes == [7] * 20
    assert (await balance(service, "ada")).used == 3
    assert await as_one_group(service, [make.keyed("one group", "bill", 3) for _ in range(20)]) == [4] * 20
    assert (await balance(service, "ada")).used == 6


async def test_within_one_group_a_key_stands_for_the_request_that_came_first(
    service: Service, instructions: Instructions, make: Make
) -> None:
    await instructions.carry_out(make("open", 10))
    outcomes = await as_one_group(
        service,
        [
            make.keyed("k", "bill", 3),
            make.keyed("k", "bill", 4),
            make.keyed("k", "top_up", 3),
            make.keyed("k", "bill", 3),
        ],
    )
    assert outcomes == [7, Conflict, Conflict, 7]
    assert (await balance(service, "ada")).balance == 7


# The answer to a commit was lost, so it is carried out again


async def test_carried_out_twice_it_moves_once(service: Service, instructions: Instructions, make: Make) -> None:
    await instructions.carry_out(make("open", 10, "bob"))
    group = [
        make("open", 100),
        make.keyed("open", "open", 100, "eve"),
        make("open", 1, "bob"),
        make("top_up", 30),
        make.keyed("bill", "bill", 5),
        make("bill", 6, description="disk"),
        make("bill", 1000),
        make("bill", 7, "nobody"),
        make("grant", 4, "bob"),
    ]
    first = await as_one_group(service, group)
    before = await everything(service)
    again = await as_one_group(service, group)
    assert await everything(service) == before
    assert [outcome if isinstance(outcome, type) else int for outcome in again] == [
        outcome if isinstance(outcome, type) else int for outcome in first
    ]
    keyed = [place for place, order in enumerate(group) if order.idempotency_key]
    assert [again[place] for place in keyed] == [first[place] for place in keyed]
    assert (await balance(service, "ada")).balance == 119


class LostAnswers(Desk):
    """Loses its connection after each commit, twice."""

    lost = 0

    async def _execute(self, orders: list[Order]) -> list[Answer]:
        answers = await super()._execute(orders)
        if self.lost < 2:
            self.lost += 1
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answers


async def test_callers_do_not_notice_a_lost_answer(service: Service, make: Make) -> None:
    async with running(LostAnswers, service) as (desk, instructions):
        assert await instructions.carry_out(make("open", 10)) == 10
        assert desk.lost == 2
        desk.lost = 0
        assert await at_once(
            instructions, [make("bill", 3, idempotency_key="k"), make("bill", 3, idempotency_key="k")]
        ) == [
            7,
            7,
        ]
        desk.lost = 0
        assert await instructions.carry_out(make("top_up", 5)) == 12
    assert await balance(service, "ada") == Balance(CREDITS, 12, 0, 3, 15)


# Two processes on one database


async def test_two_processes_take_what_is_there_and_no_more(
    service: Service, start_service: StartService, make: Make
) -> None:
    one, other = service.instructions, (await start_service()).instructions
    await one.carry_out(make("open", 10 * UNIT))
    outcomes = await together(*((instructions, make("bill", UNIT)) for _ in range(25) for instructions in (one, other)))
    assert sorted(outcome for outcome in outcomes if isinstance(outcome, int)) == [left * UNIT for left in range(10)]
    assert [type(outcome) for outcome in outcomes].count(InsufficientCredits) == 40
    assert (await balance(service, "ada")).balance == 0


async def test_a_key_used_in_two_processes_at_once_moves_once(
    service: Service, start_service: StartService, make: Make
) -> None:
    one, other = service.instructions, (await start_service()).instructions
    await one.carry_out(make("open", 1000))
    for number in range(10):
        orders = [make("bill", 3, idempotency_key=f"k{number}") for _ in range(4)]
        outcomes = await together(*zip((one, other, one, other), orders, strict=True))
        assert outcomes == [997 - 3 * number] * 4
    assert (await balance(service, "ada")).used == 30


class Rival(Desk):
    """Goes on only when its rival, too, has looked the key up and found nothing; after that they go their own ways."""

    meeting: asyncio.Barrier

    async def _answered(self, *arguments: Any) -> Any:
        answers = await super()._answered(*arguments)
        with contextlib.suppress(asyncio.BrokenBarrierError):
            await self.meeting.wait()
            await self.meeting.abort()
        return answers


@pytest.mark.parametrize("amount", [3, 4], ids=["same request", "other request"])
async def test_two_processes_that_both_find_a_key_new(service: Service, make: Make, amount: int) -> None:
    """The one that keeps its answer last runs again, and now finds the key."""
    await service.instructions.carry_out(make("open", 10))
    async with running(Rival, service) as (first, one), running(Rival, service) as (second, other):
        first.meeting = second.meeting = asyncio.Barrier(2)
        orders = (make("bill", 3, idempotency_key="k"), make("bill", amount, idempotency_key="k"))
        outcomes = await together(*zip((one, other), orders, strict=True))
    if amount == 3:
        assert outcomes == [7, 7]
    else:
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "int"]
    assert (await balance(service, "ada")).balance in outcomes


async def test_a_key_used_for_two_requests_in_two_processes_at_once_stands_for_one_of_them(
    service: Service, start_service: StartService, make: Make
) -> None:
    """Other instructions of the same groups are carried out all the same, and once."""
    one, other = service.instructions, (await start_service()).instructions
    await one.carry_out(make("open", 0, "bank", credit_policy="postpaid"))
    for number in range(10):
        key, customer, rival = f"k{number}", f"c{number}", f"r{number}"
        outcomes = await together(
            (one, make("open", 5, customer, idempotency_key=key)),
            (other, make("open", 5, rival, idempotency_key=key)),
            (one, make("bill", 1, "bank")),
            (other, make("bill", 1, "bank")),
        )
        assert sorted(str(type(outcome).__name__) for outcome in outcomes) == ["Conflict", "int", "int", "int"]
        assert sorted([outcomes[2], outcomes[3]], key=str) == sorted([-2 * number - 1, -2 * number - 2], key=str)
    rows = await fetch(service, "select count(*) from customers where key ~ '^[cr][0-9]'")
    assert rows == [(10,)]
    assert (await balance(service, "bank")).used == 20


async def test_two_processes_that_open_the_same_accounts(
    service: Service, start_service: StartService, make: Make
) -> None:
    one, other = service.instructions, (await start_service()).instructions
    names = [f"c{number}" for number in range(20)]
    orders = [(one, make("open", 1, name)) for name in names] + [(other, make("open", 2, name)) for name in names[::-1]]
    outcomes = await together(*orders)
    assert [type(outcome) for outcome in outcomes].count(CustomerExists) == 20
    assert [type(outcome) for outcome in outcomes].count(int) == 20
    standings = [await balance(service, name) for name in names]
    assert sum(standing.granted for standing in standings) == sum(o for o in outcomes if isinstance(o, int))


async def test_money_and_usage_at_once(service: Service, start_service: StartService, make: Make) -> None:
    """Two processes bill, open and meter the same customers; nothing is lost, nothing is counted twice."""
    rival = await start_service()
    names = [f"c{number}" for number in range(10)]

    async def meter(through: Service, name: str) -> int:
        return (await submit(through, measurement(name))).accepted

    work = [meter(through, name) for name in names for through in (service, rival)]
    orders = [(through.instructions, make("open", 3, name)) for name in names for through in (service, rival)]
    accepted, outcomes = await asyncio.gather(asyncio.gather(*work), together(*orders))
    assert accepted == [1] * 20
    assert {type(outcome) for outcome in outcomes} <= {int, CustomerExists}
    assert await fetch(service, "select count(*) from customers") == [(10,)]
