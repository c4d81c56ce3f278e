"""A customer's credits as the government platform books them: balanced, complete, and under that system's names."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tallystick.billing.agreements import EndAgreement, MakeAgreement
from tallystick.billing.platform_ledger import (
    ACCOUNT_TYPES,
    Agreed,
    Booking,
    Entry,
    PlatformLedger,
    Posted,
    booking_of,
)
from tallystick.billing.transactions import Transaction, Transactions, TransactionType
from tallystick.database.pool import Pool
from tallystick.kernel.calendar import parse_month
from tallystick.kernel.clock import TestClock
from tallystick.kernel.ids import new_id
from tallystick.ledger.grant_model import DEFAULT_PRIORITY, GrantCredits
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import Wallets
from tallystick.service import Service
from tests.billing.test_transactions import CREDITS, PREPAID, Year
from tests.metering.books import create_customer, create_price, measurement, set_payer, submit

NEW_YORK = ZoneInfo("America/New_York")
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CREDIT = 1_000_000
MARCH = parse_month("2026-03")


def transaction(type_: TransactionType = TransactionType.GRANT, amount: int = 5) -> Transaction:
    return Transaction(1, UUID(int=1), NOW, type_, CREDITS, amount, 0, None, "said")


async def bookings(service: Service, key: str, limit: int = 100) -> list[Booking]:
    """All of a customer's, newest first."""
    found: list[Booking] = []
    cursor = None
    async with service.pool.connection() as conn:
        customer = await service.customers.get(conn, key)
        while True:
            page = await service.platform_ledger.page(conn, customer.id, cursor, limit)
            assert len(page.items) <= limit
            found += page.items
            if (cursor := page.next) is None:
                return found


def sums(found: list[Booking]) -> Counter[int]:
    """By type of account, direction times amount."""
    by_type: Counter[int] = Counter()
    for entry in (entry for booking in found for entry in booking.entries):
        by_type[entry.account_type] += entry.direction * entry.amount
    return by_type


# By themselves


def test_the_account_types_are_that_systems() -> None:
    assert [(one.id, one.name, one.normal) for one in ACCOUNT_TYPES] == [
        (200, "liabilities", -1),
        (201, "credit_pool", -1),
        (400, "expenses", 1),
        (401, "credits_used", 1),
    ]


@pytest.mark.parametrize("amount", [-7, 7])
@pytest.mark.parametrize("type_", TransactionType)
def test_whatever_moves_a_wallet_has_two_entries_that_add_up_to_zero(type_: TransactionType, amount: int) -> None:
    booking = booking_of(transaction(type_, amount), None)
    debit, credit = booking.entries
    assert (debit.direction, credit.direction) == (-1, 1)
    assert (debit.amount, credit.amount) == (7, 7)
    assert sum(sums([booking]).values()) == 0
    assert sums([booking])[201] == amount
    assert (booking.type, booking.occurred_at, booking.description) == (type_.value, NOW, "said")


def test_an_agreement_names_its_start_and_its_end_and_nothing_else() -> None:
    gold = Agreed("tier gold")
    for type_, name in ((TransactionType.GRANT, "iaa_pop_start"), (TransactionType.EXPIRY, "iaa_pop_end")):
        booking = booking_of(transaction(type_), gold)
        assert (booking.type, booking.description) == (name, "tier gold")
    voided = booking_of(transaction(TransactionType.GRANT_VOIDED, -5), gold)
    assert (voided.type, voided.description) == ("grant_voided", "said")


def test_a_posting_occurs_when_its_month_ends_or_before() -> None:
    usage = transaction(TransactionType.USAGE, -5)
    assert booking_of(usage, Posted(MARCH)).occurred_at == NOW  # somebody else began to pay within the month
    ended = parse_month("2026-02")
    posted = booking_of(usage, Posted(ended))
    assert (posted.type, posted.occurred_at) == ("usage_post", ended.end)
    assert posted.entries == (Entry(201, -1, 5), Entry(401, 1, 5))


# In real books


@pytest.mark.parametrize("seed", range(2))
async def test_it_adds_up_to_what_the_wallet_holds_whatever_happened(pool: Pool, clock: TestClock, seed: int) -> None:
    """A prepaid wallet's, so arrears are repaid: that moves nothing between the types, and is no transaction."""
    wallets = Wallets(PostgresLedger(clock))
    async with pool.connection() as conn:
        await Year(conn, wallets, clock, Random(seed)).live(400)
        page = await PlatformLedger(Transactions(clock), NEW_YORK).page(conn, PREPAID.id, None, 5000)
        (standing,) = await wallets.balances(conn, PREPAID.id, [CREDITS])
    assert {one.type for one in page.items} >= {"grant", "bill", "usage", "usage_returned", "expiry", "exchange"}
    assert sums(page.items) == {
        200: -standing.granted - standing.exchanged,
        201: standing.balance,
        400: standing.expired,
        401: standing.used,
    }
    assert all(sum(sums([one]).values()) == 0 for one in page.items)


