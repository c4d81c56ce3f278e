"""Usage of those who are posted monthly: it moves money once its month is over, and nothing twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest

from tallystick.billing import posting
from tallystick.billing.posting import Posting, describe
from tallystick.billing.transactions import TransactionType, Wanted
from tallystick.jobs.kinds import SLOT, Run
from tallystick.jobs.posting import PostUsage
from tallystick.kernel.calendar import month_before, parse_month
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.kernel.ids import new_id
from tallystick.ledger.grant_model import GrantCredits
from tallystick.metering.model import Meter
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.billing.conftest import StartService
from tests.metering.books import (
    CREDITS,
    DOLLARS,
    balance,
    create_customer,
    create_price,
    fetch,
    measurement,
    put_meter,
    set_payer,
    set_posting_policy,
    submit,
)

MARCH, APRIL = parse_month("2026-03"), parse_month("2026-04")
IN_MARCH = datetime(2026, 3, 10, 9, tzinfo=UTC)
AFTER_MARCH = datetime(2026, 4, 1, 10, 1, tzinfo=UTC)  # 06:01 in New York
CREDIT = 1_000_000
PER_730 = {"type": "per_unit", "amount": "1000000", "per": "730"}


@pytest.fixture
async def ada(service: Service) -> str:
    """Posted monthly; a token costs 2 credits."""
    await create_price(service)
    return await create_customer(service, "ada", posting_policy="monthly")


async def postings(service: Service, key: str) -> list[Posting]:
    """The last months first."""
    async with service.pool.connection() as conn:
        customer = await service.customers.get(conn, key)
        return (await service.postings.page(conn, customer.id, None, 100)).items


async def test_usage_moves_nothing_until_its_month_is_posted(service: Service, clock: TestClock, ada: str) -> None:
    for value in (3, 4):
        await submit(service, measurement(ada, value))
    assert (await balance(service, ada)).used == 0
    async with service.pool.connection() as conn:
        assert (await service.bills.bill(conn, ada)).totals == {"CREDIT": 14 * CREDIT}
    clock.set(AFTER_MARCH)
    assert await service.postings.post(MARCH) == 1
    assert (await balance(service, ada)).used == 14 * CREDIT
    (posted,) = await postings(service, ada)
    assert (posted.amount, posted.period, posted.number) == (14 * CREDIT, date(2026, 3, 1), 0)
    assert posted.description == "Monthly usage 2026-03-01--2026-04-01"


async def test_posting_again_changes_nothing(service: Service, clock: TestClock, ada: str) -> None:
    await submit(service, measurement(ada))
    clock.set(AFTER_MARCH)
    assert [await service.postings.post(MARCH) for _ in range(3)] == [1, 0, 0]
    assert len(await postings(service, ada)) == 1


async def test_several_at_once_post_once(
    service: Service, start_service: StartService, clock: TestClock, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "CUSTOMERS_AT_ONCE", 2)
    names = [await create_customer(service, f"org-{number}", posting_policy="monthly") for number in range(9)]
    await submit(service, *[measurement(name, number + 1) for number, name in enumerate(names)])
    clock.set(AFTER_MARCH)
    others = [service, await start_service(), await start_service()]
    assert sum(await asyncio.gather(*[other.postings.post(MARCH) for other in others])) == 9
    assert [(await balance(service, name)).used for name in names] == [2 * CREDIT * (n + 1) for n in range(9)]


async def test_what_fails_in_the_middle_is_posted_later(
    service: Service, clock: TestClock, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "CUSTOMERS_AT_ONCE", 1)
    names = [await create_customer(service, f"org-{number}", posting_policy="monthly") for number in range(5)]
    await submit(service, *[measurement(name) for name in names])
    clock.set(AFTER_MARCH)

    def stop(done: int) -> None:
        if done == 2:
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        await service.postings.post(MARCH, stop)
    assert sum([(await balance(service, name)).used for name in names]) == 4 * CREDIT
    told: list[int] = []
    assert await service.postings.post(MARCH, told.append) == 3
    assert told == [1, 2, 3]
    assert sum([(await balance(service, name)).used for name in names]) == 10 * CREDIT


async def test_late_usage_is_posted_as_a_supplement(service: Service, clock: TestClock, ada: str) -> None:
    await submit(service, measurement(ada, 5))
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    for value in (1, 2):
        await submit(service, measurement(ada, value))
        await service.postings.post(MARCH)
    assert [(one.number, one.amount, one.description) for one in await postings(service, ada)] == [
        (2, 4 * CREDIT, "Monthly usage 2026-03-01--2026-04-01, supplement 2"),
        (1, 2 * CREDIT, "Monthly usage 2026-03-01--2026-04-01, supplement 1"),
        (0, 10 * CREDIT, "Monthly usage 2026-03-01--2026-04-01"),
    ]
    assert (await balance(service, ada)).used == 16 * CREDIT


async def test_the_real_value_that_replaces_an_estimate_after_its_month_was_posted_is_a_supplement(
    service: Service, clock: TestClock, ada: str
) -> None:
    await put_meter(service, Meter("memory", "gauge", on_gap="held", max_gap_hours=3))
    await create_price(service, "memory")
    hours = [IN_MARCH + timedelta(hours=hour) for hour in range(3)]
    await submit(service, measurement(ada, 5, meter="memory", at=hours[0], resource="vm"))
    await submit(service, measurement(ada, 7, meter="memory", at=hours[2], resource="vm"))
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    await submit(service, measurement(ada, 1, meter="memory", at=hours[1], resource="vm"))
    await service.postings.post(MARCH)
    assert [(one.number, one.amount) for one in await postings(service, ada)] == [(1, -8 * CREDIT), (0, 34 * CREDIT)]
    assert (await balance(service, ada)).used == 26 * CREDIT


@pytest.mark.parametrize("end", [datetime(2026, 3, 25, 4, tzinfo=UTC), MARCH.end], ids=["within", "month's end"])
async def test_a_grant_that_ends_pays_for_what_was_used_before(
    service: Service, clock: TestClock, ada: str, end: datetime
) -> None:
    """Else what was used of its last month would be owed, and the credits that it was granted for it would expire."""
    order = GrantCredits(new_id(clock.now()), ada, CREDITS, 100 * CREDIT, expires_at=end)
    await service.grants.give(order)
    await create_customer(service, "org", payer=ada)
    tick = timedelta(microseconds=1)
    await submit(service, measurement("org", 15, at=clock.now()), measurement(ada, 5, at=IN_MARCH))
    clock.set(end - tick)
    assert await service.due.run_due() == {"agreements": 0, "grants": 0, "holds": 0, "notices": 0}
    assert (await balance(service, ada)).used == 0
    clock.set(end)
    await submit(service, measurement(ada, 300, at=MARCH.end))  # by a clock that is ahead: April is not the grant's
    assert (await service.due.run_due())["grants"] == 1
    standing = await balance(service, ada)
    assert (standing.used, standing.expired, standing.wallet) == (40 * CREDIT, 60 * CREDIT, 0)
    await submit(service, measurement(ada, 1))
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    assert [(one.period.month, one.number, one.amount) for one in await postings(service, ada)] == [
        (3, 1, 2 * CREDIT),
        (3, 0, 40 * CREDIT),
    ]
    assert (await balance(service, ada)).wallet == -2 * CREDIT


async def test_who_fails_to_post_ends_no_grant(
    service: Service, clock: TestClock, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both happen together, whenever that is."""
    await service.grants.give(
        GrantCredits(new_id(clock.now()), ada, CREDITS, 100 * CREDIT, expires_at=clock.now() + timedelta(hours=1))
    )
    await submit(service, measurement(ada, 20))
    clock.advance(timedelta(hours=1))
    with monkeypatch.context() as patch:
        patch.setattr(service.grants, "run_due", None)
        assert (await service.due.run_due())["grants"] == 0
    assert not await postings(service, ada)
    assert (await service.due.run_due())["grants"] == 1
    assert ((await balance(service, ada)).used, (await balance(service, ada)).expired) == (40 * CREDIT, 60 * CREDIT)


