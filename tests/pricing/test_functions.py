from __future__ import annotations

from decimal import Decimal

import pytest

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import format_amount
from tallystick.pricing.functions import Dynamic, Package, PerUnit, describe, parse_model, parse_quantum, price_function

MICRO = Decimal("0.000001")
CENT = Decimal("0.01")
PER_730 = {"type": "per_unit", "amount": "1", "per": "730"}
GRADUATED = {"type": "graduated", "tiers": [{"up_to": "100"}, {"up_to": None, "amount": "0.07"}]}
VOLUME = {"type": "volume", "tiers": [{"up_to": "100", "amount": "0.1"}, {"up_to": None, "amount": "0.07"}]}
FLATS = [
    {"up_to": "100", "amount": "0.1", "flat": "2"},
    {"up_to": "200", "amount": "0.07", "flat": "3"},
    {"up_to": None, "amount": "0.01"},
]


def price(model: object, total: str, quantum: Decimal = MICRO) -> str:
    return format_amount(price_function(parse_model(model), quantum)(Decimal(total)))


# Examples: figures that can be checked by hand


def test_a_month_of_hourly_readings_costs_exactly_the_monthly_price():
    due = price_function(parse_model(PER_730), MICRO)
    charges = [due(Decimal(hour + 1)) - due(Decimal(hour)) for hour in range(730)]
    assert sum(charges) == 1_000_000
    assert set(charges) == {1369, 1370}


@pytest.mark.parametrize(
    ("amount", "per", "tokens", "due"),
    [
        ("0.00125", "1000", "1000", "0.00125"),
        ("0.00125", "1000", "1", "0.000001"),
        ("0.00125", "1000", "0.4", "0"),  # 0.0000005: the tie goes to the even microcredit
        ("0.00125", "1000", "1.2", "0.000002"),  # 0.0000015
        ("3", "1000000", "123456", "0.370368"),
        ("0.002", "1000", "-1000", "-0.002"),
    ],
)
def test_rates_of_ai_models(amount: str, per: str, tokens: str, due: str):
    assert price({"type": "per_unit", "amount": amount, "per": per}, tokens) == due


@pytest.mark.parametrize(
    ("total", "due"),
    [
        ("0.005", "0"),
        ("0.0050000001", "0.01"),
        ("0.015", "0.02"),
        ("0.025", "0.02"),
        ("-0.005", "0"),
        ("-0.015", "-0.02"),
    ],
)
def test_ties_go_to_the_even_multiple_of_the_quantum(total: str, due: str):
    assert price({"type": "dynamic"}, total, CENT) == due
    assert price({"type": "per_unit", "amount": "1"}, total, CENT) == due


@pytest.mark.parametrize(
    ("quantum", "total", "due"),
    [("0.25", "0.375", "0.5"), ("0.25", "0.125", "0"), ("100", "150", "200"), ("100", "250", "200"), ("3", "4.6", "6")],
)
def test_a_quantum_can_be_any_number_of_microcredits(quantum: str, total: str, due: str):
    assert price({"type": "dynamic"}, total, parse_quantum(quantum)) == due


@pytest.mark.parametrize(
    ("total", "due"),
    [("0", "0"), ("0.001", "5"), ("1000", "5"), ("1000.0001", "10"), ("1001", "10"), ("-0.5", "0"), ("-1000", "-5")],
)
def test_every_started_package_is_due(total: str, due: str):
    assert price({"type": "package", "amount": "5", "size": "1000"}, total) == due


@pytest.mark.parametrize(
    ("total", "per_unit", "package"),
    [("-50", "0", "0"), ("100", "0", "0"), ("100.5", "0.5", "7"), ("110", "10", "7"), ("110.1", "10.1", "14")],
)
def test_an_allowance_is_free(total: str, per_unit: str, package: str):
    assert price({"type": "per_unit", "amount": "1", "free": "100"}, total) == per_unit
    assert price({"type": "package", "amount": "7", "size": "10", "free": "100"}, total) == package


@pytest.mark.parametrize(("total", "due"), [("100", "0"), ("100.0000001", "0"), ("100.0001", "0.000007"), ("200", "7")])
def test_a_tier_includes_its_end(total: str, due: str):
    assert price(GRADUATED, total) == due


