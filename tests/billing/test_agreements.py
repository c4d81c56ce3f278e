"""Tiers and agreements: granted at the start, expired at the end, once, whatever is retried."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tallystick.billing.agreements import (
    Agreement,
    EndAgreement,
    MakeAgreement,
    agreed_grant_id,
    midnight,
)
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.ids import new_id
from tallystick.ledger.desk import Order
from tallystick.ledger.grant_model import Standing
from tallystick.ledger.wallets import Balance
from tallystick.service import Service
from tests.billing.conftest import StartService
from tests.metering.books import balance, create_customer, create_price, fetch, measurement, submit

CREDITS, DOLLARS = 1, 840
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
LIMIT = 100


@pytest.fixture(params=["prepaid", "postpaid"])
async def office(request: pytest.FixtureRequest, service: Service, clock: TestClock) -> Office:
    """Where agreements are made, with a customer and a tier."""
    await create_customer(service, "ada", credit_policy=request.param)
    office = Office(service, clock)
    await office.tier("gold", 100)
    return office


class Office:
    """Makes and ends agreements; amounts in microcredits, times in days from the start of the test."""

    def __init__(self, service: Service, clock: TestClock) -> None:
        self.service = service
        self.clock = clock

    async def tier(self, name: str, amount: int, **terms: Any) -> None:
        fields: dict[str, Any] = {"asset": "CREDIT", "category": "promotional", "priority": 100}
        async with self.service.pool.connection() as conn, conn.transaction():
            await self.service.tiers.put(conn, name, amount=amount, **{**fields, **terms})

    def order(self, start: int, end: int, tier: str = "gold", customer: str = "ada", **fields: Any) -> MakeAgreement:
        return MakeAgreement(new_id(self.clock.now()), customer, tier, NOW + start * DAY, NOW + end * DAY, **fields)

    async def make(self, start: int, end: int, tier: str = "gold", **fields: Any) -> Agreement:
        agreement, _ = await self.service.agreements.carry_out(self.order(start, end, tier, **fields))
        return agreement

    async def end(self, agreement: Agreement, at: datetime, customer: str = "ada") -> Agreement:
        order = EndAgreement(new_id(self.clock.now()), customer, agreement.id, at)
        return (await self.service.agreements.carry_out(order))[0]

    async def pass_(self, time: timedelta) -> tuple[int, int]:
        """Lets time pass; how many agreements and grants were due."""
        self.clock.advance(time)
        done = await self.service.due.run_due()
        return done["agreements"], done["grants"]

    async def grant(self, agreement: Agreement, customer: str = "ada") -> Standing:
        async with self.service.pool.connection() as conn, conn.transaction():
            payer = (await self.service.customers.find(conn, [customer]))[customer][1]
            return await self.service.grants.get(conn, payer.id, agreed_grant_id(agreement.id))

    async def get(self, agreement: Agreement) -> Agreement:
        async with self.service.pool.connection() as conn, conn.transaction():
            return await self.service.agreements.get(conn, agreement.customer_id, agreement.id)

    async def balance(self) -> Balance:
        return await balance(self.service, "ada")

    async def grants(self) -> int:
        ((count,),) = await fetch(self.service, "select count(*) from ledger_transfers where code = 1")
        return int(count)


# The way of an agreement


async def test_an_agreement_grants_at_its_start_and_expires_at_its_end(office: Office) -> None:
    made = await office.make(1, 3)
    assert (made.tier, made.starts_at, made.ends_at, made.grant_id) == ("gold", NOW + DAY, NOW + 3 * DAY, None)
    assert made.state(office.clock.now()) == "planned"
    assert await office.pass_(DAY - TICK) == (0, 0)
    assert await office.pass_(TICK) == (1, 0)
    active = await office.get(made)
    assert active.state(office.clock.now()) == "active"
    standing = await office.grant(made)
    assert (active.grant_id, active.payer_id) == (standing.grant.id, standing.grant.payer.id)
    assert (standing.grant.effective_at, standing.grant.expires_at) == (made.starts_at, made.ends_at)
    assert (standing.grant.source, standing.grant.reason) == (f"agreement {made.id}", "tier gold")
    await create_price(office.service, model={"type": "per_unit", "amount": "0.000001"})
    await submit(office.service, measurement("ada", 30, at=NOW))
    assert await office.pass_(2 * DAY - TICK) == (0, 0)
    assert await office.pass_(TICK) == (0, 1)
    assert (await office.get(made)).state(office.clock.now()) == "ended"
    standing = await office.grant(made)
    assert (standing.grant.state, standing.used, standing.taken) == ("expired", 30, 70)
    assert await office.balance() == Balance(CREDITS, 0, 0, 30, granted=100, expired=70)
    assert await office.pass_(9 * DAY) == (0, 0)


async def test_one_that_has_begun_already_is_granted_at_once(office: Office) -> None:
    made = await office.make(-5, 1)
    assert made.grant_id == agreed_grant_id(made.id)
    assert (await office.balance()).balance == 100
    assert await office.pass_(DAY) == (0, 1)
    assert (await office.balance()).balance == 0


async def test_a_period_that_nobody_was_up_for_is_granted_and_expires(office: Office) -> None:
    made = await office.make(1, 2)
    assert await office.pass_(9 * DAY) == (1, 1)
    assert (await office.grant(made)).grant.state == "expired"
    assert await office.balance() == Balance(CREDITS, 0, 0, 0, granted=100, expired=100)


async def test_what_follows_without_a_gap_is_kept_apart(office: Office) -> None:
    """Periods are half open: at midnight the old one has gone and the new one is there."""
    old, new = await office.make(0, 1), await office.make(1, 2)
    assert await office.pass_(DAY) == (1, 1)
    assert ((await office.grant(old)).taken, (await office.grant(new)).remaining) == (100, 100)
    assert (await office.balance()).balance == 100


async def test_the_payer_gets_the_grant(office: Office) -> None:
    await create_customer(office.service, "project", payer="ada")
    made = await office.make(0, 1, customer="project")
    assert (await office.grant(made)).remaining == 100
    assert (await office.balance()).wallet == 100


# Tiers


async def test_what_is_granted_is_the_tier_as_it_is_at_the_start(office: Office) -> None:
    begun, later = await office.make(0, 9), await office.make(1, 9)
    await office.tier("gold", 7, asset="USD", category="paid", priority=3)
    await office.pass_(DAY)
    old, new = (await office.grant(begun)).grant, (await office.grant(later)).grant
    assert (old.amount, old.ledger, old.category, old.priority) == (100, CREDITS, "promotional", 100)
    assert (new.amount, new.ledger, new.category, new.priority) == (7, DOLLARS, "paid", 3)


async def test_tiers_come_in_pages_by_name(office: Office) -> None:
    for name in ("silver", "bronze"):
        await office.tier(name, 5)
    async with office.service.pool.connection() as conn, conn.transaction():
        first = await office.service.tiers.page(conn, None, 2)
        second = await office.service.tiers.page(conn, first.next, 2)
        assert [tier.name for tier in (*first.items, *second.items)] == ["bronze", "gold", "silver"]
        assert second.next is None
        assert (await office.service.tiers.get(conn, "bronze")).credits == 5
        with pytest.raises(NotFound, match="no tier 'lead'"):
            await office.service.tiers.get(conn, "lead")
        with pytest.raises(InvalidInput, match="asset"):
            await office.service.tiers.put(conn, "x", "XAU", 1, "paid", 1)


# Refusals


async def test_a_period_must_be_one_that_has_not_passed(office: Office) -> None:
    for start, end, field in ((1, 1, "end"), (2, 1, "end"), (-2, -1, "end"), (-1, 0, "end")):
        with pytest.raises(InvalidInput) as refused:
            await office.make(start, end)
        assert refused.value.field == field
    with pytest.raises(InvalidInput, match="tier names no tier: 'lead'"):
        await office.make(0, 1, "lead")
    with pytest.raises(NotFound, match="no customer 'nobody'"):
        await office.make(0, 1, customer="nobody")
    assert not await fetch(office.service, "select * from agreements")


# Ending


async def test_an_agreement_ends_early_and_not_before_now(office: Office) -> None:
    made = await office.make(0, 9)
    office.clock.advance(DAY)
    with pytest.raises(InvalidInput, match="end must not have passed"):
        await office.end(made, NOW + DAY - TICK)
    ended = await office.end(made, NOW + DAY)
    assert (ended.ends_at, ended.state(office.clock.now())) == (NOW + DAY, "ended")
    assert await office.pass_(timedelta(0)) == (0, 1)
    assert (await office.grant(made)).taken == 100
    assert await office.end(made, NOW + DAY) == ended
    with pytest.raises(Conflict, match="has ended"):
        await office.end(made, NOW + 5 * DAY)


async def test_an_end_may_be_moved_more_than_once(office: Office) -> None:
    made = await office.make(0, 2)
    await office.end(made, NOW + DAY)
    await office.end(made, NOW + 5 * DAY)
    assert await office.pass_(4 * DAY) == (0, 0)
    assert (await office.grant(made)).grant.expires_at == NOW + 5 * DAY
    assert await office.pass_(DAY) == (0, 1)


async def test_moving_an_end_does_not_change_what_was_used_before(office: Office) -> None:
    first, second = await office.make(0, 5), await office.make(0, 3)
    await create_price(office.service, model={"type": "per_unit", "amount": "0.000001"})
    await submit(office.service, measurement("ada", 60, at=NOW))
    await office.end(first, NOW + DAY)
    assert [(await office.grant(one)).remaining for one in (first, second)] == [100, 40]
    await office.pass_(DAY)
    assert [(await office.grant(one)).remaining for one in (first, second)] == [0, 40]


async def test_one_that_has_not_started_is_ended_at_its_start_and_grants_nothing(office: Office) -> None:
    made = await office.make(1, 3)
    with pytest.raises(InvalidInput, match="end must not be earlier than start"):
        await office.end(made, NOW + DAY - TICK)
    assert (await office.end(made, NOW + 2 * DAY)).state(NOW) == "planned"
    assert (await office.end(made, NOW + DAY)).state(NOW) == "ended"
    assert await office.pass_(DAY) == (0, 0)
    assert await office.grants() == 0


async def test_only_the_customers_own_agreements_are_found(office: Office) -> None:
    made = await office.make(0, 1)
    await create_customer(office.service, "eve")
    with pytest.raises(NotFound, match="no agreement"):
        await office.end(made, NOW + DAY / 2, customer="eve")
    with pytest.raises(NotFound, match="no customer"):
        await office.end(made, NOW + DAY / 2, customer="nobody")
    with pytest.raises(NotFound, match="no agreement"):
        await office.get(replace(made, id=UUID(int=1)))


# Once


async def test_a_key_gives_the_same_answer_for_good(office: Office) -> None:
    order = office.order(1, 2, idempotency_key="k")
    first = await office.service.agreements.carry_out(order)
    await office.pass_(DAY)
    assert await office.service.agreements.carry_out(office.order(1, 2, idempotency_key="k")) == first
    with pytest.raises(Conflict, match="Idempotency-Key"):
        await office.service.agreements.carry_out(office.order(1, 3, idempotency_key="k"))
    assert (await office.grants(), (await office.balance()).balance) == (1, 100)


async def test_carried_out_twice_it_is_made_and_ended_once(office: Office) -> None:
    """The answer to a commit was lost, so the group is run again, when its period may have passed."""
    standing = await office.make(0, 9)
    orders: list[Order] = [
        office.order(0, 1),
        office.order(1, 2),
        EndAgreement(new_id(NOW), "ada", standing.id, NOW + 3 * DAY),
    ]
    await office.service.desk._execute(orders)
    await office.pass_(5 * DAY)
    before = await fetch(office.service, "select * from agreements order by id")
    again = await office.service.desk._execute(orders)
    assert all(isinstance(answer, dict) for answer in again)
    assert await fetch(office.service, "select * from agreements order by id") == before
    assert await office.grants() == 3


async def test_two_servers_start_and_end_each_once(office: Office, start_service: StartService) -> None:
    other = Office(await start_service(), office.clock)
    made = [await office.make(1, 2) for _ in range(20)]
    office.clock.advance(DAY)
    started = await asyncio.gather(*(each.pass_(timedelta(0)) for each in (office, other, office, other)))
    assert sum(agreements for agreements, _ in started) == 20
    assert (await office.balance()).balance == 2000
    office.clock.advance(DAY)
    ended = await asyncio.gather(*(each.pass_(timedelta(0)) for each in (office, other, office, other)))
    assert sum(grants for _, grants in ended) == 20
    assert await office.balance() == Balance(CREDITS, 0, 0, 0, granted=2000, expired=2000)
    assert {(await office.grant(one)).taken for one in made} == {100}


class PowerCut(Exception):
    pass


async def test_who_dies_before_the_commit_has_granted_nothing_twice(office: Office) -> None:
    made = await office.make(1, 2)
    office.clock.advance(DAY)
    for _ in range(2):
        with contextlib.suppress(PowerCut):
            async with office.service.pool.connection() as conn, conn.transaction():
                assert await office.service.agreements.run_due(conn, office.clock.now(), LIMIT) == 1
                raise PowerCut
    assert await office.grants() == 0
    assert await office.pass_(timedelta(0)) == (1, 0)
    assert await office.pass_(timedelta(0)) == (0, 0)
    assert (await office.grant(made)).remaining == 100


async def test_no_more_is_started_at_once_than_the_limit(office: Office) -> None:
    for _ in range(3):
        await office.make(1, 2)
    office.clock.advance(DAY)
    done = []
    for _ in range(3):
        async with office.service.pool.connection() as conn, conn.transaction():
            done.append(await office.service.agreements.run_due(conn, office.clock.now(), 2))
    assert done == [2, 1, 0]


# Lists and days


async def test_agreements_come_newest_first_in_pages(office: Office) -> None:
    made = []
    for number in range(3):
        made.append((await office.make(number, 9)).id)
        office.clock.advance(TICK)
    async with office.service.pool.connection() as conn, conn.transaction():
        ada = (await office.service.customers.find(conn, ["ada"]))["ada"][0]
        first = await office.service.agreements.page(conn, ada, None, 2)
        second = await office.service.agreements.page(conn, ada, first.next, 2)
        with pytest.raises(InvalidInput):
            await office.service.agreements.page(conn, ada, "x", 2)
    assert [agreement.id for agreement in (*first.items, *second.items)] == made[::-1]
    assert second.next is None


@pytest.mark.parametrize(
    ("day", "zone", "instant"),
    [
        (date(2026, 3, 8), "America/New_York", datetime(2026, 3, 8, 5, tzinfo=UTC)),
        (date(2026, 3, 9), "America/New_York", datetime(2026, 3, 9, 4, tzinfo=UTC)),
        (date(2026, 11, 2), "America/New_York", datetime(2026, 11, 2, 5, tzinfo=UTC)),
        (date(2026, 7, 1), "UTC", datetime(2026, 7, 1, tzinfo=UTC)),
        (date(2026, 7, 1), "Asia/Kolkata", datetime(2026, 6, 30, 18, 30, tzinfo=UTC)),
    ],
)
def test_a_day_begins_at_midnight_in_the_business_zone(day: date, zone: str, instant: datetime) -> None:
    assert midnight(day, ZoneInfo(zone)) == instant
