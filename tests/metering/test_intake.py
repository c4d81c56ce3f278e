"""Intake on a real database: however usage comes, it is counted and charged once, and to the microcredit."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.metering.model import Measurement, Meter, Unreadable
from tallystick.service import Service
from tests.metering.books import (
    ALWAYS,
    CREDITS,
    DYNAMIC,
    MARCH,
    MICRO,
    PER_UNIT,
    assert_books_agree,
    assert_books_hold,
    balance,
    batch,
    charged,
    create_customer,
    create_price,
    fetch,
    fresh,
    grant,
    measurement,
    put_meter,
    quantity,
    submit,
    waiting,
)
from tests.metering.conftest import StartService
from tests.metering.reference import NEW_YORK, Accountant, cost

MODELS = (
    {"type": "per_unit", "amount": "1000000", "per": "730"},
    {"type": "per_unit", "amount": "0.3", "per": "1024", "free": "10"},
    {"type": "package", "amount": "5", "size": "7.5"},
    {
        "type": "graduated",
        "tiers": [
            {"up_to": "10", "amount": "0.01"},
            {"up_to": "100", "amount": "0.007", "flat": "1"},
            {"up_to": None, "amount": "1", "per": "3"},
        ],
    },
    {
        "type": "volume",
        "tiers": [{"up_to": "20", "amount": "3"}, {"up_to": "200", "amount": "0.5"}, {"up_to": None, "amount": "0.001"}],
    },
    {"type": "dynamic"},
)
QUANTA = (MICRO, Decimal("0.01"), Decimal("2.5"))
COUNTING = (
    Meter("", "delta"),
    Meter("", "counter"),
    Meter("", "counter", on_drop="from_zero"),
    Meter("", "gauge"),
    Meter("", "gauge", "max"),
    Meter("", "gauge", "latest"),
    Meter("", "delta", "unique"),
)

# Where months and daylight saving begin and end in New York, and a little before.
EDGES = [
    datetime(2026, 3, 1, 5, tzinfo=UTC),
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 4, 1, 4, tzinfo=UTC),
    datetime(2026, 11, 1, 4, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 12, 1, 5, tzinfo=UTC),
]
instants = st.builds(
    lambda edge, microseconds: edge + timedelta(microseconds=microseconds),
    st.sampled_from(EDGES),
    st.sampled_from([-3_600_000_000, -1, 0, 1, 3_600_000_000]) | st.integers(0, 27 * 86_400_000_000),
)
values = (
    st.integers(-50, 300).map(Decimal)
    | st.decimals("-50", "300", places=3)
    | st.sampled_from([Decimal("999999999999999999"), Decimal("0." + "3" * 30), Decimal("-999999999999999999")])
)
few = settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


# Any usage, any prices, any order


@dataclass(frozen=True)
class Story:
    """What happens, one after the other: a list of measurements is a batch, a number says which price is created."""

    meters: list[Meter]
    payers: list[tuple[int | None, str]]
    prices: list[tuple[int, str, int | None, datetime, int, int, str]]
    happenings: list[list[Measurement] | int]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Customers and meters are numbered; where ``happenings`` name them, the test puts in keys never used before."""
    meters = draw(st.lists(st.sampled_from(COUNTING), min_size=1, max_size=4))
    payers: list[tuple[int | None, str]] = [(None, draw(st.sampled_from(["postpaid", "prepaid"])))]
    for number in range(1, draw(st.integers(1, 3))):
        payers.append((draw(st.none() | st.integers(0, number - 1)), draw(st.sampled_from(["postpaid", "prepaid"]))))
    numbers = st.integers(0, len(meters) - 1)
    kinds = st.sampled_from(["", "large"])
    prices = draw(
        st.lists(
            st.tuples(
                numbers,
                kinds,
                st.none() | st.integers(0, len(payers) - 1),
                st.sampled_from([ALWAYS, *EDGES]),
                st.integers(0, len(MODELS) - 1),
                st.integers(0, len(QUANTA) - 1),
                st.sampled_from(["CREDIT", "CREDIT", "USD"]),
            ),
            max_size=6,
            unique_by=lambda price: price[:4],
        )
    )
    measurements = st.builds(
        Measurement,
        source=st.sampled_from(["events:a", "events:b"]),
        sender_id=st.integers(1, 20).map(str),
        customer=st.integers(0, len(payers) - 1).map(str),
        meter=numbers.map(str),
        at=instants,
        value=values,
        kind=kinds,
        resource=st.sampled_from(["", "vm"]),
        agent=st.sampled_from(["", "bot"]),
        unit_price=st.none() | st.decimals("0", "9", places=4),
    )
    batches: list[list[Measurement] | int] = list(draw(st.lists(st.lists(measurements, max_size=12), max_size=5)))
    again = [draw(st.sampled_from(batches)) for _ in range(draw(st.integers(0, 2)) if batches else 0)]
    return Story(meters, payers, prices, draw(st.permutations([*batches, *again, *range(len(prices))])))