async def test_a_month_that_is_not_over_is_not_posted(service: Service, clock: TestClock, ada: str) -> None:
    await submit(service, measurement(ada), measurement(ada, at=datetime(2026, 4, 1, 4, tzinfo=UTC)))
    clock.set(datetime(2026, 4, 1, 3, 59, 59, 999_999, tzinfo=UTC))
    with pytest.raises(InvalidInput, match="month must be over before it is posted, which 2026-03 is not"):
        await service.postings.post(MARCH)
    clock.set(datetime(2026, 4, 1, 4, tzinfo=UTC))
    assert await service.postings.post(MARCH) == 1
    assert (await balance(service, ada)).used == 2 * CREDIT  # April began at that very instant


@pytest.mark.parametrize(
    ("slot", "start", "end"),
    [
        ("2025-02-01 05:00:00", "2025-01-01 05:00", "2025-02-01 05:00"),
        ("2025-02-01 04:59:59", "2024-12-01 05:00", "2025-01-01 05:00"),
        ("2025-02-15 05:00:00", "2025-01-01 05:00", "2025-02-01 05:00"),
        ("2025-04-01 04:00:00", "2025-03-01 05:00", "2025-04-01 04:00"),
        ("2025-12-01 05:00:00", "2025-11-01 04:00", "2025-12-01 05:00"),
    ],
)
async def test_the_job_posts_the_months_that_end_until_its_slot(
    service: Service, ada: str, slot: str, start: str, end: str
) -> None:
    """To the microsecond, by clocks in New York, and however late the job runs: here it is a year too late."""
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end))
    tick = timedelta(microseconds=1)
    edges = [first - tick, first, last - tick, last]
    await submit(service, *[measurement(ada, 10**number, at=at) for number, at in enumerate(edges)])
    run = Run(job_id=1, attempt=1, args={SLOT: f"{slot}+00:00"})
    await PostUsage(service.postings, service.settings.zone).run(run)
    posted, before = await postings(service, ada)
    assert (posted.period, posted.amount) == (first.date(), 110 * 2 * CREDIT)
    assert (before.period, before.amount) == (month_before(first).first_day, 2 * CREDIT)


