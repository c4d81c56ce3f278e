"""What intake keeps in memory so that it need not ask the database about every measurement.

A ``Directory`` is valid for one version of the catalogue. Streams in it never change; who enters with a newer version
starts with an empty one. A stream is remembered only after the transaction that created it has committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection

from tallystick.customers.agents import blocked_agents
from tallystick.customers.service import Customers
from tallystick.database.queries import Queries
from tallystick.kernel.calendar import month_of
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import NIL, derived_id
from tallystick.ledger.wallets import Payer
from tallystick.metering.gaps import HOUR_MINUTES, level_scope
from tallystick.metering.model import Measurement, Meter
from tallystick.metering.quantify import counter_scope, fold_of
from tallystick.metering.states import Memory, Place, place_of
from tallystick.pricing.model import Price, PriceList
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_name("queries.sql"))

STRIPES = 64
"""Customers are spread over this many locks for meters with a state."""

MAX_STREAMS = 100_000
"""Streams kept in memory; beyond that the directory starts again empty."""

StreamKey = tuple[str, str, str, str, str, str]
TotalKey = tuple[str, str, str, str, str]
"""customer id, first day of the period, price id, meter, kind: all as text."""


def stream_key(measurement: Measurement) -> StreamKey:
    """What is the same for all measurements of one stream."""
    return (
        measurement.customer,
        measurement.source,
        measurement.meter,
        measurement.kind,
        measurement.resource,
        measurement.agent,
    )


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which a stream's usage goes to one total under one price (or waits for a price)."""

    start: datetime
    end: datetime
    price: Price | None
    total: TotalKey
    waiting: TotalKey

    @property
    def period(self) -> str:
        """First day of the business month."""
        return self.waiting[1]


class Stream:
    """Measurements of one customer, source, meter, kind, resource and agent: their ids, payer and meter."""

    __slots__ = (
        "_window",
        "counter",
        "customer",
        "customer_bytes",
        "customer_id",
        "fold",
        "has_state",
        "id",
        "is_blocked",
        "is_folded",
        "is_level",
        "kind",
        "meter",
        "payer",
        "resource",
        "row",
        "scope",
        "stripe",
    )

    def __init__(
        self, key: StreamKey, customer_id: UUID, payer: Payer, meter: Meter, *, is_blocked: bool = False
    ) -> None:
        _, source, _, self.kind, self.resource, agent = key
        self.is_blocked = is_blocked
        self.customer_id = customer_id
        self.customer = str(customer_id)
        self.customer_bytes = customer_id.bytes
        self.stripe = customer_id.int % STRIPES
        self.payer = payer
        self.meter = meter
        self.has_state = meter.has_state
        self.is_level = meter.fills_gaps or meter.interval_minutes != HOUR_MINUTES
        self.is_folded = meter.has_state and not self.is_level
        self.fold = fold_of(meter)
        self.scope = level_scope(meter, source, self.kind, self.resource, agent) if meter.fills_gaps else None
        self.id = derived_id("series", source, meter.key, self.kind, self.resource, agent)
        self.row = f"{self.customer}\t{self.id}\t"
        """How the row of each of its measurements begins: customer and series."""
        self.counter: Place | None = None
        """Where a counter has its state; other meters with a state may have several."""
        if meter.kind == "counter":
            self.counter = place_of(customer_id, counter_scope(meter, self.resource))
        self._window: Window | None = None

    def window(self, at: datetime, directory: Directory, zone: ZoneInfo) -> Window:
        """The window in which ``at`` lies. The last one is kept: usage mostly comes in the order of time."""
        window = self._window
        if window is None or not window.start <= at < window.end:
            window = self._window = directory.window(self, at, zone)
        return window


