"""The largest, the smallest and the strangest that readers let through: counted exactly, and kept as it is."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import httpx
import msgspec
import pytest

from tallystick.metering.model import Meter
from tallystick.metering.sources.values import EARLIEST, LATEST, MAX_DECIMAL_PLACES, MAX_INTEGER_DIGITS
from tallystick.pricing.functions import MAX_PRICE
from tallystick.service import Service
from tallystick.web.app import create_app
from tests.metering.books import (
    COUNTING,
    DYNAMIC,
    MARCH,
    MODELS,
    assert_books_agree,
    assert_books_hold,
    balance,
    charged,
    create_customer,
    create_price,
    fetch,
    measurement,
    put_meter,
    submit,
)
from tests.metering.reference import Accountant

EXTREMES = [
    Decimal("999999999999999999"),
    Decimal("-999999999999999999"),
    Decimal("0." + "9" * 30),
    Decimal("-999999999999999999." + "9" * 30),
    Decimal("0.000000000000000000000000000001"),
    Decimal(0),
]


async def test_the_largest_and_smallest_values_are_counted_exactly_under_every_price(service: Service) -> None:
    accountant = Accountant()
    for number, (meter, model) in enumerate(product(COUNTING, MODELS)):
        accountant.meters[str(number)] = await put_meter(service, msgspec.structs.replace(meter, key=str(number)))
        accountant.prices |= await create_price(service, str(number), model)
    for extremes in (EXTREMES, EXTREMES[::-1]):
        sent = [
            measurement(value=value, meter=meter, at=MARCH + timedelta(seconds=second), unit_price=MAX_PRICE)
            for second, value in enumerate(extremes)
            for meter in accountant.meters
        ]
        receipt = await submit(service, *sent)
        assert (receipt.accepted, receipt.unpriced) == (accountant.record(sent), 0)
    await assert_books_agree(service, accountant, {"ada": "ada"})


@pytest.mark.parametrize("sign", [1, -1], ids=["charged", "given back"])
async def test_the_largest_value_at_the_largest_unit_price_is_charged_exactly(service: Service, sign: int) -> None:
    """Through the door: 10^36 microunits fit, and a price beyond the bound stops only the event that brought it."""
    await create_price(service, "calls", DYNAMIC)
    largest = "9" * MAX_INTEGER_DIGITS + "." + "9" * MAX_DECIMAL_PLACES
    unit_prices = [str(sign * price) for price in (MAX_PRICE, MAX_PRICE + 1)]
    events = [
        {"id": price, "subject": "ada", "type": "calls", "data": {"value": largest, "unit_price": price}}
        for price in unit_prices
    ]
    books = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=books, base_url="http://books") as client:
        answer = await client.post("/api/v1/events", json=events)
    assert answer.status_code == 200, answer.text
    recorded = answer.json()
    assert (recorded["accepted"], recorded["unpriced"]) == (1, 0)
    (rejected,) = recorded["rejected"]
    assert (rejected["index"], rejected["code"]) == (1, "invalid_value")
    due = sign * 10**36  # 10^18 - 10^-30 units at 10^12, rounded to the microunit
    assert await charged(service, "ada") == due
    assert (await balance(service, "ada")).used == due
    await assert_books_hold(service)


async def test_a_charge_has_no_upper_bound(service: Service) -> None:
    """10^17 units at 10^12 are 10^29 credits: beyond 64 bits, and beyond what one instruction may move."""
    await create_price(service, model={"type": "per_unit", "amount": "1000000000000", "per": "1"})
    await create_customer(service, "prepaid", credit_policy="prepaid")
    books = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=books, base_url="http://books") as client:

        async def ask(path: str, document: object = None) -> Any:
            response = await (client.get(path) if document is None else client.post(path, json=document))
            assert response.status_code == 200, response.text
            return response.json(parse_float=Decimal)

        for customer in ("ada", "prepaid"):
            data = {"value": 10**17}
            event = {"id": "1", "subject": customer, "type": "tokens", "time": MARCH.isoformat(), "data": data}
            assert (await ask("/api/v1/events", event))["accepted"] == 1
            (standing,) = (await ask(f"/api/v1/customers/{customer}"))["balances"]
            assert (standing["used"], standing["balance"]) == (str(10**29), str(-(10**29)))
            assert (await ask("/api/v1/balance", {"user_id": customer}))["balance"] == -(10**29)
            bill = await ask(f"/api/v1/customers/{customer}/bill?month=2026-03")
            assert bill["totals"] == [{"asset": "CREDIT", "amount": str(10**29)}]
            (charge,) = (await ask(f"/api/v1/customers/{customer}/charges"))["items"]
            assert (charge["value"], charge["amount"]) == (str(10**17), str(10**29))
            assert (await ask(f"/api/v1/charges/{charge['id']}"))["amount"] == str(10**29)
        assert (await ask("/api/v1/verify"))["holds"]


TEXTS = (
    "x" * 256,
    "\t\n\r\v\\",
    "\\N",
    "\\.",
    "'; drop table customers; --",
    "{a,b}",
    '"',
    "%s",
    "\U0001d504\u202e\ufffe",
    " a ",
)


async def test_any_text_that_a_reader_lets_through_is_kept_as_it_is(service: Service) -> None:
    for text in TEXTS:
        await put_meter(service, Meter(text, "gauge", "max", name=text, unit=text, description=text))
        sent = measurement(text, 2, meter=text, sender_id=text, source=text, kind=text, resource=text, agent=text)
        assert (await submit(service, sent)).accepted == 1
        assert (await submit(service, sent)).duplicates == 1
    rows = await fetch(
        service,
        "select c.key, s.meter, m.sender_id, s.source, s.kind, s.resource, s.agent from measurements as m"
        " join series as s on s.customer_id = m.customer_id and s.id = m.series_id"
        " join customers as c on c.id = m.customer_id",
    )
    assert sorted(rows) == sorted((text,) * 7 for text in TEXTS)


async def test_any_instant_that_a_reader_lets_through_is_recorded(service: Service) -> None:
    instants = [EARLIEST, LATEST - timedelta(microseconds=1)]
    assert (await submit(service, *(measurement(at=at) for at in instants))).accepted == 2
    assert await fetch(service, "select at from measurements order by at") == [(at,) for at in instants]
