"""Crossings, where money moves: by bills, usage, holds, ends of grants and exchange, one at a time and many at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

from tallystick.jobs.kinds import Run
from tallystick.jobs.notices import WatchWallets
from tallystick.kernel.clock import TestClock
from tallystick.kernel.ids import new_id
from tallystick.ledger.exchange import ExchangeOrder
from tallystick.ledger.grant_model import GrantCredits, VoidGrant
from tallystick.ledger.hold_model import PlaceHold, ReleaseHold, SettleHold
from tallystick.ledger.wallets import Movement
from tallystick.notices.spending import Spending
from tallystick.notices.watch import Watch
from tallystick.outbox.catalogue import BALANCE_EXHAUSTED, BALANCE_LOW
from tallystick.outbox.service import Outbox
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.metering.books import create_customer, create_price, measurement, set_payer, submit
from tests.notices.conftest import CREDITS, NOW, UNIT, define, events, instruct, levels, raised
from tests.outbox.test_catalogue import shape
from tests.web.conftest import asking


async def test_each_level_is_told_once_when_it_is_reached(service: Service) -> None:
    await instruct(service, "open", "shop", 100)
    await instruct(service, "bill", "shop", 49)
    assert await levels(service) == []
    await instruct(service, "bill", "shop", 1)
    assert await levels(service) == [("0.5", 50)]
    await instruct(service, "bill", "shop", 29)
    assert await levels(service) == [("0.5", 50)]
    await instruct(service, "bill", "shop", 5)
    await instruct(service, "bill", "shop", 16)
    assert await levels(service) == [("0.5", 50), ("0.2", 16), ("0", 0)]


async def test_an_event_is_told_with_each_notice(service: Service) -> None:
    await instruct(service, "open", "shop", 100)
    await instruct(service, "bill", "shop", 60)
    await instruct(service, "bill", "shop", 40)
    low, out = await events(service)
    half, nothing = sorted(await raised(service), key=lambda each: -each.notice.threshold)
    assert low == (
        "balance.low",
        "shop",
        {
            "notice": str(half.notice.id),
            "asset": "CREDIT",
            "balance": "40",
            "granted": "100",
            "rule": {"id": str(half.notice.rule_id), "kind": "share", "threshold": "0.5"},
        },
    )
    assert shape(low[2]) == shape(BALANCE_LOW.data) == shape(out[2]) == shape(BALANCE_EXHAUSTED.data)
    assert (out[0], out[2]["notice"], out[2]["balance"]) == ("balance.exhausted", str(nothing.notice.id), "0")


async def test_what_falls_through_several_levels_at_once_is_told_once(service: Service) -> None:
    sales = await define(service, "share", "0.3", recipients=("sales@example.org",))
    await instruct(service, "open", "shop", 100)
    await instruct(service, "bill", "shop", 100)
    assert await levels(service) == [("0.3", 0), ("0", 0)]
    assert {each.notice.rule_id for each in await raised(service)} >= {sales.id}


async def test_money_that_comes_in_arms_a_level_again(service: Service, clock: TestClock) -> None:
    await instruct(service, "open", "shop", 100)
    await instruct(service, "bill", "shop", 60)
    clock.advance(timedelta(minutes=1))
    await instruct(service, "top_up", "shop", 10)  # 50 of 110
    await instruct(service, "bill", "shop", 1)
    assert len(await raised(service)) == 1
    await instruct(service, "top_up", "shop", 90)  # 139 of 200
    await instruct(service, "bill", "shop", 38)
    assert len(await raised(service)) == 1
    await instruct(service, "bill", "shop", 1)
    assert await levels(service) == [("0.5", 100), ("0.5", 40)]


async def test_what_was_used_up_long_ago_is_no_share_of_what_comes_in(service: Service, clock: TestClock) -> None:
    """Whoever tops up again and again hears each time, and not only of the first few."""
    await instruct(service, "open", "app", 11)
    for times in range(1, 20):
        clock.advance(timedelta(minutes=1))
        await instruct(service, "bill", "app", 10)
        assert len(await raised(service)) == times
        await instruct(service, "top_up", "app", 9)
        clock.advance(timedelta(minutes=1))
        await instruct(service, "top_up", "app", 1)
    granted = [each.notice.granted // UNIT for each in await raised(service)]
    assert granted == [11, 21] + [11] * 17  # with the first top-ups, something was left of what it was opened with


async def test_what_is_not_used_up_is_shared_with_what_comes_in(service: Service) -> None:
    await instruct(service, "open", "app", 200)
    await instruct(service, "bill", "app", 100)
    await instruct(service, "top_up", "app", 200)
    await instruct(service, "bill", "app", 99)
    assert len(await raised(service)) == 1
    await instruct(service, "bill", "app", 1)
    assert await levels(service) == [("0.5", 200), ("0.5", 100)]


async def test_usage_is_told_of_too_and_whose_wallet_it_is_hears(service: Service) -> None:
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    await instruct(service, "open", "lab", 100)
    await create_customer(service, "student")
    await set_payer(service, "student", "lab")
    await submit(service, measurement("student", 49))
    assert await levels(service) == []
    await submit(service, measurement("student", 1))
    assert await levels(service, "lab") == [("0.5", 50)]
    await submit(service, *(measurement("student", 1) for _ in range(70)))
    assert await levels(service, "lab") == [("0.5", 50), ("0", -20)]


async def test_a_level_of_debt_is_told_of_customers_that_were_never_granted_anything(service: Service) -> None:
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    await define(service, "balance", -100 * UNIT, asset="CREDIT")
    await submit(service, measurement("project", 99), measurement("other", 120))
    assert await levels(service) == [("-100000000", -120)]
    await submit(service, measurement("project", 1))
    await submit(service, measurement("project", 500))
    assert await levels(service, "project") == [("-100000000", -100)]


async def test_a_hold_is_told_of_when_it_is_settled(service: Service, clock: TestClock) -> None:
    await instruct(service, "open", "shop", 100)
    hold, released = new_id(clock.now()), new_id(clock.now())
    await service.holds.carry_out(PlaceHold(hold, "shop", CREDITS, 60 * UNIT, 3600))
    await service.holds.carry_out(PlaceHold(released, "shop", CREDITS, 30 * UNIT, 3600))
    await service.holds.carry_out(ReleaseHold(uuid4(), "shop", released))
    assert await levels(service) == []
    await service.holds.carry_out(SettleHold(uuid4(), "shop", hold, 55 * UNIT))
    assert await levels(service) == [("0.5", 45)]


async def test_usage_beside_holds_is_told_of_by_the_balance(service: Service, clock: TestClock) -> None:
    """What is held stays in the wallet, so that usage goes to arrears: both together are the balance."""
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    await instruct(service, "open", "shop", 100)
    await service.holds.carry_out(PlaceHold(new_id(clock.now()), "shop", CREDITS, 90 * UNIT, 3600))
    await submit(service, measurement("shop", 49))
    assert await levels(service) == []
    await submit(service, measurement("shop", 1))
    assert await levels(service) == [("0.5", 50)]


async def test_a_grant_that_ends_is_told_of_and_no_longer_counts(service: Service, clock: TestClock) -> None:
    await instruct(service, "open", "lab", 40)
    end = clock.now() + timedelta(days=1)
    await service.grants.give(GrantCredits(new_id(clock.now()), "lab", CREDITS, 60 * UNIT, expires_at=end))
    await instruct(service, "bill", "lab", 30)  # of those that end: 70 of 100 are left
    clock.set(end)
    await service.due.run_due()
    assert await levels(service) == []  # 40 of 40
    await instruct(service, "bill", "lab", 20)
    (half,) = await raised(service)
    assert (half.notice.balance, half.notice.granted) == (20 * UNIT, 40 * UNIT)


async def test_what_an_end_takes_away_may_cross_a_level(service: Service, clock: TestClock) -> None:
    await define(service, "balance", 25 * UNIT, asset="CREDIT")
    await instruct(service, "open", "lab", 20)
    end = clock.now() + timedelta(days=1)
    await service.grants.give(GrantCredits(new_id(clock.now()), "lab", CREDITS, 60 * UNIT, expires_at=end))
    clock.set(end)
    await service.due.run_due()
    assert await levels(service) == [("25000000", 20)]


async def test_a_grant_that_is_voided_no_longer_counts(service: Service, clock: TestClock) -> None:
    grant = new_id(clock.now())
    await instruct(service, "open", "lab", 100)
    given, _ = await service.grants.give(GrantCredits(grant, "lab", CREDITS, 300 * UNIT, priority=500))
    await service.grants.void(VoidGrant(uuid4(), "lab", given.id))
    await instruct(service, "top_up", "lab", 1)  # has it looked at
    await instruct(service, "bill", "lab", 50)
    assert await levels(service) == []
    await instruct(service, "bill", "lab", 1)
    (half,) = await raised(service)
    assert (half.notice.balance, half.notice.granted) == (50 * UNIT, 101 * UNIT)


async def test_an_exchange_is_told_of_in_the_wallet_that_gives(service: Service, clock: TestClock) -> None:
    await define(service, "balance", 5 * UNIT, asset="EUR")
    await instruct(service, "open", "shop", 100)
    async with service.pool.connection() as conn:
        credit, euro = (await service.assets.all(conn))["CREDIT"], (await service.assets.all(conn))["EUR"]
    await service.exchanges.carry_out(
        ExchangeOrder(new_id(clock.now()), "shop", credit, euro, 60 * UNIT, Decimal("0.5"))
    )
    assert await levels(service) == [("0.5", 40)]
    await instruct(service, "bill", "shop", 26, ledger=euro.ledger)
    assert await levels(service) == [("5000000", 4), ("0.5", 40)]


async def test_a_rule_for_one_customer_is_in_force_at_once_and_tells_no_one_of_the_past(service: Service) -> None:
    for key in ("low", "high", "other"):
        await instruct(service, "open", key, 100)
    await instruct(service, "bill", "low", 21)
    for key in ("low", "high"):
        await define(service, "share", "0.8", customer=key)
    assert await raised(service) == []
    for key in ("low", "high", "other"):
        await instruct(service, "bill", key, 10)
        await instruct(service, "bill", key, 9)
    assert await raised(service) == []
    for key in ("low", "high", "other"):
        await instruct(service, "bill", key, 1)
    assert [(each.customer, each.notice.balance) for each in await raised(service)] == [("high", 80 * UNIT)]
    await instruct(service, "top_up", "low", 100)
    await instruct(service, "bill", "low", 10)
    assert await levels(service, "low") == []  # 149 of 200, which is less than it says
    await instruct(service, "top_up", "low", 800)
    await instruct(service, "bill", "low", 149)
    assert await levels(service, "low") == [("0.8", 800)]


async def test_a_rule_for_all_is_in_force_for_each_wallet_once_it_was_looked_at(service: Service) -> None:
    for number in range(3):
        await instruct(service, "open", f"shop-{number}", 100)
    await instruct(service, "bill", "shop-0", 15)
    await define(service, "share", "0.9")
    await walks(service).arm(Run(1, 1, {}))
    for number in range(3):
        await instruct(service, "bill", f"shop-{number}", 10)
    assert await levels(service) == [("0.9", 90), ("0.9", 90)]


async def test_removing_a_rule_ends_it(service: Service) -> None:
    rule = await define(
        service, "share", "0.9", customer=await create_customer(service, "shop", credit_policy="prepaid")
    )
    await instruct(service, "top_up", "shop", 100)
    async with service.pool.connection() as conn, conn.transaction():
        await service.notices.remove(conn, rule.id)
    await instruct(service, "bill", "shop", 20)
    assert await raised(service) == []


async def test_what_is_taken_back_was_not_told(service: Service) -> None:
    await instruct(service, "open", "shop", 100)
    async with service.pool.connection() as conn, conn.transaction(force_rollback=True):
        _, payer = (await service.customers.find(conn, ["shop"]))["shop"]
        await service.wallets.bill(conn, [Movement(uuid4(), payer, CREDITS, 60 * UNIT)])
    assert await raised(service) == []
    await instruct(service, "bill", "shop", 60)
    assert await levels(service) == [("0.5", 40)]


async def test_a_thousand_charges_at_once_tell_one_notice(service: Service) -> None:
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    await instruct(service, "open", "shop", 1500)
    async with asking(service) as client:

        async def use(number: int) -> int:
            event = {
                "id": str(number),
                "subject": "shop",
                "type": "tokens",
                "time": NOW.isoformat(),
                "data": {"value": 1},
            }
            return (await client.post("/api/v1/events", json=event)).status_code

        answers = await asyncio.gather(*(use(number) for number in range(1000)))
    assert set(answers) == {200}
    assert [level for level, _ in await levels(service)] == ["0.5"]
    assert len(await events(service)) == 1


async def test_two_servers_tell_one_notice(service: Service, database_url: str, clock: TestClock) -> None:
    await instruct(service, "open", "shop", 400)
    async with open_service(Settings(dev=True, database_pool_size=4), database_url, clock) as other:
        await asyncio.gather(*(instruct(one, "bill", "shop", 1) for one in (service, other) for _ in range(150)))
    assert [level for level, _ in await levels(service)] == ["0.5"]


async def test_balances_of_a_ledger_elsewhere_are_looked_at_by_following_the_transfers(
    service: Service, database_url: str, clock: TestClock
) -> None:
    """A service whose ledger calls nobody stands for one whose balances are kept elsewhere."""
    watch = Watch(clock, Outbox(is_on=False), mail_is_on=False)
    followed = WatchWallets(service.pool, service.ledger, watch, Spending(clock, service.settings.zone, watch))
    service.ledger._watch = None  # type: ignore[attr-defined]
    await instruct(service, "open", "shop", 100)
    await followed.balances(Run(1, 1, {}))
    await instruct(service, "bill", "shop", 60)
    assert await raised(service) == []
    await followed.balances(Run(2, 1, {}))
    await followed.balances(Run(3, 1, {}))
    assert await levels(service) == [("0.5", 40)]


def walks(service: Service) -> WatchWallets:
    """The jobs that look at wallets."""
    watch = service.notices._watch
    return WatchWallets(service.pool, service.ledger, watch, Spending(service.clock, service.settings.zone, watch))
