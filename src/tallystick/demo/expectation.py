"""What the month must cost, worked out a second time and in another way, to be held against the bills.

It sees every usage once, adds up, and puts the prices on the sums with fractions. It shares no line with the service.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tallystick.demo.story import MEMORY, PRICES, RAM, TOKENS, VCPU, Usage, per_unit

MICROUNIT = Fraction(1, 1_000_000)
CENT = Fraction(1, 100)

_OPENSTACK = {(VCPU, ""): per_unit("1", "1"), (RAM, ""): per_unit("0.3", "1024")}
_MODELS = {(price["meter"], price["kind"]): price["model"] for price in PRICES} | _OPENSTACK
_ASSETS = {(price["meter"], price["kind"]): price["asset"] for price in PRICES} | dict.fromkeys(_OPENSTACK, "CREDIT")


class Expectation:
    """Sums of usage by customer, meter and kind; and how many usages there were, with a price and without."""

    def __init__(self) -> None:
        self.priced = 0
        self.unpriced = 0
        self._sums: defaultdict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
        self._last: dict[tuple[str, str], Decimal] = {}

    def add(self, usage: Usage) -> None:
        """Takes a usage into account: each once, running totals in the order of time."""
        if (usage.meter, usage.kind) in _MODELS:
            self.priced += 1
            self._sums[usage.customer, usage.meter, usage.kind] += self._quantity(usage)
        else:
            self.unpriced += 1

    def _quantity(self, usage: Usage) -> Decimal:
        """A running total counts by how much it has grown: not at all where nothing is before it, or where it fell."""
        if usage.meter in (TOKENS, MEMORY):
            return usage.value
        series = (usage.customer, usage.meter)
        before, self._last[series] = self._last.get(series, usage.value), usage.value
        return max(usage.value - before, Decimal(0))

    def costs(self) -> dict[tuple[str, str], Fraction]:
        """What each customer owes of each asset."""
        costs: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
        for (customer, meter, kind), quantity in self._sums.items():
            step = CENT if (meter, kind) in _OPENSTACK else MICROUNIT
            exact = _cost(_MODELS[meter, kind], Fraction(quantity))
            costs[customer, _ASSETS[meter, kind]] += round(exact / step) * step  # round() goes half to even
        return dict(costs)


def _cost(model: dict[str, Any], quantity: Fraction) -> Fraction:
    if model["type"] == "per_unit":
        return quantity * Fraction(model["amount"]) / Fraction(model["per"])
    cost, lower = Fraction(0), Fraction(0)
    for tier in model["tiers"]:
        upper = quantity if tier["up_to"] is None else min(quantity, Fraction(tier["up_to"]))
        cost += (upper - lower) * Fraction(tier["amount"]) / Fraction(tier["per"])
        lower = upper
    return cost
