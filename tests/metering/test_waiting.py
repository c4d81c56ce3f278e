"""Usage that waited for a price is charged when it gets one: all of it, once, whatever stops or disturbs it."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta

import pytest
from psycopg import AsyncConnection

from tallystick.ledger.wallets import Movement, Wallets
from tallystick.metering import waiting as waiting_module
from tallystick.metering.model import Meter
from tallystick.service import Service
from tests.metering.books import (
    DYNAMIC,
    MARCH,
    MODELS,
    PER_UNIT,
    QUANTA,
    assert_books_agree,
    balance,
    charged,
    create_customer,
    create_price,
    fetch,
    measurement,
    put_meter,
    submit,
    waiting,
)
from tests.metering.conftest import StartService
from tests.metering.reference import Accountant

VOLUME = MODELS[4]


class Interrupted(Exception):
    """What happens in the middle of a settlement."""


async def remarks(service: Service) -> list[str | None]:
    return [remark for (remark,) in await fetch(service, "select remark from measurements order by at")]


async def test_a_price_that_starts_in_the_past_charges_what_it_covers_and_nothing_else(service: Service) -> None:
    times = [MARCH + timedelta(days=day) for day in range(-40, 1, 10)]
    await submit(service, *(measurement(value=10, at=at) for at in times))
    await submit(service, measurement(value=10, kind="large"), measurement(value=10, meter="pages"))
    assert await waiting(service) == 7

    prices = await create_price(service, since=times[2], settle=False)
    assert await service.settlement.settle() == 3

    assert await waiting(service) == 4
    assert await fetch(service, "select at from measurements where price_id = any (%s) order by at", [*prices]) == [
        (at,) for at in times[2:]
    ]
    assert (await balance(service, "ada")).used == 60_000_000
    assert await service.settlement.settle() == 0


async def test_what_waited_joins_what_the_price_had_charged_already(service: Service) -> None:
    """Graduated: the first ten units are free, whichever ten these are."""
    await create_price(service, model=MODELS[3], since=MARCH)
    await submit(service, measurement(value=8), measurement("bob", 8, at=MARCH - timedelta(days=1)))
    accountant = Accountant()
    accountant.prices |= await create_price(service, model=MODELS[3], customer="bob", quantum=QUANTA[1])
    await submit(service, measurement("bob", 8))
    accountant.record([measurement("bob", 16)])
    assert await charged(service, "bob") == accountant.due()["bob", "CREDIT"]


async def test_a_price_for_one_customer_charges_nobody_else(service: Service) -> None:
    await submit(service, measurement("ada", 3), measurement("bob", 4))
    await create_price(service, customer="bob")
    assert (await charged(service, "ada"), await charged(service, "bob")) == (0, 8_000_000)
    assert await waiting(service) == 1


async def test_the_payer_of_waiting_usage_pays(service: Service) -> None:
    await create_customer(service, "org", credit_policy="prepaid")
    await create_customer(service, "team", payer="org")
    await submit(service, measurement("team", 3), measurement("org", 4))
    await create_price(service)
    assert (await balance(service, "org")).arrears == 14_000_000
    assert (await balance(service, "team")).used == 0


async def test_a_counter_keeps_what_it_counted_without_a_price(service: Service) -> None:
    await put_meter(service, Meter("hours", "counter"))
    for hour, value in enumerate((100, 130, 120, 150)):
        await submit(service, measurement(value=value, meter="hours", at=MARCH + timedelta(hours=hour)))
    await create_price(service, "hours")
    assert await charged(service, "ada") == 2 * (30 + 0 + 30) * 1_000_000
    assert await remarks(service) == [
        "baseline: the first value of this counter",
        "counter: 130 - 100",
        "counter fell from 130: new base",
        "counter: 150 - 120",
    ]


async def test_under_a_dynamic_price_only_what_brought_a_unit_price_stops_waiting(service: Service) -> None:
    earlier, later = MARCH - timedelta(hours=1), MARCH + timedelta(hours=1)
    await submit(
        service,
        measurement(value=3, at=earlier),
        measurement(value=3, at=MARCH),
        measurement(value=4, at=later, unit_price="0.5"),
    )
    await create_price(service, model=DYNAMIC)
    assert await charged(service, "ada") == 2_000_000
    assert (await remarks(service))[2] == "4 x unit price 0.5"

    await submit(service, measurement(value=5, at=later + timedelta(hours=1)))
    assert await waiting(service) == 3
    await create_price(service, since=MARCH)
    assert await charged(service, "ada") == 2_000_000 + 2 * (3 + 5) * 1_000_000
    assert await waiting(service) == 1
    assert (await remarks(service))[3] is None, "what it waited for is no reason any more"


async def test_a_volume_step_within_what_waited_gives_money_back(service: Service) -> None:
    await submit(service, *(measurement(value=20, at=MARCH + timedelta(hours=hour)) for hour in range(2)))
    await create_price(service, model=VOLUME)
    assert await fetch(service, "select amount from measurements order by at") == [(60_000_000,), (-40_000_000,)]
    assert (await balance(service, "ada")).used == 20_000_000


# Stopped in the middle


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many transactions for little usage."""
    monkeypatch.setattr(waiting_module, "CUSTOMERS_AT_ONCE", 2)
    monkeypatch.setattr(waiting_module, "MEASUREMENTS_PER_TRANSACTION", 3)


