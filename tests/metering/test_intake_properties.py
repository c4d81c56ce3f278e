"""Any usage under any prices, in any order and any batches: the books are those of an accountant with a pencil."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from operator import itemgetter
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.ledger.wallets import CreditPolicy
from tallystick.metering.model import Measurement, Meter
from tallystick.service import Service
from tests.metering.books import (
    ALWAYS,
    COUNTING,
    MODELS,
    QUANTA,
    assert_books_agree,
    assert_books_hold,
    balance,
    charged,
    create_customer,
    create_price,
    grant,
    measurement,
    put_meter,
    quantity,
    start_over,
    submit,
)
from tests.metering.reference import NEW_YORK, Accountant, cost

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
policies: st.SearchStrategy[CreditPolicy] = st.sampled_from(["postpaid", "prepaid"])
kinds = st.sampled_from(["", "large"])
few = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Story:
    """What happens, one after the other: a list of measurements is a batch, a number says which price is created."""

    meters: list[Meter]
    customers: list[tuple[str | None, CreditPolicy]]
    prices: list[dict[str, Any]]
    happenings: list[list[Measurement] | int]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Meters and customers have their places as keys; customers are given by payer and policy."""
    counting = draw(st.lists(st.sampled_from(COUNTING), min_size=1, max_size=4))
    customers: list[tuple[str | None, CreditPolicy]] = [(None, draw(policies))]
    for _ in range(draw(st.integers(0, 3))):
        payers = [str(place) for place, (payer, _) in enumerate(customers) if payer is None]
        customers.append((draw(st.none() | st.sampled_from(payers)), draw(policies)))
    meter_keys = st.integers(0, len(counting) - 1).map(str)
    customer_keys = st.integers(0, len(customers) - 1).map(str)
    price = st.fixed_dictionaries(
        {
            "meter": meter_keys,
            "kind": kinds,
            "customer": st.none() | customer_keys,
            "since": st.sampled_from([ALWAYS, *EDGES]),
            "model": st.sampled_from(MODELS),
            "quantum": st.sampled_from(QUANTA),
            "asset": st.sampled_from(["CREDIT", "CREDIT", "USD"]),
        }
    )
    one_start = itemgetter("meter", "kind", "customer", "since")
    prices = draw(st.lists(price, min_size=1, max_size=6, unique_by=one_start))
    measurements = st.builds(
        Measurement,
        source=st.sampled_from(["events:a", "events:b"]),
        sender_id=st.integers(1, 20).map(str),
        customer=customer_keys,
        meter=meter_keys,
        at=instants,
        value=values,
        kind=kinds,
        resource=st.sampled_from(["", "vm"]),
        agent=st.sampled_from(["", "bot"]),
        unit_price=st.none() | st.decimals("0", "9", places=4),
    )
    batches: list[list[Measurement] | int] = list(
        draw(st.lists(st.lists(measurements, min_size=2, max_size=15), min_size=2, max_size=6))
    )
    again = [draw(st.sampled_from(batches)) for _ in range(draw(st.integers(0, 2)))]
    return Story(counting, customers, prices, draw(st.permutations([*batches, *again, *range(len(prices))])))


@few
@given(story=stories())
async def test_books_are_those_of_an_accountant_with_a_pencil(service: Service, story: Story) -> None:
    await start_over(service)
    accountant = Accountant()
    for number, meter in enumerate(story.meters):
        accountant.meters[str(number)] = await put_meter(service, msgspec.structs.replace(meter, key=str(number)))
    payers: dict[str, str] = {}
    for number, (paid_by, policy) in enumerate(story.customers):
        await create_customer(service, str(number), payer=paid_by, credit_policy=policy)
        await grant(service, str(number), 100_000_000)
        payers[str(number)] = paid_by or str(number)

    for happening in story.happenings:
        if isinstance(happening, int):
            accountant.prices |= await create_price(service, **story.prices[happening], settle=False)
            assert await service.settlement.settle() == accountant.settle()
        else:
            receipt = await submit(service, *happening)
            assert receipt.accepted == accountant.record(happening)
            assert receipt.accepted + receipt.duplicates == len(happening)

    await assert_books_agree(service, accountant, payers)
    await assert_books_hold(service)


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[Measurement], list[list[Measurement]]]:
    """Deltas with ids of their own, and batches in which each of them is sent at least once, in any order."""
    events = [
        measurement(value=value, at=at, sender_id=str(number), kind=kind)
        for number, (value, at, kind) in enumerate(
            draw(st.lists(st.tuples(values, instants, kinds), min_size=4, max_size=30))
        )
    ]
    again = draw(st.lists(st.sampled_from(events), max_size=8))
    sent = draw(st.permutations(events + again))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    return events, [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


@few
@given(drawn=orders(), model=st.sampled_from(MODELS[:5]), quantum=st.sampled_from(QUANTA), policy=policies)
async def test_delta_totals_depend_neither_on_order_nor_on_batches_nor_on_resends(
    service: Service,
    drawn: tuple[list[Measurement], list[list[Measurement]]],
    model: dict[str, Any],
    quantum: Decimal,
    policy: CreditPolicy,
) -> None:
    await start_over(service)
    await create_customer(service, "ada", credit_policy=policy)
    await create_price(service, model=model, quantum=quantum)
    events, batches = drawn
    receipts = [await submit(service, *part) for part in batches]

    assert sum(receipt.accepted for receipt in receipts) == len(events)
    assert sum(receipt.duplicates for receipt in receipts) == sum(map(len, batches)) - len(events)
    months: dict[str, Fraction] = {}
    for event in events:
        if not event.kind:  # the other kind has no price
            month = f"{event.at.astimezone(NEW_YORK):%Y-%m}"
            months[month] = months.get(month, Fraction(0)) + Fraction(event.value)
    due = sum(cost(model, quantum, total) for total in months.values())
    standing = await balance(service, "ada")
    assert await charged(service, "ada") == due
    assert (standing.used, standing.balance) == (due, -due)
    assert policy == "postpaid" or standing.wallet == max(0, -due)
    assert await quantity(service, "ada") == sum(Fraction(event.value) for event in events)
    await assert_books_hold(service)
