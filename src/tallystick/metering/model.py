"""What metering speaks of: measurements on their way in, meters, and what became of a batch."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

import msgspec


class Measurement(msgspec.Struct, frozen=True, gc=False):
    """One value at one time, as a source read it.

    ``source`` and ``sender_id`` together name it for ever: the same pair from the same customer is a duplicate,
    whatever else differs. A source without ids uses its natural key (series and timestamp) as ``sender_id``.
    """

    source: str
    sender_id: str
    customer: str
    meter: str
    at: datetime  # aware, UTC
    value: Decimal
    kind: str = ""
    resource: str = ""
    agent: str = ""
    unit_price: Decimal | None = None  # asset units per unit of usage; only a dynamic price looks at it


class Sender(msgspec.Struct, frozen=True):
    """For whom usage comes, if not for everybody: a customer, by id and key, and perhaps an agent, by id and e-mail."""

    customer_id: UUID
    customer: str
    agent_id: UUID | None = None
    agent_email: str | None = None

    def is_agent(self, named: str) -> bool:
        """Whether usage that names this agent means the one who sends it: by id, or by e-mail in whatever case."""
        return named.lower() in (str(self.agent_id), (self.agent_email or "").lower())


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """A piece of input that could not be read: kept as it came, with the reason.

    ``index`` is its place in what was sent (0-based item or line); ``code`` is stable, ``detail`` is a sentence for
    people.
    """

    index: int
    raw: bytes
    code: str
    detail: str
    reader: str | None = None
    """Which reader understands ``raw`` once it is mended; ``None``: the one of the batch's source."""
    sender: Sender | None = None
    """For whom alone it may be recorded; ``None``: for everybody."""


class Batch(msgspec.Struct, frozen=True):
    """What one request brought: the measurements that could be read, each with its place in the input, and the rest.

    ``source`` names the door it came through (``events``, ``line-protocol``), whose reader can read it again.
    """

    source: str
    measurements: list[Measurement]
    indexes: list[int]
    unreadable: list[Unreadable]
    creates_meters: bool = True
    """Whether usage of an unknown meter creates it (as a sum of deltas) or is kept as unreadable until it exists."""


class Rejection(msgspec.Struct, frozen=True):
    """One item that was not recorded, by its place in what was sent."""

    index: int
    code: str
    detail: str


class Receipt(msgspec.Struct, frozen=True):
    """What became of a batch. ``accepted`` counts new measurements, those without a price (``unpriced``) among them."""

    accepted: int
    duplicates: int
    unpriced: int
    rejected: list[Rejection]


MeterKind = Literal["delta", "counter", "gauge"]
Aggregation = Literal["sum", "max", "unique", "latest"]
OnDrop = Literal["rebase", "from_zero"]
OnGap = Literal["free", "held", "interpolated"]


class Meter(msgspec.Struct, frozen=True):
    """What is measured. ``kind`` says how a value becomes a quantity, ``aggregation`` how quantities become a total.

    ``on_drop`` is for counters: a fall either sets a new base and counts nothing, or counts from zero.

    A gauge's value stands for ``interval_minutes``, and its quantity is value times hours. ``on_gap`` says what becomes
    of missing intervals: they are free, or filled with estimates if they are at most ``max_gap_hours`` (``gaps``).
    """

    key: str
    kind: MeterKind = "delta"
    aggregation: Aggregation = "sum"
    on_drop: OnDrop = "rebase"
    unit: str = ""
    name: str = ""
    description: str = ""
    on_gap: OnGap = "free"
    max_gap_hours: int = 24
    interval_minutes: int = 60

    @property
    def has_state(self) -> bool:
        """Whether a quantity depends on earlier measurements."""
        return self.kind == "counter" or self.aggregation != "sum" or self.fills_gaps

    @property
    def fills_gaps(self) -> bool:
        """Whether missing intervals are estimated, and each has one value."""
        return self.on_gap != "free"
