"""The whole service on TigerBeetle. Needs a server: TIGERBEETLE_BIN names its program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from tallystick.billing.instructions import Instruction
from tallystick.jobs.kinds import Run
from tallystick.jobs.notices import WatchWallets
from tallystick.kernel.ids import new_id
from tallystick.ledger.contract import LedgerUnavailable
from tallystick.ledger.tigerbeetle import delivery
from tallystick.ledger.tigerbeetle.engine import TigerBeetleLedger
from tallystick.ledger.wallets import InsufficientCredits
from tallystick.notices.spending import Spending
from tallystick.service import Service
from tests.ledger.services import NOW, StartService
from tests.ledger.tigerbeetle.server import CLUSTER_ID, Server
from tests.metering.books import (
    CREDITS,
    assert_books_hold,
    balance,
    create_customer,
    create_price,
    fetch,
    fresh,
    measurement,
    set_payer,
    set_posting_policy,
    submit,
)

CREDIT = 1_000_000


@pytest.fixture
def engine(server: Server) -> str:
    """What the setting ``ledger`` says."""
    return f"tigerbeetle://{CLUSTER_ID}@{server.address}"


@pytest.fixture
async def service(service: Service) -> AsyncIterator[Service]:
    """A service. Whatever the test did with it, its books must hold in the end."""
    assert isinstance(service.ledger, TigerBeetleLedger)
    yield service
    await settled(service)


async def settled(service: Service) -> None:
    """Returns when everything that was promised has been delivered."""
    customers = await fetch(service, "select id from customers")
    async with service.pool.connection() as conn:
        await service.ledger.accounts(conn, [(customer_id, customer_id) for (customer_id,) in customers])


async def caught_up(service: Service) -> None:
    """Returns when TigerBeetle, which has been started again, answers and everything has been delivered."""
    assert isinstance(service.ledger, TigerBeetleLedger)
    while True:
        await service.ledger.client.until_back()
        with contextlib.suppress(LedgerUnavailable):  # the port accepts before the server answers
            return await settled(service)


async def instruct(service: Service, type_: Any, customer: str, amount: int, **fields: Any) -> int:
    order = Instruction(new_id(NOW), type_, customer, CREDITS, amount, **fields)
    return await service.instructions.carry_out(order)


async def give_wallet(service: Service, amount: int) -> str:
    """The key of a prepaid customer with so much in its wallet."""
    key = await create_customer(service, fresh("ada"), credit_policy="prepaid")
    await instruct(service, "top_up", key, amount)
    return key


async def bill_all(customer: str, *services: Service) -> list[int | BaseException]:
    """50 bills of 1.00 at once, handed in at these services in turn."""
    bills = (instruct(services[n % len(services)], "bill", customer, CREDIT) for n in range(50))
    return await asyncio.gather(*bills, return_exceptions=True)


def assert_ten_succeeded(answers: list[int | BaseException]) -> None:
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert sorted(answer for answer in answers if isinstance(answer, int)) == [n * CREDIT for n in range(10)]
    assert {type(answer) for answer in refused} == {InsufficientCredits}
    assert len(refused) == 40


async def test_ten_of_fifty_bills_at_once_find_the_wallet_full_enough(service: Service) -> None:
    customer = await give_wallet(service, 10 * CREDIT)
    assert_ten_succeeded(await bill_all(customer, service))
    assert (await balance(service, customer)).wallet == 0


async def test_two_services_share_one_ledger(service: Service, start_service: StartService) -> None:
    other = await start_service()
    customer = await give_wallet(service, 10 * CREDIT)
    assert_ten_succeeded(await bill_all(customer, service, other))


async def test_usage_is_charged_and_arrears_are_repaid(service: Service) -> None:
    await create_price(service)  # 2 credits a token
    customer = await give_wallet(service, 5 * CREDIT)
    receipt = await submit(service, measurement(customer, 2), measurement(customer, 1))
    assert receipt.accepted == 2
    standing = await balance(service, customer)
    assert (standing.wallet, standing.arrears, standing.used) == (0, CREDIT, 6 * CREDIT)
    assert await instruct(service, "top_up", customer, 4 * CREDIT) == 3 * CREDIT
    standing = await balance(service, customer)
    assert (standing.wallet, standing.arrears, standing.used) == (3 * CREDIT, 0, 6 * CREDIT)


async def test_the_same_key_gives_the_same_answer(service: Service) -> None:
    customer = await give_wallet(service, 10 * CREDIT)
    for _ in range(2):
        assert await instruct(service, "bill", customer, CREDIT, idempotency_key=f"paid-{customer}") == 9 * CREDIT
        with pytest.raises(InsufficientCredits):
            await instruct(service, "bill", customer, 99 * CREDIT, idempotency_key=f"refused-{customer}")
    assert (await balance(service, customer)).wallet == 9 * CREDIT


async def test_intake_goes_on_while_tigerbeetle_is_stopped_and_catches_up(
    server: Server, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 1)
    service = await start_service()
    await create_price(service)
    customer = await give_wallet(service, 10 * CREDIT)
    assert (await service.health.check(service.pool))["status"] == "healthy"
    server.kill()
    try:
        for n in range(3):
            assert (await submit(service, measurement(customer, n + 1))).accepted == 1
        with pytest.raises(LedgerUnavailable) as refused:
            await instruct(service, "bill", customer, CREDIT, idempotency_key=f"bill-{customer}")
        assert refused.value.status == 503
        with pytest.raises(LedgerUnavailable):
            await balance(service, customer)
        condition = await service.health.check(service.pool)
        assert condition["status"] == "degraded"
        assert condition["ledger"]["waiting"] >= 6, "three charges, each with a repayment"
        assert (await submit(service, measurement(customer, 4))).accepted == 1
        assert {type(answer) for answer in await bill_all(customer, service)} == {LedgerUnavailable}
    finally:
        server.start()
    await caught_up(service)
    standing = await balance(service, customer)
    assert (standing.used, standing.balance) in ((20 * CREDIT, -10 * CREDIT), (21 * CREDIT, -11 * CREDIT))
    journal = await fetch(service, "select count(*), count(distinct id) from ledger_transfers")
    assert journal[0][0] == journal[0][1]
    condition = await service.health.check(service.pool)
    assert (condition["status"], condition["ledger"]["waiting"]) == ("healthy", 0)
    await assert_books_hold(service)


async def test_a_service_starts_while_tigerbeetle_is_away(
    server: Server, start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 1)
    server.kill()
    try:
        service = await start_service()
        customer = await create_customer(service, fresh("ada"))
        await create_price(service)
        assert (await submit(service, measurement(customer, 1))).accepted == 1
    finally:
        server.start()
    await caught_up(service)
    assert (await balance(service, customer)).used == 2 * CREDIT


async def test_who_pays_is_changed_while_usage_is_on_its_way(service: Service) -> None:
    """What a customer owes is read with all that was promised before, and its month is posted by promise."""
    await create_price(service)
    payer, org = await create_customer(service, fresh("payer")), await create_customer(service, fresh("org"))
    await submit(service, measurement(org, 3))
    await set_payer(service, org, payer)
    await set_posting_policy(service, payer, "monthly")
    await submit(service, measurement(org, 4))
    assert [(await balance(service, key)).used for key in (org, payer)] == [0, 6 * CREDIT]
    await set_posting_policy(service, payer, "immediate")
    assert [(await balance(service, key)).used for key in (org, payer)] == [0, 14 * CREDIT]
    await set_payer(service, org, None)
    await submit(service, measurement(org, 1))
    assert [(await balance(service, key)).used for key in (org, payer)] == [2 * CREDIT, 14 * CREDIT]
    await assert_books_hold(service)


async def test_levels_of_balances_are_crossed_where_balances_are_kept_by_tigerbeetle(service: Service) -> None:
    """Nobody sees balances while money moves: the job ``watch-balances`` follows the journal."""
    watch = service.notices._watch
    wallets = WatchWallets(service.pool, service.ledger, watch, Spending(service.clock, service.settings.zone, watch))
    customer = await give_wallet(service, 100 * CREDIT)
    await wallets.balances(Run(1, 1, {}))
    await instruct(service, "bill", customer, 60 * CREDIT)
    raised = "select threshold, balance from notices order by raised_at, threshold"
    assert await fetch(service, raised) == []
    for _ in range(2):  # the second look finds nothing new
        await wallets.balances(Run(2, 1, {}))
        assert await fetch(service, raised) == [(Decimal("0.5"), 40 * CREDIT)]
