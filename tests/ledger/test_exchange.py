"""Exchange, on every engine: both transfers of a pair or neither, to the microunit, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any
from uuid import UUID

import pytest

from tallystick.billing.instructions import Instruction
from tallystick.customers.model import NewCustomer
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tallystick.kernel.ids import derived_id, new_id
from tallystick.kernel.money import MAX_AMOUNT
from tallystick.ledger.assets import Asset
from tallystick.ledger.contract import LedgerRefusal, Transfer, TransferFlags
from tallystick.ledger.exchange import Exchange, ExchangeOrder
from tallystick.ledger.hold_model import PlaceHold
from tallystick.ledger.wallets import AccountCode, InsufficientCredits, TransferCode, account_id
from tallystick.service import Service
from tests.ledger.services import NOW, UNIT, StartService
from tests.metering.books import balance, create_price, fetch, measurement, submit

CREDIT = Asset("CREDIT", 1, "Credit", 6, "cr")
DOLLAR = Asset("USD", 840, "US Dollar", 2, "$")
YEN = Asset("JPY", 392, "Yen", 0, "¥")


@pytest.fixture
async def service(service: Service) -> AsyncIterator[Service]:
    """A service. Whatever the test did with it, its books must agree with the exchanges in the end."""
    yield service
    await assert_exchanges_agree(service)


async def assert_exchanges_agree(service: Service) -> None:
    """Each exchange stands beside one pair of transfers with its amounts; and there are no other pairs."""
    pairs = await fetch(
        service,
        "select o.customer_id, o.id, o.ledger, i.ledger, o.amount, i.amount from ledger_transfers as o"
        " left join ledger_transfers as i on i.cause_id = o.id and i.customer_id = o.customer_id and i.code = 9"
        " where o.code = 9 and o.cause_id is null",
    )
    recorded = await fetch(
        service, "select customer_id, id, from_ledger, to_ledger, amount, received, rate from exchanges"
    )
    assert sorted(pairs) == sorted(row[:6] for row in recorded)
    assert all(round(Fraction(amount) * Fraction(rate)) == received for *_, amount, received, rate in recorded)


async def opened(
    service: Service, amount: int, asset: Asset = DOLLAR, policy: Any = "prepaid", key: str = "ada"
) -> str:
    """The key of a new customer with so many microunits."""
    instruction = Instruction(new_id(NOW), "open", key, asset.ledger, amount, credit_policy=policy)
    await service.instructions.carry_out(instruction)
    return key


async def top_up(service: Service, amount: int, asset: Asset, key: str = "ada") -> None:
    await service.instructions.carry_out(Instruction(new_id(NOW), "top_up", key, asset.ledger, amount))


def order(
    amount: int, rate: str = "0.02", source: Asset = DOLLAR, target: Asset = CREDIT, customer: str = "ada", **more: Any
) -> ExchangeOrder:
    return ExchangeOrder(new_id(NOW), customer, source, target, amount, Decimal(rate), **more)


async def refusal(service: Service, refused: ExchangeOrder) -> TallyError:
    with pytest.raises(TallyError) as caught:
        await service.exchanges.carry_out(refused)
    return caught.value


async def wallet(service: Service, asset: Asset, key: str = "ada") -> int:
    return (await balance(service, key, ledger=asset.ledger)).balance


async def everything(service: Service) -> list[Any]:
    """All that an exchange that stands would have changed."""
    async with service.pool.connection() as conn:
        ids = [customer_id for (customer_id,) in await (await conn.execute("select id from customers")).fetchall()]
        standings = await service.wallets.standings(conn, ids, [CREDIT.ledger, DOLLAR.ledger, YEN.ledger])
    moved = await fetch(service, "select id from ledger_transfers where amount > 0 order by sequence")
    return [
        {key: [one for one in found if one.wallet] for key, found in standings.items()},
        moved,
        await fetch(service, "select * from exchanges order by id"),
    ]


async def payer_id(service: Service, key: str = "ada") -> UUID:
    ((found,),) = await fetch(service, "select id from customers where key = %s", key)
    assert isinstance(found, UUID)
    return found


async def in_turn(services: Sequence[Service], orders: Sequence[ExchangeOrder]) -> list[Exchange | BaseException]:
    """Hands all in at once, at these services in turn."""
    tasks = (services[number % len(services)].exchanges.carry_out(one) for number, one in enumerate(orders))
    return await asyncio.gather(*tasks, return_exceptions=True)


# One exchange


async def test_an_exchange_is_one_linked_pair(service: Service, clock: TestClock) -> None:
    await opened(service, 100 * UNIT)
    asked = order(99_999_999)
    done = await service.exchanges.carry_out(asked)
    assert done == Exchange(asked.id, "USD", "CREDIT", 99_999_999, Decimal("0.02"), 2_000_000, NOW)
    assert await wallet(service, DOLLAR) == 1
    assert await wallet(service, CREDIT) == 2 * UNIT
    assert (await balance(service, "ada", ledger=DOLLAR.ledger)).exchanged == -99_999_999
    assert (await balance(service, "ada", ledger=CREDIT.ledger)).exchanged == 2_000_000
    rows = await fetch(
        service,
        "select t.id, d.code, c.code, t.amount, t.ledger, t.flags, t.cause_id from ledger_transfers as t"
        " join ledger_accounts as d on d.id = t.debit_account_id"
        " join ledger_accounts as c on c.id = t.credit_account_id"
        " where t.code = %s order by t.sequence",
        TransferCode.EXCHANGE.value,
    )
    given = (asked.id, AccountCode.WALLET, AccountCode.EXCHANGED, 99_999_999, 840, TransferFlags.LINKED, None)
    received = (derived_id("exchanged", asked.id), AccountCode.EXCHANGED, AccountCode.WALLET, 2_000_000, 1, 0, asked.id)
    assert rows == [given, received]


async def test_the_whole_wallet_can_be_exchanged_and_not_a_microunit_more(service: Service) -> None:
    await opened(service, 10 * UNIT)
    before = await everything(service)
    refused = await refusal(service, order(10 * UNIT + 1))
    assert isinstance(refused, InsufficientCredits)
    assert (refused.status, refused.field) == (402, "amount")
    assert str(refused) == "Insufficient balance: 10.000001 USD is needed, 10.00 is available"
    assert await everything(service) == before
    await service.exchanges.carry_out(order(10 * UNIT))
    assert (await wallet(service, DOLLAR), await wallet(service, CREDIT)) == (0, 200_000)
    assert str(await refusal(service, order(1000))).endswith("0.00 is available")


async def test_a_wallet_that_never_was_is_empty(service: Service) -> None:
    await opened(service, UNIT, CREDIT)
    assert str(await refusal(service, order(UNIT))) == "Insufficient balance: 1.00 USD is needed, 0.00 is available"
    assert await wallet(service, CREDIT) == UNIT


async def test_what_is_held_cannot_be_exchanged(service: Service) -> None:
    await opened(service, 10 * UNIT)
    await service.holds.carry_out(PlaceHold(new_id(NOW), "ada", DOLLAR.ledger, 4 * UNIT))
    refused = await refusal(service, order(6 * UNIT + 1))
    assert str(refused) == "Insufficient balance: 6.000001 USD is needed, 6.00 is available"
    await service.exchanges.carry_out(order(6 * UNIT))
    standing = await balance(service, "ada", ledger=DOLLAR.ledger)
    assert (standing.balance, standing.held, standing.available) == (4 * UNIT, 4 * UNIT, 0)


async def test_a_postpaid_wallet_may_go_below_zero(service: Service) -> None:
    await opened(service, UNIT, policy="postpaid")
    await service.exchanges.carry_out(order(3 * UNIT, "0.5"))
    assert (await wallet(service, DOLLAR), await wallet(service, CREDIT)) == (-2 * UNIT, 1_500_000)


async def test_what_comes_in_repays_arrears_first(service: Service) -> None:
    await opened(service, 100 * UNIT)
    await top_up(service, UNIT, CREDIT)
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    await submit(service, measurement("ada", 6))
    assert (await balance(service, "ada")).arrears == 5 * UNIT
    await service.exchanges.carry_out(order(100 * UNIT))
    standing = await balance(service, "ada")
    assert (standing.wallet, standing.arrears, standing.balance) == (0, 3 * UNIT, -3 * UNIT)
    await top_up(service, 200 * UNIT, DOLLAR)
    await service.exchanges.carry_out(order(200 * UNIT))
    standing = await balance(service, "ada")
    assert (standing.wallet, standing.arrears) == (UNIT, 0)


async def test_whoever_pays_exchanges(service: Service) -> None:
    await opened(service, 10 * UNIT, key="org")
    async with service.pool.connection() as conn, conn.transaction():
        await service.customers.create(conn, NewCustomer("project", payer="org", credit_policy="postpaid"))
    await service.exchanges.carry_out(order(10 * UNIT, customer="project"))
    assert (await wallet(service, DOLLAR, "org"), await wallet(service, CREDIT, "org")) == (0, 200_000)
    assert isinstance(await refusal(service, order(UNIT, customer="project")), InsufficientCredits)


async def test_if_one_of_the_pair_is_refused_neither_stands(service: Service) -> None:
    """The account that credits are to come from is closed; dollars were there."""
    await opened(service, 10 * UNIT)
    await service.exchanges.carry_out(order(UNIT))
    ada = await payer_id(service)
    wallet_id, exchanged_id = (
        account_id(ada, CREDIT.ledger, code) for code in (AccountCode.WALLET, AccountCode.EXCHANGED)
    )
    closing = Transfer(
        new_id(NOW),
        ada,
        exchanged_id,
        wallet_id,
        0,
        CREDIT.ledger,
        1,
        TransferFlags.PENDING | TransferFlags.CLOSING_DEBIT,
    )
    async with service.pool.connection() as conn, conn.transaction():
        (result,) = await service.ledger.post(conn, [closing])
    assert result.stands
    before = await everything(service)
    assert isinstance(await refusal(service, order(UNIT)), LedgerRefusal)
    assert await everything(service) == before


@pytest.mark.parametrize(
    ("asked", "field", "sentence"),
    [
        (order(UNIT, target=DOLLAR), "to", "to must be another asset than USD"),
        (order(0), "amount", "amount must be greater than 0"),
        (
            order(25),
            "amount",
            "amount is too small: at 0.02 CREDIT for one USD it comes to less than 0.000001 CREDIT",
        ),
        (
            order(MAX_AMOUNT, "1.000001"),
            "amount",
            "amount is too large: at 1.000001 CREDIT for one USD it comes to more than 1000000000000000 CREDIT",
        ),
    ],
    ids=["same asset", "nothing", "comes to half a microunit", "too much"],
)
async def test_what_comes_to_nothing_is_refused(
    service: Service, asked: ExchangeOrder, field: str, sentence: str
) -> None:
    await opened(service, 100 * UNIT, policy="postpaid")
    before = await everything(service)
    refused = await refusal(service, asked)
    assert (type(refused), refused.field, str(refused)) == (InvalidInput, field, sentence)
    assert await everything(service) == before


async def test_an_unknown_customer_is_named(service: Service) -> None:
    refused = await refusal(service, order(UNIT, customer="nobody"))
    assert (type(refused), refused.field, str(refused)) == (NotFound, "key", "there is no customer 'nobody'")


# Many


async def test_any_number_of_exchanges_comes_out_as_on_paper(service: Service) -> None:
    """Random exchanges among three wallets, handed in by tens; on paper with fractions."""
    random = Random(20260320)
    paper: Counter[str] = Counter(USD=500 * UNIT, CREDIT=500 * UNIT, JPY=500 * UNIT)
    await opened(service, paper["USD"])
    for asset in (CREDIT, YEN):
        await top_up(service, paper[asset.code], asset)
    stood = 0
    for _ in range(12):
        orders = []
        for _ in range(10):
            source, target = random.sample((DOLLAR, CREDIT, YEN), 2)
            rate = Decimal(random.randrange(1, 10**9)).scaleb(-9)
            orders.append(order(random.randrange(10, 200 * UNIT), str(rate), source, target))
        for answer, asked in zip(await service.desk._execute(list(orders)), orders, strict=True):
            reaches = asked.amount <= paper[asked.source.code]
            assert isinstance(answer, InsufficientCredits) is not reaches
            if reaches:
                stood += 1
                paper[asked.source.code] -= asked.amount
                paper[asked.target.code] += round(asked.amount * Fraction(asked.rate))
    assert 30 < stood < 90
    assert {asset.code: await wallet(service, asset) for asset in (DOLLAR, CREDIT, YEN)} == paper
    assert await assets_out_of_balance(service) == []


async def assets_out_of_balance(service: Service) -> list[int]:
    """Assets whose accounts do not sum to nothing."""
    known = await fetch(service, "select customer_id, id from ledger_accounts")
    async with service.pool.connection() as conn:
        accounts = (await service.ledger.accounts(conn, [(row[0], row[1]) for row in known])).values()
    assert len(accounts) == len(known)
    sums: Counter[int] = Counter()
    for account in accounts:
        sums[account.ledger] += account.credit_balance
    return [ledger for ledger, total in sums.items() if total]


async def test_of_two_at_once_that_a_wallet_covers_once_one_stands(
    service: Service, start_service: StartService
) -> None:
    await opened(service, 10 * UNIT)
    outcomes = await in_turn([service, await start_service()], [order(7 * UNIT), order(7 * UNIT, "3")])
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Exchange", "InsufficientCredits"]
    (done,) = [outcome for outcome in outcomes if isinstance(outcome, Exchange)]
    assert (await wallet(service, DOLLAR), await wallet(service, CREDIT)) == (3 * UNIT, done.received)


async def test_of_fifty_at_once_ten_stand(service: Service, start_service: StartService) -> None:
    await opened(service, 10 * UNIT)
    outcomes = await in_turn([service, await start_service()], [order(UNIT) for _ in range(50)])
    assert Counter(type(outcome) for outcome in outcomes) == {Exchange: 10, InsufficientCredits: 40}
    assert (await wallet(service, DOLLAR), await wallet(service, CREDIT)) == (0, 200_000)


# Again


async def test_a_key_exchanges_once_and_answers_the_same_for_good(service: Service, clock: TestClock, key: str) -> None:
    await opened(service, 10 * UNIT)
    done = await service.exchanges.carry_out(order(UNIT, idempotency_key=key))
    clock.advance(timedelta(days=1))
    assert await service.exchanges.carry_out(order(UNIT, "0.020", idempotency_key=key)) == done
    assert (done.created_at, await wallet(service, DOLLAR)) == (NOW, 9 * UNIT)
    async with service.pool.connection() as conn, conn.transaction():
        await service.customers.create(conn, NewCustomer("bob"))
    for other in (
        order(UNIT + 1, idempotency_key=key),
        order(UNIT, "0.03", idempotency_key=key),
        order(UNIT, source=YEN, idempotency_key=key),
        order(UNIT, target=YEN, idempotency_key=key),
        order(UNIT, customer="bob", idempotency_key=key),
    ):
        assert isinstance(await refusal(service, other), Conflict)
    assert await wallet(service, DOLLAR) == 9 * UNIT


async def test_a_refusal_stands_for_good(service: Service, key: str) -> None:
    await opened(service, UNIT)
    asked = order(2 * UNIT, idempotency_key=key)
    first = await refusal(service, asked)
    await top_up(service, 10 * UNIT, DOLLAR)
    again = await refusal(service, asked)
    assert (type(again), str(again)) == (InsufficientCredits, str(first))
    assert await wallet(service, DOLLAR) == 11 * UNIT


async def test_the_same_key_at_once_exchanges_once(service: Service, start_service: StartService, key: str) -> None:
    await opened(service, 10 * UNIT)
    services = [service, await start_service()]
    outcomes = await in_turn(services, [order(4 * UNIT, idempotency_key=key) for _ in range(6)])
    assert len({outcome for outcome in outcomes if isinstance(outcome, Exchange)}) == 1
    assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert (await wallet(service, DOLLAR), await wallet(service, CREDIT)) == (6 * UNIT, 80_000)


async def test_an_order_whose_answer_was_lost_is_carried_out_once(service: Service) -> None:
    """The desk runs a group again if it cannot know whether it was committed; the orders keep their ids."""
    await opened(service, 10 * UNIT)
    stands, lacks = order(6 * UNIT), order(6 * UNIT, "1")
    first = await service.desk._execute([stands, lacks])
    assert [type(answer) for answer in first] == [dict, InsufficientCredits]
    before = await everything(service)
    await top_up(service, 10 * UNIT, DOLLAR)
    again = await service.desk._execute([stands, lacks])
    assert again[0] == first[0]
    assert str(again[1]) == "Insufficient balance: 6.00 USD was needed"
    assert (await everything(service))[2] == before[2]
    assert (await wallet(service, DOLLAR), await wallet(service, CREDIT)) == (14 * UNIT, 120_000)


# Reading


async def test_exchanges_are_listed_newest_first_under_whose_wallets_they_are(
    service: Service, clock: TestClock
) -> None:
    await opened(service, 100 * UNIT)
    await opened(service, 100 * UNIT, key="bob")
    done = []
    for number in range(1, 6):
        if number % 2:
            clock.advance(timedelta(seconds=1))
        done.append(await service.exchanges.carry_out(replace(order(number * UNIT), id=new_id(clock.now()))))
    bobs = await service.exchanges.carry_out(order(UNIT, customer="bob"))
    ada = await payer_id(service)
    found: list[Exchange] = []
    cursor = None
    async with service.pool.connection() as conn:
        for _ in range(3):
            page = await service.exchanges.page(conn, ada, cursor, 2)
            found += page.items
            cursor = page.next
        assert cursor is None
        assert found == sorted(done, key=lambda one: (one.created_at, one.id), reverse=True)
        assert await service.exchanges.get(conn, ada, done[0].id) == done[0]
        with pytest.raises(NotFound, match=f"^there is no exchange {bobs.id}$"):
            await service.exchanges.get(conn, ada, bobs.id)
        with pytest.raises(InvalidInput, match=r"^cursor must "):
            await service.exchanges.page(conn, ada, "bm9uZQ", 2)
