from __future__ import annotations

import math
import re
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import format_amount
from tallystick.pricing.functions import (
    Dynamic,
    Model,
    Package,
    PerUnit,
    describe,
    parse_model,
    parse_quantum,
    price_function,
)

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


# Properties


def decimals(lowest: str, highest: str, places: int) -> st.SearchStrategy[Decimal]:
    """Decimals in plain reach of a person and, as often, anywhere within the bounds to the last place."""
    low, high = Decimal(lowest), Decimal(highest)
    wide = Context(prec=100)
    scaled = st.integers(int(low.scaleb(places, wide)), int(high.scaleb(places, wide)))
    plain = st.sampled_from(["0", "0.001", "0.07", "0.5", "1", "3", "7.25", "100", "730", "1000"]).map(Decimal)
    return st.one_of(
        plain.filter(lambda value: low <= value <= high), scaled.map(lambda n: Decimal(n).scaleb(-places, wide))
    )


amounts = decimals("0", "1e12", 18).map(str)
divisors = decimals("1e-12", "1e12", 18).map(str)
thresholds = decimals("1e-18", "1e6", 18)
quanta = st.one_of(st.just(MICRO), st.just(CENT), decimals("0.000001", "1e6", 6).filter(bool))


def optional(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=parts)


@st.composite
def tiered_models(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    ends = sorted(draw(st.sets(thresholds, max_size=5)))
    tiers = [{"up_to": None if end is None else str(end)} for end in [*ends, None]]
    return {
        "type": kind,
        "tiers": [tier | draw(optional(amount=amounts, per=divisors, flat=amounts)) for tier in tiers],
    }


def flat_models(kind: str, **required: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    extras: dict[str, st.SearchStrategy[str]] = {"free": thresholds.map(str)}
    if kind == "per_unit":
        extras["per"] = divisors
    return st.fixed_dictionaries({"type": st.just(kind), **required}, optional=extras)


dynamic_models = st.fixed_dictionaries({"type": st.just("dynamic")})
rising_models = st.one_of(
    flat_models("per_unit", amount=amounts),
    flat_models("package", amount=amounts, size=divisors),
    tiered_models("graduated"),
    dynamic_models,
)
models = st.one_of(rising_models, tiered_models("volume"))


def edges(model: dict[str, Any]) -> list[Decimal]:
    """Totals at which something happens."""
    places = [model.get("free"), model.get("size"), *(tier["up_to"] for tier in model.get("tiers", []))]
    return [Decimal(0), *(Decimal(place) for place in places if place is not None)]


@st.composite
def models_with_totals(draw: st.DrawFn, source: st.SearchStrategy[Any] = models, count: int = 1) -> tuple[Any, ...]:
    model = draw(source)
    near = st.builds(
        lambda edge, nudge: Context(prec=100).add(edge, nudge),
        st.sampled_from(edges(model)),
        st.sampled_from(["0", "1e-30", "-1e-30", "0.5", "-0.5", "1"]).map(Decimal),
    )
    totals = st.one_of(near, decimals("-1e30", "1e30", 30), decimals("-1000000", "1000000", 3))
    return model, *(draw(totals) for _ in range(count))


def exact_price(model: dict[str, Any], total: Fraction) -> Fraction:
    """The rules once more, straight from the description and without regard to speed."""
    if model["type"] == "dynamic":
        return total
    if model["type"] in ("per_unit", "package"):
        free = Fraction(model.get("free", "0"))
        used = max(Fraction(0), total - free) if free else total
        if model["type"] == "package":
            return math.ceil(used / Fraction(model["size"])) * Fraction(model["amount"])
        return used * Fraction(model["amount"]) / Fraction(model.get("per", "1"))
    tiers = [
        (
            tier["up_to"],
            Fraction(tier.get("amount", "0")) / Fraction(tier.get("per", "1")),
            Fraction(tier.get("flat", "0")),
        )
        for tier in model["tiers"]
    ]
    if total <= 0:
        return total * tiers[0][1]
    due, lower = Fraction(0), Fraction(0)
    for up_to, rate, flat in tiers:
        is_in_tier = up_to is None or total <= Fraction(up_to)
        if model["type"] == "graduated":
            due += flat + rate * ((total if is_in_tier else Fraction(up_to)) - lower)
        elif is_in_tier:
            due = flat + rate * total
        if is_in_tier:
            break
        lower = Fraction(up_to)
    return due


@given(models_with_totals(), quanta)
def test_equals_the_reference(case: tuple[dict[str, Any], Decimal], quantum: Decimal):
    model, total = case
    expected = round(exact_price(model, Fraction(total)) / Fraction(quantum)) * Fraction(quantum) * 1_000_000
    due = price_function(parse_model(model), quantum)(total)
    assert due == expected
    assert type(due) is int


@given(models, quanta)
def test_nothing_costs_nothing(model: object, quantum: Decimal):
    assert price_function(parse_model(model), quantum)(Decimal(0)) == 0


@given(models, quanta, st.lists(decimals("-1e12", "1e12", 30), max_size=8))
def test_charges_sum_to_the_price_of_the_total(model: object, quantum: Decimal, parts: list[Decimal]):
    due = price_function(parse_model(model), quantum)
    total, charged = Decimal(0), 0
    for part in parts:
        after = Context(prec=100).add(total, part)
        charged += due(after) - due(total)
        total = after
    assert charged == due(total)


@given(models_with_totals(rising_models, count=2), quanta)
def test_more_usage_never_costs_less(case: tuple[dict[str, Any], Decimal, Decimal], quantum: Decimal):
    model, *totals = case
    due = price_function(parse_model(model), quantum)
    assert due(min(totals)) <= due(max(totals))


@given(models_with_totals(dynamic_models | flat_models("per_unit", amount=amounts)), quanta)
def test_usage_taken_back_is_money_given_back(case: tuple[dict[str, Any], Decimal], quantum: Decimal):
    model, total = case
    due = price_function(parse_model({key: value for key, value in model.items() if key != "free"}), quantum)
    assert due(total.copy_negate()) == -due(total)


@given(models)
def test_canonical_json_reads_back(model: object):
    parsed = parse_model(model)
    assert parse_model(parsed.as_json()) == parsed
    assert parse_model(parsed.as_json()).as_json() == parsed.as_json()


def calculate(expression: str) -> Fraction:
    """What a person would do with a line of ``describe``: read ``x`` as times and follow the arithmetic."""
    python = re.sub(r"\d+(\.\d+)?", lambda number: f"Fraction('{number[0]}')", expression.replace("flat ", ""))
    return Fraction(eval(python.replace(" x ", " * "), {"Fraction": Fraction, "ceil": math.ceil, "max": max}))


def assert_adds_up(line: str) -> None:
    """Everything between equal signs is equal, to the twelve places that are shown of a number that is cut."""
    first, *others = [part for part in line.split(" = ") if "F(" not in part]
    for other in others:
        if "…" in first or "…" in other:
            shown = (first + other).count("…")
            cut = calculate(first.replace("…", "")) - calculate(other.replace("…", ""))
            assert abs(cut) < Fraction(shown, 10**12)
        else:
            assert calculate(first) == calculate(other)


@given(models_with_totals(count=2), quanta)
def test_the_description_adds_up_to_what_is_charged(case: tuple[dict[str, Any], Decimal, Decimal], quantum: Decimal):
    model, before, after = case
    due = price_function(parse_model(model), quantum)
    *steps, charge = describe(parse_model(model), quantum, before, after, "USD")
    for line in steps:
        arithmetic, _, rounded = line.removesuffix(" USD").partition(", rounded")
        assert_adds_up(arithmetic.partition(": ")[2] or arithmetic)
        if rounded:
            exact = calculate(arithmetic.rpartition(" = ")[2].replace("…", ""))
            assert abs(exact - calculate(rounded.rpartition(": ")[2])) <= Fraction(quantum) / 2
    ends = [re.split(r" = |: ", line.removesuffix(" USD"))[-1] for line in steps if line.startswith("F(")]
    assert ends == [format_amount(due(before)), format_amount(due(after))]
    assert charge.endswith(f" = {format_amount(due(after) - due(before))} USD")
    assert_adds_up(charge.removesuffix(" USD").removeprefix("charge = "))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.decimals(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
near_values = (
    json_values | amounts | st.sampled_from([None, "0", "-0", "1e99", "1e-99", "9" * 41, 10**20, "null", "\0", "1."])
)
near_tiers = st.lists(optional(up_to=near_values, amount=near_values, per=near_values, flat=near_values), max_size=3)
near_models = optional(
    type=st.sampled_from(["per_unit", "package", "graduated", "volume", "dynamic"]) | json_values,
    amount=near_values,
    per=near_values,
    size=near_values,
    free=near_values,
    tiers=near_tiers | near_values,
)


@st.composite
def damaged_models(draw: st.DrawFn) -> object:
    """A valid model with one value replaced, added or taken away."""
    model = draw(models)
    target = draw(st.sampled_from([model, *model.get("tiers", [])]))
    key = draw(st.sampled_from([*target, "free", "surprise"]))
    if draw(st.booleans()):
        target.pop(key, None)
    else:
        target[key] = draw(near_values)
    return model


def read(value: object) -> Model | InvalidInput:
    try:
        return parse_model(value, "price.model")
    except InvalidInput as refusal:
        return refusal


@given(json_values | near_models | damaged_models())
def test_any_json_is_a_usable_model_or_a_refusal(value: object):
    model = read(value)
    if isinstance(model, InvalidInput):
        assert model.detail.startswith(f"{model.field} ")
        assert model.detail.isprintable()
    else:
        price_function(model, MICRO)(Decimal("-1.5"))
        describe(model, MICRO, Decimal(0), Decimal("1.5"), "CREDIT")
        assert parse_model(model.as_json()) == model


@given(near_values)
def test_any_quantum_is_usable_or_refused(value: object):
    try:
        quantum = parse_quantum(value)
    except InvalidInput:
        return
    assert price_function(Dynamic(), quantum)(quantum) == Fraction(quantum) * 1_000_000