async def test_better_than_before_an_agreement_is_booked_at_its_start_and_its_end(
    service: Service, clock: TestClock
) -> None:
    """[B]: theirs knew the types, and no code booked the credits that a tier grants."""
    await create_price(service)
    await create_customer(service, "ada")
    async with service.pool.connection() as conn, conn.transaction():
        await service.tiers.put(conn, "gold", "CREDIT", 100 * CREDIT, "promotional", DEFAULT_PRIORITY)
    order = MakeAgreement(new_id(clock.now()), "ada", "gold", clock.now(), clock.now() + 2 * DAY)
    agreement, _ = await service.agreements.carry_out(order)
    await submit(service, measurement("ada", 20))
    clock.advance(DAY)
    await service.agreements.carry_out(EndAgreement(new_id(clock.now()), "ada", agreement.id, clock.now()))
    await service.due.run_due()

    end, usage, start = await bookings(service, "ada")
    assert (start.type, start.description, start.occurred_at) == ("iaa_pop_start", "tier gold", NOW)
    assert start.entries == (Entry(200, -1, 100 * CREDIT), Entry(201, 1, 100 * CREDIT))
    assert (usage.type, usage.entries) == ("usage", (Entry(201, -1, 40 * CREDIT), Entry(401, 1, 40 * CREDIT)))
    assert (end.type, end.description, end.occurred_at) == ("iaa_pop_end", "tier gold", NOW + DAY)
    assert end.entries == (Entry(201, -1, 60 * CREDIT), Entry(400, 1, 60 * CREDIT))


async def test_who_only_says_that_a_grant_is_an_agreements_makes_it_none(service: Service) -> None:
    await create_customer(service, "ada")
    for source in ("agreement", "agreement 7", f"agreement {UUID(int=7)}"):
        await service.grants.give(
            GrantCredits(id=new_id(service.clock.now()), customer="ada", ledger=CREDITS, amount=CREDIT, source=source)
        )
    assert [one.type for one in await bookings(service, "ada")] == ["grant"] * 3


async def test_monthly_usage_reads_as_that_system_posts_it(service: Service, clock: TestClock) -> None:
    await create_price(service)
    await create_customer(service, "ada", posting_policy="monthly")
    await submit(service, measurement("ada", 3))
    clock.set(datetime(2026, 4, 1, 10, 1, tzinfo=UTC))
    await service.postings.post(MARCH)
    await submit(service, measurement("ada", 1))
    await service.postings.post(MARCH)
    supplement, posting = await bookings(service, "ada")
    assert (posting.type, posting.occurred_at) == ("usage_post", datetime(2026, 4, 1, 4, tzinfo=UTC))
    assert posting.description == "Monthly usage 2026-03-01--2026-04-01"
    assert posting.entries == (Entry(201, -1, 6 * CREDIT), Entry(401, 1, 6 * CREDIT))
    assert (supplement.type, supplement.occurred_at) == ("usage_post", posting.occurred_at)
    assert supplement.description == "Monthly usage 2026-03-01--2026-04-01, supplement 1"


async def test_the_whole_ledger_adds_up_to_zero_when_another_takes_over(service: Service) -> None:
    await create_price(service)
    await create_customer(service, "agency")
    await submit(service, measurement("org", 3))
    await set_payer(service, "org", "agency")
    org, agency = await bookings(service, "org"), await bookings(service, "agency")
    assert [one.type for one in org] == ["takeover", "usage"]
    assert sums(org) == {201: 0, 401: 0}
    assert sums(agency) == {201: -6 * CREDIT, 401: 6 * CREDIT}
    assert sum(sums(org + agency).values()) == 0


async def test_they_come_in_pages_newest_first(service: Service, clock: TestClock) -> None:
    await create_price(service)
    for value in range(1, 6):
        clock.advance(timedelta(seconds=1))
        await submit(service, measurement("ada", value))
    for limit in (1, 2, 5):
        found = await bookings(service, "ada", limit)
        assert [booking.entries[0].amount for booking in found] == [2 * CREDIT * value for value in (5, 4, 3, 2, 1)]
