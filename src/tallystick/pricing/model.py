"""Prices: effective-dated pure functions, by meter and kind, optionally for one customer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from uuid import UUID

from tallystick.kernel.ids import NIL
from tallystick.pricing.functions import Model, price_function


@dataclass(frozen=True)
class Price:
    """One version of a price, in force from ``effective_from`` until the next one of its meter, kind and customer."""

    id: UUID
    meter: str
    kind: str
    customer_id: UUID | None
    effective_from: datetime
    asset: str
    ledger: int
    quantum: Decimal
    model: Model
    created_at: datetime

    @cached_property
    def function(self) -> Callable[[Decimal], int]:
        """``F``: microunits of ``asset`` that a usage total costs."""
        return price_function(self.model, self.quantum)


@dataclass(frozen=True, slots=True)
class InForce:
    """The price in force at an instant, or ``None``, and the stretch of time over which that answer holds."""

    price: Price | None
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class NewPrice:
    """What is asked for when a price is created; ``customer`` is a key."""

    meter: str
    kind: str
    customer: str | None
    effective_from: datetime
    asset: str
    quantum: Decimal
    model: Model


@dataclass(frozen=True)
class PriceList:
    """All prices at one version of the catalogue."""

    prices: list[Price]
    _timelines: dict[tuple[str, str, UUID | None], list[Price]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        timelines: dict[tuple[str, str, UUID | None], list[Price]] = {}
        for price in sorted(self.prices, key=lambda price: price.effective_from):
            timelines.setdefault((price.meter, price.kind, price.customer_id), []).append(price)
        object.__setattr__(self, "_timelines", timelines)

    def at(self, meter: str, kind: str, customer_id: UUID, instant: datetime) -> InForce:
        """What is in force for a customer at an instant: its own price if it has one by then, else everybody's."""
        own = _stretch(self._timelines.get((meter, kind, customer_id), []), instant)
        if own.price is not None:
            return own
        general = _stretch(self._timelines.get((meter, kind, None), []), instant)
        ends = [end for end in (own.end, general.end) if end is not None]
        return InForce(general.price, general.start, min(ends) if ends else None)

    def has_charged(self, meter: str, kind: str, customer_id: UUID | None, since: datetime, now: datetime) -> bool:
        """Whether in [``since``, ``now``) a price was in force where a new one that starts at ``since`` would be.

        A new one ends where the next of its customer (``None``: everybody's) begins, and goes before everybody's if it
        is one customer's own.
        """
        if since >= now:
            return False
        place = customer_id or NIL
        found = self.at(meter, kind, place, since)
        if found.price is not None or found.end is None or found.end >= now:
            return found.price is not None
        later = self.at(meter, kind, place, found.end).price
        return later is not None and later.customer_id != customer_id


def _stretch(timeline: list[Price], instant: datetime) -> InForce:
    after = bisect_right(timeline, instant, key=lambda price: price.effective_from)
    price = timeline[after - 1] if after else None
    return InForce(
        price,
        price.effective_from if price else None,
        timeline[after].effective_from if after < len(timeline) else None,
    )
