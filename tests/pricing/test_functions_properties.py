"""Any price, at any total, against the rules told once more; any description, added up; any JSON, read or refused."""

from __future__ import annotations

import math
import re
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import format_amount
from tallystick.pricing.functions import Dynamic, Model, describe, parse_model, parse_quantum, price_function

MICRO = Decimal("0.000001")
CENT = Decimal("0.01")


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
