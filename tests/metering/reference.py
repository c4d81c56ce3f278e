"""An accountant with a pencil: what metering must arrive at, worked out again from the rules with fractions.

Shares no code with what it checks but the shapes of measurements, meters and prices. One call of ``record`` stands for
one transaction; what it is given is in the order in which it was sent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from math import ceil
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from tallystick.metering.model import Measurement, Meter
from tallystick.pricing.model import NewPrice

NEW_YORK = ZoneInfo("America/New_York")

Total = tuple[str, str, UUID | None, str, str]
"""Customer, month as YYYY-MM, price (``None``: waits for one), meter, kind."""


def cost(model: dict[str, Any], quantum: object, quantity: Fraction) -> int:
    """``F(quantity)`` in microunits for a price model as JSON."""
    due = _due(model, quantity)
    step = Fraction(str(quantum))
    return int(round(due / step) * step * 1_000_000)  # round() of a Fraction is half to even


def _due(model: dict[str, Any], quantity: Fraction) -> Fraction:
    number = {name: Fraction(value) for name, value in model.items() if name in ("amount", "per", "size", "free")}
    if "free" in number:
        quantity = max(Fraction(0), quantity - number["free"])
    match model["type"]:
        case "dynamic":
            return quantity
        case "per_unit":
            return quantity * number["amount"] / number.get("per", 1)
        case "package":
            return ceil(quantity / number["size"]) * number["amount"]
    tiers = [
        (
            None if tier["up_to"] is None else Fraction(tier["up_to"]),
            Fraction(tier.get("amount", 0)) / Fraction(tier.get("per", 1)),
            Fraction(tier.get("flat", 0)),
        )
        for tier in model["tiers"]
    ]
    if quantity <= 0:
        return quantity * tiers[0][1]
    if model["type"] == "volume":
        rate, flat = next((rate, flat) for up_to, rate, flat in tiers if up_to is None or quantity <= up_to)
        return quantity * rate + flat
    due, lower = Fraction(0), Fraction(0)
    for up_to, rate, flat in tiers:
        if quantity > lower:
            due += (quantity - lower if up_to is None else min(quantity, up_to) - lower) * rate + flat
        lower = quantity if up_to is None else up_to
    return due


@dataclass
class Accountant:
    """Books of the usage that was recorded, kept without a database."""

    meters: dict[str, Meter] = field(default_factory=dict)
    prices: dict[UUID, NewPrice] = field(default_factory=dict)
    totals: defaultdict[Total, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    counted: Counter[Total] = field(default_factory=Counter)
    _known: set[tuple[str, str, str]] = field(default_factory=set)
    _states: dict[object, tuple[Fraction, datetime]] = field(default_factory=dict)
    _waiting: list[tuple[Measurement, Fraction]] = field(default_factory=list)

    def record(self, measurements: list[Measurement]) -> int:
        """Counts what is new. Returns how much that is."""
        new = []
        for measurement in measurements:
            name = (measurement.customer, measurement.source, measurement.sender_id)
            if name not in self._known:
                self._known.add(name)
                new.append(measurement)
        for measurement in sorted(new, key=lambda m: m.at):
            self._add(measurement, self._quantity(measurement))
        return len(new)

    def settle(self) -> int:
        """Charges what waits and has a price by now. Returns how much that is."""
        waiting, self._waiting = self._waiting, []
        for measurement, quantity in waiting:
            key = _total(measurement, None)
            self.totals[key] -= quantity
            self.counted[key] -= 1
            self._add(measurement, quantity)
        return len(waiting) - len(self._waiting)

    def due(self) -> Counter[tuple[str, str]]:
        """What each customer's usage costs by asset, in microunits."""
        due: Counter[tuple[str, str]] = Counter()
        for (customer, _, price_id, _, _), quantity in self.totals.items():
            if price_id is not None:
                price = self.prices[price_id]
                due[customer, price.asset] += cost(price.model.as_json(), price.quantum, quantity)
        return due

    @property
    def waiting(self) -> int:
        """How many measurements wait for a price."""
        return len(self._waiting)

    def _add(self, measurement: Measurement, quantity: Fraction) -> None:
        price_id = self._price(measurement)
        counts = quantity
        if price_id is not None and self.prices[price_id].model.as_json()["type"] == "dynamic":
            if measurement.unit_price is None:
                price_id = None
            else:
                counts = quantity * Fraction(measurement.unit_price)
        if price_id is None:
            self._waiting.append((measurement, quantity))
        self.totals[_total(measurement, price_id)] += counts
        self.counted[_total(measurement, price_id)] += 1

    def _price(self, measurement: Measurement) -> UUID | None:
        in_force = [
            (price.customer is not None, price.effective_from, price_id)
            for price_id, price in self.prices.items()
            if (price.meter, price.kind) == (measurement.meter, measurement.kind)
            and price.customer in (None, measurement.customer)
            and price.effective_from <= measurement.at
        ]
        return max(in_force)[2] if in_force else None

    def _quantity(self, measurement: Measurement) -> Fraction:
        meter = self.meters.get(measurement.meter, Meter(measurement.meter))
        value = Fraction(measurement.value)
        whole = (measurement.customer, meter.key)
        in_period = (*whole, measurement.kind, _month(measurement.at))
        if meter.kind == "counter":
            return self._counter((*whole, measurement.resource), value, measurement.at, meter.on_drop)
        match meter.aggregation:
            case "sum":
                return value
            case "unique":
                if (*in_period, value) in self._states:
                    return Fraction(0)
                self._states[*in_period, value] = (value, measurement.at)
                return Fraction(1)
            case "max":
                before = self._states.get(in_period)
                counts = before is None or value > before[0]
            case _:  # latest
                before = self._states.get(in_period)
                counts = before is None or measurement.at > before[1]
        if not counts:
            return Fraction(0)
        self._states[in_period] = (value, measurement.at)
        return value - (before[0] if before else 0)

    def _counter(self, scope: object, value: Fraction, at: datetime, on_drop: str) -> Fraction:
        if scope not in self._states:
            self._states[scope] = (value, at)
            return Fraction(0)
        last, last_at = self._states[scope]
        if at <= last_at or value == last:
            return Fraction(0)
        self._states[scope] = (value, at)
        if value > last:
            return value - last
        return value if on_drop == "from_zero" else Fraction(0)


def _month(at: datetime) -> str:
    return f"{at.astimezone(NEW_YORK):%Y-%m}"


def _total(measurement: Measurement, price_id: UUID | None) -> Total:
    return measurement.customer, _month(measurement.at), price_id, measurement.meter, measurement.kind
