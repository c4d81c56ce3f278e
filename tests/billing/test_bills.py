from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from tallystick.billing.bills import Bill, Bills
from tallystick.kernel.calendar import parse_month
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import NotFound
from tallystick.service import Service
from tests.metering.books import balance, charged, create_customer, create_price, measurement, submit

MARCH = parse_month("2026-03")
MICROSECOND = timedelta(microseconds=1)
PER_730 = {"type": "per_unit", "amount": "1", "per": "730"}


async def bill(service: Service, customer: str, month: str | None = None) -> Bill:
    async with service.pool.connection() as conn:
        return await service.bills.bill(conn, customer, parse_month(month) if month else None)


async def test_a_bill_is_the_usage_totals_of_the_month(service: Service) -> None:
    await create_price(service, "tokens", {"type": "per_unit", "amount": "2"})
    await create_price(service, "tokens", {"type": "per_unit", "amount": "0.5"}, kind="cached")
    await create_price(service, "disk", {"type": "per_unit", "amount": "3"}, asset="USD")
    await submit(
        service,
        measurement(value="1.5"),
        measurement(value=2),
        measurement(value=10, kind="cached"),
        measurement(value=7, meter="disk"),
        measurement(value=4, meter="nobody knows"),
        measurement("bob", value=100),
    )
    made = await bill(service, "ada")
    assert (made.customer.key, made.month, made.state) == ("ada", MARCH, "draft")
    lines = [(line.meter, line.kind, line.quantity, line.measurements, line.asset, line.amount) for line in made.lines]
    assert lines == [
        ("disk", "", Decimal(7), 1, "USD", 21_000_000),
        ("nobody knows", "", Decimal(4), 1, None, None),
        ("tokens", "", Decimal("3.5"), 2, "CREDIT", 7_000_000),
        ("tokens", "cached", Decimal(10), 1, "CREDIT", 5_000_000),
    ]
    assert made.totals == {"USD": 21_000_000, "CREDIT": 12_000_000}
    assert {line.period for line in made.lines} == {date(2026, 3, 1)}
    assert (await balance(service, "ada")).used == 12_000_000


async def test_a_month_of_hourly_readings_bills_exactly_the_monthly_price(service: Service) -> None:
    await create_price(service, model=PER_730)
    hours = [measurement(at=MARCH.start + hour * timedelta(hours=1)) for hour in range(730)]
    await submit(service, *hours[:300])
    await submit(service, *reversed(hours[300:]))
    (line,) = (await bill(service, "ada", "2026-03")).lines
    assert (line.quantity, line.amount) == (Decimal(730), 1_000_000)
    assert await charged(service, "ada") == 1_000_000


async def test_usage_is_on_the_bill_of_the_month_it_happened_in(service: Service, clock: TestClock) -> None:
    """To the microsecond, in the business zone, whenever it comes in."""
    clock.set(datetime(2026, 5, 20, tzinfo=UTC))
    await create_price(service)
    for number, at in enumerate([MARCH.start - MICROSECOND, MARCH.start, MARCH.end - MICROSECOND, MARCH.end]):
        await submit(service, measurement(value=10**number, at=at))
    months = ["2026-02", "2026-03", "2026-04", "2026-05"]
    totals = [(await bill(service, "ada", month)).totals.get("CREDIT", 0) // 2_000_000 for month in months]
    assert totals == [1, 110, 1000, 0]


@pytest.mark.parametrize(("zone", "month"), [("America/New_York", "2026-03"), ("Europe/Zurich", "2026-04")])
async def test_without_a_month_it_is_the_one_that_the_clock_shows_in_the_business_zone(
    service: Service, clock: TestClock, zone: str, month: str
) -> None:
    clock.set(datetime(2026, 3, 31, 23, tzinfo=UTC))
    await create_customer(service, "ada")
    bills = Bills(clock, ZoneInfo(zone), service.customers, service.charges)
    async with service.pool.connection() as conn:
        made = await bills.bill(conn, "ada")
    assert str(made.month) == month
    assert (made.lines, made.totals) == ([], {})


async def test_two_prices_in_one_month_are_two_lines(service: Service) -> None:
    change = datetime(2026, 3, 10, 12, tzinfo=UTC)
    await create_price(service, model={"type": "per_unit", "amount": "2"})
    await create_price(service, model={"type": "per_unit", "amount": "5"}, since=change)
    await submit(service, measurement(at=change - MICROSECOND), measurement(at=change), measurement(at=change))
    made = await bill(service, "ada", "2026-03")
    assert [(line.quantity, line.amount) for line in made.lines] == [(Decimal(1), 2_000_000), (Decimal(2), 10_000_000)]
    assert made.totals == {"CREDIT": 12_000_000}


async def test_a_bill_names_the_customer_whoever_pays(service: Service) -> None:
    await create_price(service)
    await create_customer(service, "org")
    await create_customer(service, "project", payer="org")
    await submit(service, measurement("project", value=3))
    assert (await bill(service, "project")).totals == {"CREDIT": 6_000_000}
    assert (await bill(service, "org")).totals == {}
    assert (await balance(service, "org")).used == 6_000_000


async def test_what_waited_is_on_the_bill_once_it_has_a_price(service: Service) -> None:
    await submit(service, measurement(value=3))
    (line,) = (await bill(service, "ada")).lines
    assert line.quantity == 3
    assert (line.asset, line.amount, line.price_id) == (None, None, None)
    await create_price(service)
    (line,) = (await bill(service, "ada")).lines
    assert line.quantity == 3
    assert (line.asset, line.amount) == ("CREDIT", 6_000_000)


async def test_nobody_has_no_bill(service: Service) -> None:
    with pytest.raises(NotFound):
        await bill(service, "nobody")
