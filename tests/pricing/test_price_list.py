"""Which price is in force, and which time is charged already, against looking at every instant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.ids import NIL
from tallystick.pricing.functions import PerUnit
from tallystick.pricing.model import Price, PriceList

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 8
ADA, BOB = UUID(int=1), UUID(int=2)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def price(owner: UUID | None, number: int) -> Price:
    name = UUID(int=(owner or NIL).int * 100 + number)
    return Price(name, "m", "k", owner, day(number), "CREDIT", 1, Decimal("0.000001"), PerUnit(Decimal(1)), START)


owners = st.sampled_from([None, ADA, BOB])
days = st.integers(0, DAYS)
price_lists = st.sets(st.tuples(owners, days), max_size=8).map(
    lambda starts: PriceList([price(owner, number) for owner, number in starts])
)


@given(price_lists, owners, days, days)
def test_what_has_charged_is_what_was_in_force_on_any_day_that_a_new_price_would_have(
    prices: PriceList, owner: UUID | None, since: int, now: int
) -> None:
    own_starts = [one.effective_from for one in prices.prices if one.customer_id == owner]
    end = min([day(now), *(start for start in own_starts if start > day(since))])
    had = [
        prices.at("m", "k", owner or NIL, day(number)).price for number in range(since, DAYS + 1) if day(number) < end
    ]
    assert prices.has_charged("m", "k", owner, day(since), day(now)) is any(had)


def test_prices_of_other_meters_and_kinds_do_not_count() -> None:
    prices = PriceList([price(None, 0)])
    assert prices.has_charged("m", "k", None, day(1), day(2))
    assert not prices.has_charged("m", "other", None, day(1), day(2))
    assert not prices.has_charged("other", "k", None, day(1), day(2))
