"""A source that is pulled: stands for a platform whose resources come and go, and parts of which fail on demand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tallystick.ledger.wallets import PostingPolicy
from tallystick.metering.sources.sweep import Failure, Item, Sweep


@dataclass
class Sweepable:
    """Answers with what stands in it at that moment."""

    key: str = "platform"
    posting_policy: PostingPolicy = "immediate"
    items: list[Item] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    """Parts that cannot be read, each a meter, with the reason: their items are not seen."""
    customers: dict[str, str] = field(default_factory=dict)
    """What it calls customers, by key."""
    error: Exception | None = None
    """What a sweep raises."""
    sweeps: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.goes_on.set()

    async def sweep(self) -> Sweep:
        self.sweeps += 1
        self.began.set()
        await self.goes_on.wait()
        if self.error is not None:
            raise self.error
        items = [item for item in self.items if item.meter not in self.broken]
        return Sweep(items, [Failure(part, detail) for part, detail in self.broken.items()], self.customers)


def item(
    resource: str = "app",
    value: Decimal | int | str = 1,
    customer: str | None = "ada",
    *,
    meter: str = "cfapps",
    **more: Any,
) -> Item:
    """An item of one app, as a rule."""
    return Item(meter, resource, Decimal(value), customer, **more)
