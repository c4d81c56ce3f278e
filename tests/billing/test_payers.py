"""Who pays, by time: the past stays where it was charged, and what is owed goes to whoever pays from now on."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from tallystick.customers.model import NewCustomer
from tallystick.kernel.calendar import month_before
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.operations.verify import snapshot
from tallystick.service import Service
from tests.billing.conftest import StartService
from tests.metering.books import (
    CREDITS,
    MARCH,
    assert_books_hold,
    balance,
    create_customer,
    create_price,
    fetch,
    grant,
    measurement,
    set_payer,
    set_posting_policy,
    submit,
)
from tests.waiting import lock_waiters, until

CREDIT = 1_000_000


@pytest.fixture
async def org(service: Service) -> str:
    """An organization that its first usage has made, and that owes 6 credits for it; ``agency`` could pay."""
    await create_price(service)
    await create_customer(service, "agency")
    await submit(service, measurement("org", 3))
    return "org"


async def used(service: Service, *keys: str) -> list[int]:
    return [(await balance(service, key)).used // CREDIT for key in keys]


async def test_what_was_owed_goes_along_and_what_follows_is_paid_by_the_payer(service: Service, org: str) -> None:
    customer = await set_payer(service, org, "agency")
    assert customer.payer == "agency"
    assert await used(service, org, "agency") == [0, 6]
    assert (await balance(service, org)).balance == 0
    await submit(service, measurement(org, 1))
    assert await used(service, org, "agency") == [0, 8]


async def test_asking_again_changes_nothing(service: Service, org: str) -> None:
    for _ in range(3):
        await set_payer(service, org, "agency")
    assert await used(service, org, "agency") == [0, 6]
    assert len(await fetch(service, "select * from ledger_transfers where code = 10")) == 2


async def test_two_at_once(service: Service, start_service: StartService, org: str) -> None:
    other = await start_service()
    await asyncio.gather(
        *[set_payer(one, org, "agency") for one in (service, other) * 3],
        *[submit(one, measurement(org, 1)) for one in (service, other) * 5],
    )
    assert await used(service, org, "agency") == [0, 26]


async def test_credits_stay_with_whoever_has_them(service: Service, org: str) -> None:
    await grant(service, org, 10 * CREDIT)
    await set_payer(service, org, "agency")
    assert (await balance(service, org)).balance == 4 * CREDIT
    assert await used(service, org, "agency") == [6, 0]


async def test_a_prepaid_payer_takes_over_debts_as_arrears(service: Service, org: str) -> None:
    await create_customer(service, "prepaid", credit_policy="prepaid")
    await grant(service, "prepaid", 4 * CREDIT)
    await set_payer(service, org, "prepaid")
    standing = await balance(service, "prepaid")
    assert (standing.wallet, standing.arrears, standing.used) == (0, 2 * CREDIT, 6 * CREDIT)


async def test_arrears_of_a_prepaid_customer_are_taken_over(service: Service, org: str) -> None:
    await create_customer(service, "prepaid", credit_policy="prepaid")
    await submit(service, measurement("prepaid", 5))
    await set_payer(service, "prepaid", "agency")
    standing = await balance(service, "prepaid")
    assert (standing.wallet, standing.arrears, standing.used) == (0, 0, 0)
    assert await used(service, "agency") == [10]


async def test_the_next_payer_does_not_pay_for_the_past(service: Service, org: str) -> None:
    await create_customer(service, "ministry")
    await set_payer(service, org, "agency")
    await submit(service, measurement(org, 10))
    await set_payer(service, org, "ministry")
    await submit(service, measurement(org, 100))
    await set_payer(service, org, None)
    await submit(service, measurement(org, 1000))
    assert await used(service, "agency", "ministry", org) == [26, 200, 2000]
    await set_payer(service, org, "agency")
    assert await used(service, "agency", "ministry", org) == [2026, 200, 0]


async def test_what_is_not_posted_yet_is_posted_to_whoever_paid(service: Service, clock: TestClock, org: str) -> None:
    await set_posting_policy(service, "agency", "monthly")
    await create_customer(service, "ministry", posting_policy="monthly")
    await set_payer(service, org, "agency")
    await submit(service, measurement(org, 10))
    assert await used(service, org, "agency") == [0, 6]
    await set_payer(service, org, "ministry")
    assert await used(service, "agency", "ministry") == [26, 0]
    await submit(service, measurement(org, 100))
    clock.set(datetime(2026, 4, 1, 11, tzinfo=UTC))
    await service.postings.post(month_before(clock.now()))
    assert await used(service, "agency", "ministry", org) == [26, 200, 0]


async def test_what_is_explained_and_verified_for_one_of_them(service: Service, org: str) -> None:
    await set_payer(service, org, "agency")
    await submit(service, measurement(org, 10))
    async with service.pool.connection() as conn, conn.transaction():
        customer = await service.customers.get(conn, org)
        charges = (await service.charges.page(conn, customer.id, None, 10)).items
        trails = [(await service.explain.charge(conn, charge.id)).lines[-1] for charge in charges]
    assert sorted(trail.partition(" of customer ")[2] for trail in trails) == ["'agency'", "'org'"]
    for key in (org, "agency"):
        async with snapshot(service.pool) as conn:
            verdict = await service.verify.run(conn, key)
        assert verdict.holds, verdict


async def test_a_history_goes_on_with_the_next_payer(service: Service, org: str) -> None:
    await grant(service, "agency", 100 * CREDIT)
    await set_payer(service, org, "agency")
    await submit(service, measurement(org, 10, at=MARCH + timedelta(hours=1)))
    async with service.pool.connection() as conn:
        customer = await service.customers.get(conn, org)
        points = await service.charges.history(conn, customer.id, CREDITS, None, None)
    assert [(point.left // CREDIT, point.used // CREDIT) for point in points] == [(74, 26), (-6, 6)]


async def test_who_cannot_pay(service: Service, org: str) -> None:
    await create_customer(service, "below", payer="agency")
    with pytest.raises(NotFound):
        await set_payer(service, "nobody", "agency")
    with pytest.raises(InvalidInput, match="payer names no customer: 'nobody'"):
        await set_payer(service, org, "nobody")
    with pytest.raises(InvalidInput, match="payer must pay for itself, which 'below' does not"):
        await set_payer(service, org, "below")
    with pytest.raises(Conflict, match="'agency' pays for others, so nobody else can pay for it"):
        await set_payer(service, "agency", org)
    assert (await set_payer(service, org, org)).payer is None
    assert await used(service, org, "agency") == [6, 0]


async def test_nobody_comes_to_pay_for_whom_another_customer_has_just_been_given(service: Service, org: str) -> None:
    async with service.pool.connection() as conn, service.pool.connection() as watching:
        async with conn.transaction():
            await service.accounts.create(conn, NewCustomer("new", payer="agency"))
            changing = asyncio.create_task(set_payer(service, "agency", org))
            await until(lambda: lock_waiters(watching))
        with pytest.raises(Conflict, match="'agency' pays for others"):
            await changing


@pytest.mark.parametrize("seed", range(8))
async def test_any_order_of_changes(service: Service, clock: TestClock, seed: int) -> None:
    """Beside a ledger of dictionaries: who has used what, and what of it waits to be posted."""
    chance = random.Random(seed)  # a test that can be repeated
    keys = ["ada", "bob", "cleo", "dan"]
    payer = {key: key for key in keys}
    monthly = dict.fromkeys(keys, False)
    moved: dict[str, int] = defaultdict(int)
    noted: dict[tuple[str, int], int] = defaultdict(int)
    await create_price(service)
    for key in keys:
        await create_customer(service, key)

    def settle(customers: list[str]) -> None:
        for (customer, month), amount in list(noted.items()):
            if customer in customers:
                moved[payer[customer]] += noted.pop((customer, month)) and amount

    for _ in range(60):
        key = chance.choice(keys)
        match chance.randrange(6):
            case 0 | 1 | 2:
                at = clock.now() - timedelta(days=chance.choice([0, 0, 0, 20, 40]))
                value = chance.randrange(1, 9)
                await submit(service, measurement(key, value, at=at))
                if monthly[payer[key]]:
                    noted[key, month_before(at).first_day.month] += 2 * value
                else:
                    moved[payer[key]] += 2 * value
            case 3:
                other = chance.choice(keys)
                pays_for_others = any(payer[one] == key for one in keys if one != key)
                if payer[other] == other and (other == key or not pays_for_others):
                    await set_payer(service, key, other)
                    if payer[key] != other:
                        settle([key])
                        if payer[key] == key:
                            moved[other] += moved.pop(key, 0)
                        payer[key] = other
            case 4:
                monthly[key] = not monthly[key]
                await set_posting_policy(service, key, "monthly" if monthly[key] else "immediate")
                if not monthly[key]:
                    settle([one for one in keys if payer[one] == key])
            case 5:
                clock.advance(timedelta(days=chance.randrange(1, 9)))
                last = month_before(clock.now())
                await service.postings.post(last)
                for customer, month in list(noted):
                    if month < last.first_day.month:
                        moved[payer[customer]] += noted.pop((customer, month))
        assert await used(service, *keys) == [moved[key] for key in keys]
    await assert_books_hold(service)