async def let_wait(service: Service) -> Accountant:
    """Five customers with eight measurements each, of two months, the earliest too early for any price."""
    accountant = Accountant()
    sent = [
        measurement(f"c{customer}", 1 + number, at=MARCH - timedelta(days=7 * number))
        for customer in range(5)
        for number in range(8)
    ]
    await submit(service, *sent)
    accountant.record(sent)
    return accountant


SINCE = MARCH - timedelta(days=45)
CUSTOMERS = {f"c{number}": f"c{number}" for number in range(5)}


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("failing", range(1, 15, 3))
@pytest.mark.parametrize("restarted", [False, True])
async def test_an_interrupted_settlement_goes_on_where_it_stopped(
    service: Service,
    start_service: StartService,
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
    restarted: bool,
) -> None:
    """At its last step, so that everything before it in the same transaction has to be undone."""
    accountant = await let_wait(service)
    accountant.prices |= await create_price(service, model=VOLUME, since=SINCE, settle=False)
    accountant.settle()
    charge, calls = Wallets.charge, 0

    async def fail_once(wallets: Wallets, conn: AsyncConnection, movements: list[Movement]) -> None:
        nonlocal calls
        calls += 1
        await charge(wallets, conn, movements)
        if calls == failing:
            raise Interrupted

    monkeypatch.setattr(Wallets, "charge", fail_once)
    with pytest.raises(Interrupted):
        await service.settlement.settle()
    assert await waiting(service) > accountant.waiting

    if restarted:
        await start_service()
    else:
        await service.settlement.settle()
    assert await waiting(service) == accountant.waiting
    await assert_books_agree(service, accountant, CUSTOMERS)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("steps", [1, 4, 16, 64])
async def test_a_cancelled_settlement_goes_on_where_it_stopped(service: Service, steps: int) -> None:
    accountant = await let_wait(service)
    accountant.prices |= await create_price(service, model=VOLUME, since=SINCE, settle=False)
    accountant.settle()
    settling = asyncio.create_task(service.settlement.settle())
    for _ in range(steps):
        await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await service.settlement.settle()
    await assert_books_agree(service, accountant, CUSTOMERS)


# Disturbed


@pytest.mark.usefixtures("small_pages")
async def test_two_processes_that_settle_at_the_same_time_charge_once(
    service: Service, start_service: StartService
) -> None:
    other = await start_service()
    accountant = await let_wait(service)
    accountant.prices |= await create_price(service, model=VOLUME, since=SINCE, settle=False)
    settled = await asyncio.gather(*(process.settlement.settle() for process in (service, other) for _ in range(3)))
    assert sum(settled) == accountant.settle()
    await assert_books_agree(service, accountant, CUSTOMERS)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_waits_that_came_while_its_price_was_created(
    service: Service, start_service: StartService, seed: int
) -> None:
    """Prices are created and settled by two processes while both take in usage; no order of any of it leaves a gap."""
    dice, processes = random.Random(seed), (service, await start_service())
    accountant = Accountant()
    starts = [datetime.fromisoformat(f"2026-0{month}-01T05:00:00Z") for month in (1, 2, 3)]
    sent = [
        measurement(f"c{dice.randrange(5)}", dice.randrange(1, 50), at=MARCH - timedelta(days=dice.randrange(90)))
        for _ in range(160)
    ]

    async def price(since: datetime) -> None:
        accountant.prices |= await create_price(dice.choice(processes), since=since, model=dice.choice(MODELS[:5]))

    await put_meter(service, Meter("tokens"))
    tasks = [submit(dice.choice(processes), *sent[start : start + 4]) for start in range(0, len(sent), 4)]
    tasks += [price(since) for since in starts]  # type: ignore[misc]
    dice.shuffle(tasks)
    await asyncio.gather(*tasks)

    first_start = min(starts)
    assert await waiting(service) == sum(m.at < first_start for m in sent)
    assert await fetch(service, "select count(*) from measurements") == [(len(sent),)]
    unsettled = await fetch(service, "select count(*) from prices where settled_at is null and meter = 'tokens'")
    assert unsettled == [(0,)]


async def test_a_price_in_the_future_leaves_today_waiting_and_is_settled(service: Service) -> None:
    await submit(service, measurement())
    await create_price(service, model=PER_UNIT, since=MARCH + timedelta(days=1))
    assert await waiting(service) == 1
    await submit(service, measurement(at=MARCH + timedelta(days=1)))
    assert await waiting(service) == 1
    assert await charged(service, "ada") == 2_000_000