async def test_a_year_of_hours_costs_exactly_what_a_month_is_priced_at(
    service: Service, clock: TestClock, ada: str
) -> None:
    """Where each measurement was truncated by itself, 730 of them came to 999,370 microcredits."""
    await create_price(service, "cfapps", {"type": "per_unit", "amount": "1", "per": "730"})
    start = datetime(2026, 3, 1, 5, tzinfo=UTC)
    await submit(service, *[measurement(ada, meter="cfapps", at=start + timedelta(hours=hour)) for hour in range(730)])
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    assert (await balance(service, ada)).used == 1_000_000


async def test_a_payer_is_posted_once_for_all_it_pays_for(service: Service, clock: TestClock, ada: str) -> None:
    await create_price(service, "euros", {"type": "per_unit", "amount": "1"}, asset="USD")
    for key in ("org-a", "org-b"):
        await create_customer(service, key, payer=ada)
        await submit(service, measurement(key, 3), measurement(key, 2, meter="euros"))
    await submit(service, measurement(ada, 1))
    clock.set(AFTER_MARCH)
    assert await service.postings.post(MARCH) == 3
    posted = await postings(service, ada)
    assert sorted((one.asset, one.amount) for one in posted) == [("CREDIT", 14 * CREDIT), ("USD", 4 * CREDIT)]
    async with service.pool.connection() as conn:
        payer = await service.customers.get(conn, ada)
        (in_credits,) = [one for one in posted if one.asset == "CREDIT"]
        first = await service.postings.lines(conn, payer.id, in_credits.id, None, 2)
        rest = await service.postings.lines(conn, payer.id, in_credits.id, first.next, 2)
        with pytest.raises(NotFound):
            await service.postings.lines(conn, payer.id, payer.id, None, 2)
    lines = [*first.items, *rest.items]
    assert [(line.customer, str(line.quantity_after), line.amount) for line in lines] == [
        ("ada", "1", 2 * CREDIT),
        ("org-a", "3", 6 * CREDIT),
        ("org-b", "3", 6 * CREDIT),
    ]
    assert rest.next is None
    assert (await balance(service, ada, ledger=DOLLARS)).used == 4 * CREDIT


async def test_several_months_are_posted_each_for_itself(service: Service, clock: TestClock, ada: str) -> None:
    await submit(service, measurement(ada), measurement(ada, 2, at=datetime(2026, 4, 10, tzinfo=UTC)))
    clock.set(datetime(2026, 5, 2, tzinfo=UTC))
    assert await service.postings.post(APRIL) == 2
    assert [(one.period.month, one.amount, one.number) for one in reversed(await postings(service, ada))] == [
        (3, 2 * CREDIT, 0),
        (4, 4 * CREDIT, 0),
    ]


