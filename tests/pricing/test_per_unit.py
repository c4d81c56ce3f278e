"""So many microcredits for so many units: as exact as any price, and read back as it was written."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.pricing.functions import PerUnit, parse_model, price_function
from tallystick.pricing.per_unit import MAX_MICROUNITS, MAX_UNITS, microunits_per_units, per_unit_price
from tests.pricing.test_functions_properties import MICRO, amounts, divisors

microunits = st.one_of(st.integers(0, MAX_MICROUNITS), st.sampled_from([0, 1, 7, 1_000_000, MAX_MICROUNITS]))
units = st.one_of(st.integers(1, MAX_UNITS), st.sampled_from([1, 2, 730, 10**6, MAX_UNITS]))


@given(microunits, units)
def test_a_price_is_read_back_as_it_was_written(cost: int, per: int) -> None:
    price = per_unit_price(cost, per)
    assert microunits_per_units(price) == (cost, per)
    assert parse_model(price.as_json()) == price


@given(microunits, units, st.integers(-(10**12), 10**12))
def test_a_total_costs_the_exact_quotient_rounded_once_half_to_even(cost: int, per: int, total: int) -> None:
    assert price_function(per_unit_price(cost, per), MICRO)(Decimal(total)) == round(Fraction(cost * total, per))


@given(amounts, divisors)
def test_whatever_a_price_per_unit_is_two_integers_say_it(amount: str, per: str) -> None:
    shown, units_shown = microunits_per_units(PerUnit(Decimal(amount), Decimal(per)))
    assert Fraction(shown, units_shown) == Fraction(amount) * 10**6 / Fraction(per)


def test_better_than_before_a_month_of_730_hours_costs_the_million_that_was_said() -> None:
    """[B]: theirs divided each hour without remainder, 730 times 1,369, and lost 630 microcredits a month."""
    price = price_function(per_unit_price(1_000_000, 730), MICRO)
    totals = [price(Decimal(hours)) for hours in range(731)]
    assert totals[-1] == 1_000_000
    assert {after - before for before, after in pairwise(totals)} == {1_369, 1_370}


@pytest.mark.parametrize(
    ("cost", "per", "total", "due"),
    [
        (1_000_000, 730, 1, 1_370),  # 1,369.86
        (7, 2, 1, 4),
        (7, 2, -1, -4),
        (5, 2, 1, 2),
        (5, 2, -1, -2),
        (7, 2, 2, 7),
    ],
)
def test_better_than_before_what_is_left_over_is_rounded_half_to_even_and_not_cut_off(
    cost: int, per: int, total: int, due: int
) -> None:
    """[B]: theirs cut it off, so that 1,000,000 for 730 came to 1,369, and -7 for 2 to -3."""
    assert price_function(per_unit_price(cost, per), MICRO)(Decimal(total)) == due
