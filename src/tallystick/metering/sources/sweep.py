"""The seam between readings and the sources that they pull: a sweep is what a source says was there at one moment.

A source only asks and reads. What one sweep found is recorded as a reading, see ``metering.readings``.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

import msgspec

from tallystick.ledger.wallets import PostingPolicy


class Item(msgspec.Struct, frozen=True, gc=False):
    """The value of one resource under one meter at the moment of the sweep.

    ``customer`` is the key of the customer who used it, None if the source does not know; ``kind`` the priced variety
    of the meter. ``path`` is the resource's place in the reporting tree and ``name`` what people call it, as far as the
    source knows them. ``fault`` says in words what the source found missing; the item is kept all the same.
    """

    meter: str
    resource: str
    value: Decimal
    customer: str | None
    kind: str = ""
    path: str | None = None
    name: str | None = None
    fault: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """A part of a source, such as one meter, that could not be read; ``detail`` says why. The other parts stand."""

    part: str
    detail: str


class Sweep(msgspec.Struct, frozen=True):
    """All that one sweep found, and the parts of the source that it could not read.

    ``customers`` are the names by which people know customers, by key, as far as the source knows them.
    """

    items: list[Item]
    failures: list[Failure]
    customers: dict[str, str] = {}


class Source(Protocol):
    """Whatever can be swept. ``key`` names it for ever: it is a part of the ids of its measurements.

    Customers whom it names for the first time are posted by its ``posting_policy``.
    """

    key: str
    posting_policy: PostingPolicy

    async def sweep(self) -> Sweep:
        """Asks the source for everything, with limits of its own on time and on how much it takes.

        A part that cannot be read becomes a ``Failure``; raise only if nothing could be read at all.
        """
        ...