async def test_usage_that_waits_for_a_price_is_posted_when_it_has_one(
    service: Service, clock: TestClock, ada: str
) -> None:
    await submit(service, measurement(ada, 7, meter="gpu"))
    clock.set(AFTER_MARCH)
    assert await service.postings.post(MARCH) == 0
    assert not await postings(service, ada)
    await create_price(service, "gpu")
    assert (await balance(service, ada)).used == 0
    assert await service.postings.post(MARCH) == 1
    assert (await balance(service, ada)).used == 14 * CREDIT


async def test_a_month_of_nothing_moves_nothing(service: Service, clock: TestClock, ada: str) -> None:
    await create_price(service, "gifts", {"type": "per_unit", "amount": "1", "free": "100"})
    await submit(service, measurement(ada, 7, meter="gifts"))
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    assert [(one.amount, one.description) for one in await postings(service, ada)] == [(0, None)]
    assert not await fetch(service, "select * from ledger_transfers")


async def test_money_that_goes_back(service: Service, clock: TestClock, ada: str) -> None:
    tiers = [{"up_to": "10", "amount": "3"}, {"up_to": None, "amount": "1"}]
    await create_price(service, "steps", {"type": "volume", "tiers": tiers})
    await submit(service, measurement(ada, 10, meter="steps"))
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    await submit(service, measurement(ada, 2, meter="steps"))
    await service.postings.post(MARCH)
    assert [one.amount for one in await postings(service, ada)] == [-18 * CREDIT, 30 * CREDIT]
    assert (await balance(service, ada)).used == 12 * CREDIT


async def test_the_policy_holds_from_its_change_on(service: Service, clock: TestClock) -> None:
    """The middle of a month: what moved at once stays, what had not moved does when it must."""
    await create_price(service)
    await create_customer(service, "ada")
    await submit(service, measurement("ada", 1))
    await set_posting_policy(service, "ada", "monthly")
    await submit(service, measurement("ada", 10))
    assert (await balance(service, "ada")).used == 2 * CREDIT
    await set_posting_policy(service, "ada", "immediate")
    assert (await balance(service, "ada")).used == 22 * CREDIT
    await submit(service, measurement("ada", 100))
    await set_posting_policy(service, "ada", "monthly")
    await set_posting_policy(service, "ada", "monthly")
    await submit(service, measurement("ada", 1000))
    assert (await balance(service, "ada")).used == 222 * CREDIT
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    assert (await balance(service, "ada")).used == 2222 * CREDIT
    assert [(one.number, one.amount) for one in await postings(service, "ada")] == [
        (1, 2000 * CREDIT),
        (0, 20 * CREDIT),
    ]


async def test_whoever_is_prepaid_is_posted_at_once(service: Service) -> None:
    with pytest.raises(InvalidInput, match="posting_policy must be immediate for a prepaid customer"):
        await create_customer(service, "ada", credit_policy="prepaid", posting_policy="monthly")
    await create_customer(service, "ada", credit_policy="prepaid")
    with pytest.raises(InvalidInput, match="posting_policy"):
        await set_posting_policy(service, "ada", "monthly")


async def test_usage_that_comes_while_its_month_is_posted(
    service: Service, start_service: StartService, clock: TestClock, ada: str
) -> None:
    """Whoever is later finds what the other one has left: nothing is posted twice, and nothing is left out."""
    clock.set(AFTER_MARCH)
    other = await start_service()

    async def use() -> None:
        for _ in range(40):
            await submit(other, measurement(ada), measurement(ada, kind="new", at=IN_MARCH))

    async def post() -> None:
        while not using.done():
            await service.postings.post(MARCH)

    await create_price(service, kind="new")
    using = asyncio.create_task(use())
    await asyncio.gather(using, post())
    await service.postings.post(MARCH)
    assert (await balance(service, ada)).used == 160 * CREDIT
    assert not await fetch(service, "select * from unposted_usage")