@dataclass
class Directory:
    """Meters, prices and streams at one version of the catalogue."""

    version: int
    meters: dict[str, Meter]
    prices: PriceList
    blocked: frozenset[str] = frozenset()
    """What usage may call the agents that are blocked, in lower case."""
    streams: dict[StreamKey, Stream] = field(default_factory=dict)
    stripes: dict[str, int] = field(default_factory=dict)
    """Of the streams' customers, by their keys."""
    windows: dict[tuple[str, str, str], Window] = field(default_factory=dict)
    """The last ones, by customer id, meter and kind: the streams of many resources share them."""
    counters: Memory = field(default_factory=Memory)

    def window(self, stream: Stream, at: datetime, zone: ZoneInfo) -> Window:
        """The window of a stream in which ``at`` lies."""
        place = stream.customer, stream.meter.key, stream.kind
        window = self.windows.get(place)
        if window is None or not window.start <= at < window.end:
            window = self.windows[place] = self._find_window(stream, at, zone)
        return window

    def _find_window(self, stream: Stream, at: datetime, zone: ZoneInfo) -> Window:
        month = month_of(at, zone)
        found = self.prices.at(stream.meter.key, stream.kind, stream.customer_id, at)
        period = month.first_day.isoformat()
        waiting = (stream.customer, period, str(NIL), stream.meter.key, stream.kind)
        return Window(
            start=max(month.start, found.start) if found.start else month.start,
            end=min(month.end, found.end) if found.end else month.end,
            price=found.price,
            total=(*waiting[:2], str(found.price.id), *waiting[3:]) if found.price else waiting,
            waiting=waiting,
        )

    def remember(self, streams: dict[StreamKey, Stream]) -> None:
        """Keeps streams whose creation has been committed."""
        if len(self.streams) + len(streams) > MAX_STREAMS:
            self.streams.clear()
            self.stripes.clear()
            self.windows.clear()
        self.streams.update(streams)
        self.stripes.update((key[0], stream.stripe) for key, stream in streams.items())


class Directories:
    """Gives the directory that is valid in a transaction, and creates what a batch brings for the first time."""

    def __init__(self, clock: Clock, pricing: Pricing, customers: Customers) -> None:
        self._clock = clock
        self._pricing = pricing
        self._customers = customers
        self._current = Directory(version=-1, meters={}, prices=PriceList([]))

    def stripe(self, customer: str) -> int:
        """The stripe of the customer with this key; any number, but always the same, while it is not known here."""
        return self._current.stripes.get(customer, hash(customer))

    async def enter(self, conn: AsyncConnection) -> Directory:
        """The directory of the catalogue's version, which stays in force until this transaction ends."""
        version = await self._pricing.enter(conn)
        if version != self._current.version:
            rows = await (await conn.execute(_SQL.meters)).fetchall()
            meters = {row[0]: Meter(*row) for row in rows}
            prices, blocked = await self._pricing.price_list(conn), await blocked_agents(conn)
            self._current = Directory(version, meters, prices, blocked)
        return self._current

    async def create_meters(self, conn: AsyncConnection, directory: Directory, keys: Iterable[str]) -> dict[str, Meter]:
        """The meters that exist, with those of these keys: unknown ones are created as sums of deltas."""
        unknown = sorted({key for key in keys if key not in directory.meters})
        if unknown:
            await conn.execute(_SQL.ensure_meters, {"keys": unknown, "now": self._clock.now()})
            rows = await (await conn.execute(_SQL.meters)).fetchall()
            return {row[0]: Meter(*row) for row in rows}
        return directory.meters

    async def create_streams(
        self, conn: AsyncConnection, meters: dict[str, Meter], keys: list[StreamKey], blocked: frozenset[str]
    ) -> dict[StreamKey, Stream]:
        """Streams for these keys, with the customers, kinds and series that do not exist yet."""
        now = self._clock.now()
        customers = await self._customers.ensure(conn, (key[0] for key in keys), "postpaid")
        kinds = sorted({(key[2], key[3]) for key in keys})
        await conn.execute(
            _SQL.ensure_kinds,
            {"meters": [meter for meter, _ in kinds], "keys": [kind for _, kind in kinds], "now": now},
        )
        streams = {
            key: Stream(key, *customers[key[0]], meters[key[2]], is_blocked=key[5].lower() in blocked) for key in keys
        }
        await conn.execute(
            _SQL.ensure_series,
            {
                "customer_ids": [stream.customer_id for stream in streams.values()],
                "ids": [stream.id for stream in streams.values()],
                "sources": [key[1] for key in streams],
                "meters": [key[2] for key in streams],
                "kinds": [key[3] for key in streams],
                "resources": [key[4] for key in streams],
                "agents": [key[5] for key in streams],
            },
        )
        return streams