@pytest.mark.parametrize(
    ("total", "graduated", "volume"),
    [
        ("-10", "-1", "-1"),
        ("0", "0", "0"),
        ("0.000001", "2", "2"),
        ("100", "12", "12"),
        ("100.0000001", "15", "10"),
        ("150", "18.5", "13.5"),
        ("200", "22", "17"),
        ("300", "23", "3"),
    ],
)
def test_flats_are_due_once_their_tier_is_entered(total: str, graduated: str, volume: str):
    assert price({"type": "graduated", "tiers": FLATS}, total) == graduated
    assert price({"type": "volume", "tiers": FLATS}, total) == volume


def test_a_volume_step_down_gives_money_back():
    due = price_function(parse_model(VOLUME), MICRO)
    assert due(Decimal("100.1")) - due(Decimal(100)) == -2_993_000


@pytest.mark.parametrize("total", ["1E+3", "1000", "1000.000", "0.1E4"])
def test_the_spelling_of_a_total_does_not_matter(total: str):
    assert price(PER_730, total) == "1.369863"


# Reading


def test_reading_gives_exact_values_and_defaults():
    assert parse_model({"type": "per_unit", "amount": 2}) == PerUnit(Decimal(2), Decimal(1), Decimal(0))
    assert parse_model({"type": "package", "amount": "1e-3", "size": Decimal("0.5")}) == Package(
        Decimal("0.001"), Decimal("0.5"), Decimal(0)
    )
    assert parse_model({"type": "dynamic"}) == Dynamic()


@pytest.mark.parametrize(
    ("model", "canonical"),
    [
        (PER_730, PER_730),
        (
            {"type": "per_unit", "amount": "1.50", "per": 1, "free": "1e2"},
            {"type": "per_unit", "amount": "1.5", "per": "1", "free": "100"},
        ),
        ({"type": "package", "amount": 5, "size": 1000, "free": 0}, {"type": "package", "amount": "5", "size": "1000"}),
        (
            GRADUATED,
            {
                "type": "graduated",
                "tiers": [
                    {"up_to": "100", "amount": "0", "per": "1", "flat": "0"},
                    {"up_to": None, "amount": "0.07", "per": "1", "flat": "0"},
                ],
            },
        ),
        ({"type": "dynamic"}, {"type": "dynamic"}),
    ],
)
def test_canonical_json(model: object, canonical: object):
    assert parse_model(model).as_json() == canonical


def tiered(*tiers: object) -> dict[str, object]:
    return {"type": "graduated", "tiers": list(tiers)}


END = {"up_to": None}
NUMBER = "must be a decimal number, written as a string or an integer"


@pytest.mark.parametrize(
    ("model", "field", "rule"),
    [
        (None, "model", "must be an object"),
        ([PER_730], "model", "must be an object"),
        ({}, "model.type", "must be one of per_unit, package, graduated, volume, dynamic"),
        ({"type": ["dynamic"]}, "model.type", "must be one of per_unit, package, graduated, volume, dynamic"),
        ({"type": "dynamic", "amount": "1"}, "model", "has an unknown key 'amount'"),
        ({"type": "dynamic", "\ud800\0" * 9000: 1}, "model", "has an unknown key '" + r"\ud800\x00" * 20 + "'"),
        ({"type": "per_unit"}, "model.amount", "is required"),
        ({"type": "package", "amount": "1"}, "model.size", "is required"),
        ({"type": "per_unit", "amount": 0.1}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": True}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": None}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": "NaN"}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": Decimal("Infinity")}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": "1e999999"}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": Decimal("1e-999999")}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": "1_000"}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": "\u0661"}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": " 1"}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": "1\n"}, "model.amount", NUMBER),
        ({"type": "per_unit", "amount": "-1"}, "model.amount", "must be at least 0"),
        ({"type": "per_unit", "amount": 10**5000}, "model.amount", "must be at most 1000000000000"),
        (
            {"type": "per_unit", "amount": "0.0000000000000000001"},
            "model.amount",
            "must have at most 18 decimal places",
        ),
        ({"type": "per_unit", "amount": "1", "per": "0"}, "model.per", "must be at least 0.000000000001"),
        ({"type": "per_unit", "amount": "1", "free": "-1"}, "model.free", "must be at least 0"),
        ({"type": "volume", "tiers": {}}, "model.tiers", "must be a list of 1 to 100 tiers"),
        (tiered(), "model.tiers", "must be a list of 1 to 100 tiers"),
        (tiered(*[END] * 101), "model.tiers", "must be a list of 1 to 100 tiers"),
        (tiered("x", END), "model.tiers[0]", "must be an object"),
        (tiered({"amount": "1"}), "model.tiers[0].up_to", "is required"),
        (tiered({"up_to": None, "size": "1"}), "model.tiers[0]", "has an unknown key 'size'"),
        (tiered({"up_to": "1"}), "model.tiers[0].up_to", "must be null, because the last tier has no end"),
        (tiered(END, END), "model.tiers[0].up_to", NUMBER),
        (tiered({"up_to": "0"}, END), "model.tiers[0].up_to", "must be greater than 0"),
        (tiered({"up_to": 5}, {"up_to": "5.0"}, END), "model.tiers[1].up_to", "must be greater than the tier before"),
        (tiered({"up_to": 5}, {"up_to": None, "flat": -1}), "model.tiers[1].flat", "must be at least 0"),
    ],
)
def test_a_refusal_names_the_path_and_the_rule(model: object, field: str, rule: str):
    with pytest.raises(InvalidInput) as caught:
        parse_model(model)
    assert (caught.value.field, caught.value.detail) == (field, f"{field} {rule}")