async def test_how_far_months_are(service: Service, clock: TestClock, ada: str) -> None:
    await create_customer(service, "bob", posting_policy="monthly")
    await submit(service, measurement(ada), measurement("bob"))
    clock.set(AFTER_MARCH)
    assert await progress(service) == [("2026-03-01", 2, 0, 0)]
    async with service.pool.connection() as conn:
        assert await service.postings.waiting(conn, MARCH) == 2
    await service.postings.post(MARCH)
    await submit(service, measurement("bob"), measurement(ada, at=AFTER_MARCH))
    assert await progress(service) == [("2026-03-01", 1, 2, 0)]
    await service.postings.post(MARCH)
    assert await progress(service) == [("2026-03-01", 0, 2, 1)]


async def progress(service: Service) -> list[tuple[str, int, int, int]]:
    async with service.pool.connection() as conn:
        found = await service.postings.progress(conn)
    return [(one.period.isoformat(), one.waiting, one.payers, one.supplements) for one in found]


async def test_a_posting_is_a_transaction_with_its_description(service: Service, clock: TestClock, ada: str) -> None:
    await submit(service, measurement(ada))
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    async with service.pool.connection() as conn, conn.transaction():
        customer = await service.customers.get(conn, ada)
        page = await service.transactions.page(conn, customer.id, [CREDITS], Wanted(), None, 10)
    (posted,) = page.items
    assert (posted.type, posted.amount) == (TransactionType.USAGE, -2 * CREDIT)
    assert posted.description == "Monthly usage 2026-03-01--2026-04-01"


@pytest.mark.parametrize(
    ("period", "number", "text"),
    [
        (date(2025, 1, 1), 0, "Monthly usage 2025-01-01--2025-02-01"),
        (date(2024, 12, 1), 3, "Monthly usage 2024-12-01--2025-01-01, supplement 3"),
    ],
)
def test_descriptions(period: date, number: int, text: str) -> None:
    assert describe(period, number) == text


async def test_explain_names_the_posting(service: Service, clock: TestClock, ada: str) -> None:
    await submit(service, measurement(ada, 3, sender_id="first"))
    assert (await trail(service))[-1] == "more of the total of 2026-03 is to be posted as a whole"
    clock.set(AFTER_MARCH)
    await service.postings.post(MARCH)
    posted, moved = (await trail(service))[-2:]
    ((transfer_id,),) = await fetch(service, "select id from ledger_transfers")
    assert posted == f"the total from 0 to 3 was posted as a whole: 6 CREDIT of {transfer_id}"
    assert moved.startswith(f"transfer {transfer_id} at 2026-04-01T10:01:00Z: 6 CREDIT from wallet to used")
    await create_customer(service, "bob")
    await set_payer(service, ada, "bob")
    assert (await trail(service))[-2:] == [posted, moved]


async def trail(service: Service) -> list[str]:
    async with service.pool.connection() as conn, conn.transaction():
        customer = await service.customers.get(conn, "ada")
        (charge,) = (await service.charges.page(conn, customer.id, None, 1)).items
        return (await service.explain.charge(conn, charge.id)).lines


async def test_the_zone_of_the_business_makes_the_months_of_all_books(database_url: str) -> None:
    """Bill, posting, schedule and that system's books, where April begins 14 hours before it does in UTC."""
    april = datetime(2026, 3, 31, 10, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    settings = Settings(database_pool_size=4, business_zone="Pacific/Kiritimati")
    async with (
        open_service(settings, database_url, rehearse_from=april - timedelta(days=1)) as service,
        service.at_work(worker=False),
    ):
        assert service.rehearsal is not None
        await create_price(service)
        await create_customer(service, "ada", posting_policy="monthly")
        await submit(service, measurement(value=3, at=april - tick), measurement(value=50, at=april))
        six_o_clock = april + timedelta(hours=6)
        await service.rehearsal.move(six_o_clock)
        assert await progress(service) == [("2026-03-01", 1, 0, 0)]
        await service.rehearsal.move(six_o_clock + timedelta(minutes=1))
        assert await progress(service) == [("2026-03-01", 0, 1, 0)]
        async with service.pool.connection() as conn:
            customer = await service.customers.get(conn, "ada")
            before, present = [
                await service.bills.bill(conn, "ada", month) for month in (month_before(april, settings.zone), None)
            ]
            (posted,) = (await service.platform_ledger.page(conn, customer.id, None, 10)).items
        assert (before.totals, present.totals) == ({"CREDIT": 6 * CREDIT}, {"CREDIT": 100 * CREDIT})
        assert (posted.occurred_at, posted.entries[0].amount) == (april, 6 * CREDIT)