@few
@given(story=stories())
async def test_books_are_those_of_an_accountant_with_a_pencil(service: Service, story: Story) -> None:
    accountant, name = Accountant(), fresh("c")
    for number, meter in enumerate(story.meters):
        meter = msgspec.structs.replace(meter, key=f"{name}-meter-{number}")
        accountant.meters[meter.key] = await put_meter(service, meter)
    payers: dict[str, str] = {}
    for number, (paid_by, policy) in enumerate(story.payers):
        payer = None if paid_by is None else f"{name}-{paid_by}"
        await create_customer(service, f"{name}-{number}", payer=payer, credit_policy=policy)  # type: ignore[arg-type]
        await grant(service, f"{name}-{number}", 100_000_000)
        payers[f"{name}-{number}"] = payer or f"{name}-{number}"

    for happening in story.happenings:
        if isinstance(happening, int):
            meter_number, kind, customer, since, model, quantum, asset = story.prices[happening]
            price, new = await create_price(
                service,
                f"{name}-meter-{meter_number}",
                MODELS[model],
                kind=kind,
                customer=None if customer is None else f"{name}-{customer}",
                since=since,
                asset=asset,
                quantum=QUANTA[quantum],
                settle=False,
            )
            accountant.prices[price.id] = new
            assert await service.settlement.settle() == accountant.settle()
            continue
        sent = [
            msgspec.structs.replace(m, customer=f"{name}-{m.customer}", meter=f"{name}-meter-{m.meter}")
            for m in happening
        ]
        receipt = await service.intake.submit(batch(sent))
        assert receipt.accepted == accountant.record(sent)
        assert receipt.accepted + receipt.duplicates == len(sent)

    await assert_books_agree(service, accountant, payers)
    await assert_books_hold(service)


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[Measurement], list[list[Measurement]]]:
    """Deltas with ids of their own, and batches in which each of them is sent at least once, in any order."""
    events = [
        measurement("", value, at=at, sender_id=str(number), kind=kind)
        for number, (value, at, kind) in enumerate(
            draw(st.lists(st.tuples(values, instants, st.sampled_from(["", "large"])), min_size=1, max_size=25))
        )
    ]
    again = draw(st.lists(st.sampled_from(events), max_size=8))
    sent = draw(st.permutations(events + again))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    return events, [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


@few
@given(drawn=orders(), model=st.sampled_from(MODELS[:5]), quantum=st.sampled_from(QUANTA), prepaid=st.booleans())
async def test_delta_totals_depend_neither_on_order_nor_on_batches_nor_on_resends(
    service: Service, drawn: tuple[list[Measurement], list[list[Measurement]]], model: dict[str, object], quantum: Decimal, prepaid: bool
) -> None:
    events, batches = drawn
    customer, meter = fresh("c"), fresh("meter")
    await create_customer(service, customer, credit_policy="prepaid" if prepaid else "postpaid")
    await create_price(service, meter, model, quantum=quantum)
    receipts = [
        await submit(service, *(msgspec.structs.replace(m, customer=customer, meter=meter) for m in part))
        for part in batches
    ]

    assert sum(receipt.accepted for receipt in receipts) == len(events)
    assert sum(receipt.duplicates for receipt in receipts) == sum(map(len, batches)) - len(events)
    months: dict[str, Fraction] = {}
    for event in events:
        if not event.kind:  # the other kind has no price
            month = f"{event.at.astimezone(NEW_YORK):%Y-%m}"
            months[month] = months.get(month, Fraction(0)) + Fraction(event.value)
    expected = sum(cost(model, quantum, total) for total in months.values())
    standing = await balance(service, customer)
    assert await charged(service, customer) == expected
    assert (standing.used, standing.balance) == (expected, -expected)
    assert not prepaid or standing.wallet == max(0, -expected)
    assert await quantity(service, customer) == sum(Fraction(event.value) for event in events)
