from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import MAX_AMOUNT, MICROUNITS, format_amount, format_quantity, parse_amount

MOST = MAX_AMOUNT // MICROUNITS

amounts = st.integers(-MAX_AMOUNT, MAX_AMOUNT)
quantities = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**18), max_value=10**18)


# parse_amount


@given(amounts, st.integers(0, 6))
def test_what_is_formatted_is_parsed_to_the_same_amount(amount: int, places: int) -> None:
    assert parse_amount(format_amount(amount, places=places), signed=True) == amount


@given(amounts)
def test_every_spelling_of_an_amount_is_read_exactly(amount: int) -> None:
    number = Decimal(amount).scaleb(-6)
    spellings = (number, str(number), f"{number:f}", f"{number:e}", f"{number:f}000")
    assert {parse_amount(spelling, signed=True) for spelling in spellings} == {amount}


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("-0", 0),
        ("0e-99999", 0),
        ("99.75", 99_750_000),
        ("0.0028", 2_800),
        ("0.000001", 1),
        ("1e-6", 1),
        ("1.0000000000", 1_000_000),
        ("1." + "0" * 1000, 1_000_000),
        (str(MOST), MAX_AMOUNT),
        ("999999999999999.999999", MAX_AMOUNT - 1),
    ],
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_amount(text) == parse_amount(Decimal(text)) == amount


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must be a decimal number"),
        ("ten", "must be a decimal number"),
        ("1,5", "must be a decimal number"),
        ("0x10", "must be a decimal number"),
        ("1e9999999999999999999999", "must be a decimal number"),
        ("\ud800", "must be a decimal number"),
        ("NaN", "must be a finite number"),
        ("sNaN", "must be a finite number"),
        ("Infinity", "must be a finite number"),
        ("1e999999", "must not exceed 1000000000000000"),
        ("1000000000000000.000001", "must not exceed 1000000000000000"),
        ("-0.000001", "must not be negative"),
        ("0.0000001", "must have at most six decimal places"),
        ("1.0000005", "must have at most six decimal places"),
        ("1e-7", "must have at most six decimal places"),
        ("1e-999999", "must have at most six decimal places"),
        ("0." + "1" * 5000, "must have at most six decimal places"),
        ("1000000000000000.0000000000000000000000000001", "must have at most six decimal places"),
    ],
)
def test_what_is_no_amount_is_refused_with_field_and_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_amount(text, "initial_balance")
    assert str(refused.value) == f"initial_balance {rule}"
    assert refused.value.field == "initial_balance"


@pytest.mark.parametrize("text", ["-1000000000000000.000001", "-1e31"])
def test_a_signed_amount_has_the_same_bound(text: str) -> None:
    assert parse_amount(f"-{MOST}", signed=True) == -MAX_AMOUNT
    with pytest.raises(InvalidInput, match="must not exceed"):
        parse_amount(text, signed=True)


@given(st.decimals(allow_nan=True, allow_infinity=True) | st.text(max_size=30))
def test_no_input_breaks_it(value: Decimal | str) -> None:
    try:
        amount = parse_amount(value, signed=True)
    except InvalidInput:
        return
    assert Decimal(amount) == Decimal(value).scaleb(6)


# format_amount


@pytest.mark.parametrize(
    ("amount", "places", "text"),
    [
        (0, 0, "0"),
        (0, 2, "0.00"),
        (1, 0, "0.000001"),
        (-1, 0, "-0.000001"),
        (200_000_000, 0, "200"),
        (200_000_000, 2, "200.00"),
        (99_750_000, 0, "99.75"),
        (99_500_000, 2, "99.50"),
        (2_800, 2, "0.0028"),
        (-1_500_000, 0, "-1.5"),
        (MAX_AMOUNT, 6, "1000000000000000.000000"),
    ],
)
def test_amounts_are_shown_exactly(amount: int, places: int, text: str) -> None:
    assert format_amount(amount, places=places) == text


# format_quantity


@given(quantities)
def test_a_quantity_is_shown_exactly_and_plainly(quantity: Decimal) -> None:
    text = format_quantity(quantity)
    assert Decimal(text) == quantity
    assert set(text) <= set("-.0123456789")
    assert "." not in text or text[-1] not in ".0"


@pytest.mark.parametrize(
    ("quantity", "text"),
    [("1E+3", "1000"), ("1.50", "1.5"), ("100", "100"), ("-0.00", "0"), ("0E-9", "0"), ("1E-7", "0.0000001")],
)
def test_quantities(quantity: str, text: str) -> None:
    assert format_quantity(Decimal(quantity)) == text
