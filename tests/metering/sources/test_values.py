from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.metering.sources.values import (
    MAX_DECIMAL_PLACES,
    MAX_INTEGER_DIGITS,
    InvalidValue,
    check_unit_price,
    check_value,
    parse_value,
)
from tallystick.pricing.functions import MAX_PRICE


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("0e5", "0"),
        ("0e-99", "0"),
        ("17", "17"),
        ("-17", "-17"),
        ("007", "7"),
        ("12.50", "12.50"),
        ("1.", "1"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("1E3", "1000"),
        ("1.5e+2", "150"),
        ("1.e+2", "100"),
        ("25e-1", "2.5"),
        ("1e-30", f"0.{'0' * 29}1"),
        ("9" * 18, "9" * 18),
        (f"{'9' * 18}.{'9' * 30}", f"{'9' * 18}.{'9' * 30}"),
        (f"{'0' * 40}1.5", "1.5"),
        ("0.1", "0.1"),
    ],
)
def test_numbers_are_read_exactly_and_come_out_plain(text: str, plain: str):
    value = parse_value(text)
    assert format(value, "f") == plain
    assert value.as_tuple().exponent <= 0  # type: ignore[operator]
    assert not value.is_signed() or value < 0


SPELLINGS = ["", "-", ".", "e5", "1e", "1e+", "+1", " 1", "1 ", "1\n", "1_000", "1,5", "0x10", "1.2.3", "--1", "1e1.5"]
OTHER_DIGITS = ["\u0661", "\uff11", "1\u00b2"]  # Arabic-Indic and fullwidth one, superscript two
NO_NUMBERS = ["NaN", "nan", "sNaN", "NaN123", "Infinity", "-inf", "true", "null", "1\0"]
TOO_GREAT = ["9" * 19, "1e18", "-1e18", "1e999999", "-1e999999", "1e99999999999999999999"]
TOO_FINE = ["1e-31", f"1.{'0' * 31}", f"0.{'0' * 30}1", "1e-999999", "1e-99999999999999999999"]
TOO_LONG = [pytest.param(digit * count, id=f"{count} times {digit}") for digit in "01" for count in (101, 10_000_000)]


@pytest.mark.parametrize("text", [*SPELLINGS, *OTHER_DIGITS, *NO_NUMBERS, *TOO_GREAT, *TOO_FINE, *TOO_LONG])
def test_what_is_no_plain_number_of_this_size_is_refused(text: str):
    with pytest.raises(InvalidValue) as refusal:
        parse_value(text, "data.value")
    assert refusal.value.code == "invalid_value"
    assert refusal.value.field == "data.value"
    assert refusal.value.detail == (
        "data.value must be a finite decimal number of at most 18 digits before and 30 after the decimal point"
    )


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_any_decimal_is_kept_exactly_or_refused(value: Decimal):
    try:
        checked = check_value(value)
    except InvalidValue:
        places = -int(value.as_tuple().exponent)
        assert value.adjusted() >= MAX_INTEGER_DIGITS or places > MAX_DECIMAL_PLACES
    else:
        assert checked == value
        assert -MAX_DECIMAL_PLACES <= int(checked.as_tuple().exponent) <= 0


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1E+999999")])
def test_values_that_are_not_finite_or_not_small_are_refused(value: Decimal):
    with pytest.raises(InvalidValue):
        check_value(value)


@given(st.decimals(-(10**13), 10**13, places=MAX_DECIMAL_PLACES) | st.sampled_from([MAX_PRICE, -MAX_PRICE]))
@example(MAX_PRICE + Decimal("1e-15"))
@example(Decimal(f"1000000000000.{'0' * 29}1"))  # more digits than a Decimal's own arithmetic looks at
def test_a_unit_price_ends_where_every_price_does(price: Decimal):
    if -(10**12) <= Fraction(price) <= 10**12:
        assert check_unit_price(price) is price
    else:
        with pytest.raises(InvalidValue) as refusal:
            check_unit_price(price)
        assert refusal.value.field == "unit_price"
        assert refusal.value.detail == "unit_price must be from -1000000000000 to 1000000000000"
