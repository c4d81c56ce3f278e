"""What can be read of charges: one by one, as usage of a month, and as the history of a wallet's credits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.ids import NIL, measurement_id
from tallystick.kernel.paging import next_cursor
from tallystick.metering.charges import Charge, ChargeId, HistoryPoint, Usage
from tallystick.metering.model import Meter
from tallystick.service import Service
from tests.metering.books import (
    CREDITS,
    DOLLARS,
    DYNAMIC,
    MARCH,
    MODELS,
    create_customer,
    create_price,
    fetch,
    grant,
    measurement,
    put_meter,
    submit,
)

HOUR = timedelta(hours=1)


async def customer_id(service: Service, key: str = "ada") -> UUID:
    async with service.pool.connection() as conn:
        return (await service.customers.get(conn, key)).id


async def charges(
    service: Service,
    key: str = "ada",
    *,
    limit: int = 1000,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Charge]:
    """All charges of a customer, page by page."""
    span = {name: instant for name, instant in (("since", since), ("until", until)) if instant}
    found: list[Charge] = []
    cursor = None
    async with service.pool.connection() as conn:
        while True:
            page = await service.charges.page(conn, await customer_id(service, key), cursor, limit, **span)
            assert len(page.items) <= limit
            found += page.items
            if (cursor := page.next) is None:
                return found


async def usage(service: Service, first: date, last: date, key: str = "ada") -> list[Usage]:
    async with service.pool.connection() as conn:
        return await service.charges.usage(conn, await customer_id(service, key), first, last)


async def history(
    service: Service,
    key: str = "ada",
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    ledger: int = CREDITS,
) -> list[HistoryPoint]:
    async with service.pool.connection() as conn:
        customer_id, _ = (await service.customers.find(conn, [key]))[key]
        return await service.charges.history(conn, customer_id, ledger, since, until)


# Charges


async def test_a_charge_says_what_was_measured_and_what_it_cost(service: Service) -> None:
    prices = await create_price(service, model=DYNAMIC, kind="large")
    sent = measurement(value="1.50", kind="large", resource="vm", agent="bot", unit_price=3, sender_id="7")
    await submit(service, sent)
    (charge,) = await charges(service)
    assert charge.id == ChargeId(await customer_id(service), UUID(int=measurement_id(sent.source, "7")))
    assert (charge.meter, charge.kind, charge.resource, charge.agent) == ("tokens", "large", "vm", "bot")
    assert (charge.at, charge.recorded_at) == (MARCH, service.clock.now())
    assert (charge.value, charge.quantity, charge.remark) == (Decimal("1.5"), Decimal("4.5"), "1.50 x unit price 3")
    assert (charge.price_id, charge.asset, charge.amount) == (*prices, "CREDIT", 4_500_000)
    assert await fetch(service, "select id from ledger_transfers") == [(charge.transfer_id,)]


async def test_what_waits_for_a_price_is_listed_without_an_amount(service: Service) -> None:
    await submit(service, measurement(value=2))
    (charge,) = await charges(service)
    assert charge.quantity == 2
    assert (charge.price_id, charge.asset) == (charge.amount, charge.transfer_id) == (None, None)


async def test_pages_go_back_in_time_and_leave_nothing_out(service: Service) -> None:
    sent = [measurement(value=number, at=MARCH + HOUR * (number // 3), sender_id=str(number)) for number in range(20)]
    await submit(service, *sent)
    await submit(service, measurement("bob"))
    for limit in (1, 2, 7, 20, 21):
        found = await charges(service, limit=limit)
        assert sorted(charge.value for charge in found) == list(range(20))
        assert [charge.at for charge in found] == sorted((m.at for m in sent), reverse=True)


async def test_a_range_begins_with_its_first_instant_and_ends_before_its_last(service: Service) -> None:
    await submit(service, *(measurement(value=number, at=MARCH + HOUR * number) for number in range(5)))
    found = await charges(service, since=MARCH + HOUR, until=MARCH + HOUR * 3, limit=1)
    assert [charge.value for charge in found] == [2, 1]


@pytest.mark.parametrize(
    "cursor", ["", "x", next_cursor("a"), next_cursor("2026-01-01", "b"), next_cursor("b", str(NIL))]
)
async def test_a_made_up_cursor_is_refused(service: Service, cursor: str) -> None:
    async with service.pool.connection() as conn:
        with pytest.raises(InvalidInput):
            await service.charges.page(conn, NIL, cursor, 10)


def test_the_name_of_a_charge_is_read_as_it_is_written() -> None:
    charge_id = ChargeId(UUID(int=1), UUID(int=2))
    assert ChargeId.parse(str(charge_id)) == charge_id
    for text in ("", ".", str(UUID(int=1)), f"{charge_id}.", f"{UUID(int=1)}.x", "a.b"):
        with pytest.raises(InvalidInput) as refused:
            ChargeId.parse(text, "id")
        assert refused.value.field == "id"


# Usage


AS_STORED: dict[str, object] = {
    "type": "graduated",
    "tiers": [
        {"up_to": "10", "amount": "0.01", "per": "1", "flat": "0"},
        {"up_to": "100", "amount": "0.007", "per": "1", "flat": "1"},
        {"up_to": None, "amount": "1", "per": "3", "flat": "0"},
    ],
}
"""The third of ``MODELS``, with everything that it leaves out."""


async def test_usage_is_the_totals_of_the_months_asked_for(service: Service) -> None:
    await put_meter(service, Meter("tokens", unit="token", name="Tokens"))
    prices = await create_price(service, model=MODELS[3], quantum=Decimal("0.01"))
    for month in (1, 2, 3):
        await submit(service, measurement(value=60, at=datetime(2026, month, 10, tzinfo=UTC)))
        await submit(service, measurement(value=-10, at=datetime(2026, month, 20, tzinfo=UTC)))
    february, march = date(2026, 2, 1), date(2026, 3, 1)
    lines = await usage(service, february, march)
    assert [line.period for line in lines] == [february, march]
    assert lines[0] == Usage(
        february,
        "tokens",
        "",
        "Tokens",
        "token",
        next(iter(prices)),
        AS_STORED,
        quantity=Decimal(50),
        measurements=2,
        asset="CREDIT",
        amount=1_380_000,  # 10 x 0.01 + 40 x 0.007 + 1
    )
    assert await usage(service, date(2026, 4, 1), date(2026, 4, 1)) == []


async def test_usage_without_a_price_is_a_line_of_its_own_until_it_has_one(service: Service) -> None:
    march = date(2026, 3, 1)
    await submit(service, measurement(value=3), measurement(value=4, kind="large"))
    lines = await usage(service, march, march)
    assert [(line.kind, line.price_id, line.asset, line.amount, line.quantity) for line in lines] == [
        ("", None, None, None, Decimal(3)),
        ("large", None, None, None, Decimal(4)),
    ]
    prices = await create_price(service)
    lines = await usage(service, march, march)
    assert [(line.kind, line.price_id, line.amount) for line in lines] == [
        ("", *prices, 6_000_000),
        ("large", None, None),
    ]


async def test_each_price_of_a_month_has_a_line(service: Service) -> None:
    await create_price(service)
    await create_price(service, model={"type": "per_unit", "amount": "5"}, since=MARCH, asset="USD")
    await submit(service, measurement(value=1, at=MARCH - HOUR), measurement(value=1, at=MARCH))
    lines = await usage(service, date(2026, 3, 1), date(2026, 3, 1))
    assert [(line.asset, line.amount) for line in lines] == [("CREDIT", 2_000_000), ("USD", 5_000_000)]


# History


@pytest.mark.parametrize("policy", ["postpaid", "prepaid"])
async def test_history_tells_what_was_left_and_used_after_each_charge(service: Service, policy: str) -> None:
    """A grant of 10, and charges of 2, 4, 6 and 8, the last two of them in one transaction, beyond what there is."""
    await put_meter(service, Meter("tokens", name="Tokens"))
    await create_price(service)
    await create_customer(service, "ada", credit_policy=policy)  # type: ignore[arg-type]
    await grant(service, "ada", 10_000_000)
    for values in ((1,), (2,), (4, 3)):
        await submit(service, *(measurement(value=value, at=MARCH + HOUR * value) for value in values))

    points = await history(service)

    assert [point.at for point in points] == [MARCH + HOUR * number for number in (4, 3, 2, 1)]
    assert [point.left for point in points] == [-10_000_000, -2_000_000, 4_000_000, 8_000_000]
    assert [point.used for point in points] == [20_000_000, 12_000_000, 6_000_000, 2_000_000]
    assert {point.meter_name for point in points} == {"Tokens"}
    assert await history(service, since=MARCH + HOUR * 2, until=MARCH + HOUR * 3) == points[1:3]


async def test_history_leaves_out_what_cost_nothing_and_other_assets(service: Service) -> None:
    await create_price(service, "tokens")
    await create_price(service, "disk", asset="USD")
    await submit(service, measurement(value=0), measurement(value=1), measurement(value=2, meter="disk"))
    assert [(point.left, point.meter_name) for point in await history(service)] == [(-2_000_000, "tokens")]
    assert [(point.left, point.meter_name) for point in await history(service, ledger=DOLLARS)] == [
        (-4_000_000, "disk")
    ]


async def test_history_of_who_is_paid_for_tells_what_the_payer_has_left(service: Service) -> None:
    await create_price(service)
    await create_customer(service, "org")
    for key in ("left", "right"):
        await create_customer(service, key, payer="org")
    await grant(service, "org", 10_000_000)
    await submit(service, measurement("left", 1))
    await submit(service, measurement("right", 2))
    await submit(service, measurement("left", 1, at=MARCH + HOUR))
    assert [(point.left, point.used) for point in await history(service, "left")] == [
        (2_000_000, 4_000_000),
        (8_000_000, 2_000_000),
    ]


async def test_a_customer_has_a_history_once_something_cost_something(service: Service) -> None:
    await create_price(service)
    await submit(service, measurement(value=0), measurement(meter="without a price"))
    async with service.pool.connection() as conn:
        assert not await service.charges.any(conn, await customer_id(service))
    await submit(service, measurement())
    async with service.pool.connection() as conn:
        assert await service.charges.any(conn, await customer_id(service))