@pytest.mark.parametrize("value", ["0.000001", "0.25", 1, "1000000", Decimal("0.010")])
def test_a_quantum_is_a_multiple_of_a_microunit(value: object):
    assert parse_quantum(value) == Decimal(str(value))


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (0, "must be at least 0.000001"),
        ("-1", "must be at least 0.000001"),
        ("0.0000015", "must have at most 6 decimal places"),
        ("1000000.000001", "must be at most 1000000"),
        (0.01, NUMBER),
        (None, NUMBER),
    ],
)
def test_a_wrong_quantum_is_refused(value: object, rule: str):
    with pytest.raises(InvalidInput, match=rf"^price\.quantum {rule}$"):
        parse_quantum(value, "price.quantum")


# Explaining


@pytest.mark.parametrize(
    ("model", "before", "after", "lines"),
    [
        (
            PER_730,
            "730",
            "1460",
            [
                "F(730) = 730 x 1 / 730 = 1 CREDIT",
                "F(1460) = 1460 x 1 / 730 = 2 CREDIT",
                "charge = F(1460) - F(730) = 2 - 1 = 1 CREDIT",
            ],
        ),
        (
            PER_730,
            "-730",
            "1",
            [
                "F(-730) = -730 x 1 / 730 = -1 CREDIT",
                "F(1) = 1 x 1 / 730 = 0.001369863013…, rounded half to even to a multiple of 0.000001: 0.00137 CREDIT",
                "charge = F(1) - F(-730) = 0.00137 - (-1) = 1.00137 CREDIT",
            ],
        ),
        (
            {"type": "package", "amount": "5", "size": "1000", "free": "10"},
            "1000",
            "1011",
            [
                "F(1000) = ceil(max(0, 1000 - 10) / 1000) x 5 = ceil(990 / 1000) x 5 = 1 x 5 = 5 CREDIT",
                "F(1011) = ceil(max(0, 1011 - 10) / 1000) x 5 = ceil(1001 / 1000) x 5 = 2 x 5 = 10 CREDIT",
                "charge = F(1011) - F(1000) = 10 - 5 = 5 CREDIT",
            ],
        ),
        (
            {"type": "graduated", "tiers": FLATS},
            "0",
            "250",
            [
                "F(0) = 0 CREDIT",
                "tier 1 up to 100: 100 x 0.1 + flat 2 = 12",
                "tier 2 above 100 up to 200: 100 x 0.07 + flat 3 = 10",
                "tier 3 above 200: 50 x 0.01 = 0.5",
                "F(250) = 12 + 10 + 0.5 = 22.5 CREDIT",
                "charge = F(250) - F(0) = 22.5 - 0 = 22.5 CREDIT",
            ],
        ),
        (
            VOLUME,
            "-1",
            "101",
            [
                "below 0, at the unit price of tier 1: -1 x 0.1 = -0.1",
                "F(-1) = -0.1 CREDIT",
                "tier 2 above 100: 101 x 0.07 = 7.07",
                "F(101) = 7.07 CREDIT",
                "charge = F(101) - F(-1) = 7.07 - (-0.1) = 7.17 CREDIT",
            ],
        ),
    ],
)
def test_a_charge_is_described_for_a_pencil(model: object, before: str, after: str, lines: list[str]):
    assert describe(parse_model(model), MICRO, Decimal(before), Decimal(after), "CREDIT") == lines
