"""Metering as the rest of the house uses it: submit a batch, keep meters, list and replay what could not be read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from tallystick.database.group_commit import GroupCommit
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, Overloaded
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key, check_text
from tallystick.metering.gaps import HOUR_MINUTES, max_slots_of
from tallystick.metering.intake import Intake
from tallystick.metering.model import Batch, Measurement, Meter, Receipt
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_name("queries.sql"))

LANES = 4
"""Customers of large batches are spread over this many lanes, all of a stripe to the same one. Batches of a lane are
recorded one after the other, lanes beside each other: while the database works for one, the next transaction of another
is prepared, and no two of them wait for the same customer or stripe."""

SMALL_BATCH = 100
"""Smaller batches have one lane of their own: what counts for them is that as many as possible share a transaction,
which costs about as much for one measurement as for a hundred."""

DAY_MINUTES = 24 * 60

INTERVALS = tuple(minutes for minutes in range(3, DAY_MINUTES + 1, 3) if DAY_MINUTES % minutes == 0)
"""Minutes that a value of a gauge may stand for: exact decimal parts of hours, and a day has a whole number of them."""

MAX_GAP_INTERVALS = 96
"""So many intervals in a row are filled at most."""

MAX_GAP_HOURS = MAX_GAP_INTERVALS * INTERVALS[-1] // 60
"""That many of the longest."""

_COUNTING = ("kind", "aggregation", "on_drop", "interval_minutes")

SUBMIT_ATTEMPTS = 30
"""How often whoever can wait offers a batch to an intake that is full, which says itself how long to wait."""

MAX_GROUP_MEASUREMENTS = 30_000
MAX_QUEUED_MEASUREMENTS = 50_000
"""Per lane."""

MAX_DOORS = 50
OTHER_DOORS = "other"
"""Doors are counted by name (what a source is called up to the first colon), so many of them; further ones together."""


@dataclass(slots=True)
class Received:
    """What the receipts of one door add up to."""

    accepted: int = 0
    charged: int = 0
    unpriced: int = 0
    duplicates: int = 0
    rejected: int = 0

    def add(self, receipt: Receipt) -> None:
        self.accepted += receipt.accepted
        self.charged += receipt.accepted - receipt.unpriced
        self.unpriced += receipt.unpriced
        self.duplicates += receipt.duplicates
        self.rejected += len(receipt.rejected)


class IntakeQueue:
    """Batches of many requests, recorded together."""

    def __init__(self, pool: AsyncConnectionPool, intake: Intake) -> None:
        self._pool = pool
        self._intake = intake
        self._received: dict[str, Received] = {}
        self._small = self._lane("intake-small")
        self._large = [self._lane(f"intake-{number}") for number in range(LANES)]

    def _lane(self, name: str) -> GroupCommit[Batch, Receipt]:
        return GroupCommit(
            name,
            self._record,
            max_group_weight=MAX_GROUP_MEASUREMENTS,
            max_queued_weight=MAX_QUEUED_MEASUREMENTS,
        )

    @property
    def lanes(self) -> Sequence[GroupCommit[Batch, Receipt]]:
        """All of them, the one for small batches first."""
        return (self._small, *self._large)

    @property
    def queued(self) -> int:
        """How many measurements wait."""
        return sum(lane.queued_weight for lane in self.lanes)

    @property
    def received(self) -> Mapping[str, Received]:
        """What has been recorded since the start, by the door through which it came."""
        return self._received

    async def start(self) -> None:
        """Starts the lanes."""
        for lane in self.lanes:
            await lane.start()

    async def stop(self) -> None:
        """Records what waits, and ends."""
        await asyncio.gather(*(lane.stop() for lane in self.lanes))

    async def submit(self, batch: Batch) -> Receipt:
        """The receipt of a batch, once it is durable and charged.

        Raises ``Overloaded`` if too much waits, ``Unavailable`` without a database. Part of the batch may then have
        been recorded: sending it again counts nothing twice.
        """
        if 0 < _weight(batch) < SMALL_BATCH:
            return await self._small.submit(batch, _weight(batch))
        receipts = await asyncio.gather(
            *(
                lane.submit(part, _weight(part))
                for lane, part in zip(self._large, self._split(batch), strict=True)
                if _weight(part)
            ),
            return_exceptions=True,
        )
        if failures := [receipt for receipt in receipts if isinstance(receipt, BaseException)]:
            raise failures[0]
        return _joined([receipt for receipt in receipts if isinstance(receipt, Receipt)])

    def _split(self, batch: Batch) -> list[Batch]:
        """The batch as one part per lane; what could not be read goes with the first."""
        parts: list[tuple[list[Measurement], list[int]]] = [([], []) for _ in range(LANES)]
        part_of: dict[str, tuple[list[Measurement], list[int]]] = {}
        for measurement, index in zip(batch.measurements, batch.indexes, strict=True):
            customer = measurement.customer
            part = part_of.get(customer)
            if part is None:
                part = part_of[customer] = parts[self._intake.stripe(customer) % LANES]
            part[0].append(measurement)
            part[1].append(index)
        return [
            Batch(batch.source, measurements, indexes, [] if lane else batch.unreadable, batch.creates_meters)
            for lane, (measurements, indexes) in enumerate(parts)
        ]

    async def _record(self, batches: list[Batch]) -> list[Receipt]:
        async with self._pool.connection() as conn:
            async with conn.transaction():
                recorded = await self._intake.record(conn, batches)
            recorded.remember()
        for batch, receipt in zip(batches, recorded.receipts, strict=True):
            door = batch.source.partition(":")[0]
            (self._received.get(door) or self._door(door)).add(receipt)
        return recorded.receipts

    def _door(self, name: str) -> Received:
        return self._received.setdefault(name if len(self._received) < MAX_DOORS else OTHER_DOORS, Received())


async def submit_patiently(intake: IntakeQueue, batch: Batch) -> Receipt:
    """As ``IntakeQueue.submit``, for whoever can wait while too much waits. Raises the same, in the end."""
    for attempt in range(1, SUBMIT_ATTEMPTS + 1):
        try:
            return await intake.submit(batch)
        except Overloaded as error:
            if attempt == SUBMIT_ATTEMPTS:
                raise
            await asyncio.sleep(error.retry_after_seconds)
    raise AssertionError("every attempt returns or raises")


def _weight(batch: Batch) -> int:
    return len(batch.measurements) + len(batch.unreadable)


def _joined(receipts: list[Receipt]) -> Receipt:
    return Receipt(
        accepted=sum(receipt.accepted for receipt in receipts),
        duplicates=sum(receipt.duplicates for receipt in receipts),
        unpriced=sum(receipt.unpriced for receipt in receipts),
        rejected=sorted(
            (rejection for receipt in receipts for rejection in receipt.rejected), key=lambda rejection: rejection.index
        ),
    )


class Meters:
    """What is measured. Works in the caller's transaction."""

    def __init__(self, clock: Clock, pricing: Pricing) -> None:
        self._clock = clock
        self._pricing = pricing

    async def put(self, conn: AsyncConnection, meter: Meter) -> Meter:
        """Creates or changes a meter.

        Raises ``InvalidInput``; ``Conflict`` if it has measurements and its kind, aggregation, interval or treatment of
        drops would change: what was counted one way cannot be continued in another. From then on its gaps may come to
        be filled, or be filled in another way, but not become free again.
        """
        _check(meter)
        await self._pricing.change(conn)
        stands = await self.find(conn, meter.key)
        in_use = stands is not None and await self._in_use(conn, meter.key)
        if stands and in_use and _counting(stands) != _counting(meter):
            fixed = f"{', '.join(_COUNTING[:-1])} and {_COUNTING[-1]}"
            raise Conflict(f"meter {meter.key!r} has measurements: its {fixed} cannot change", field="kind")
        if stands and in_use and stands.fills_gaps > meter.fills_gaps:
            raise Conflict(
                f"meter {meter.key!r} has measurements, whose gaps are filled: its on_gap cannot become free",
                field="on_gap",
            )
        now = self._clock.now()
        begins = stands is not None and in_use and stands.fills_gaps < meter.fills_gaps
        times = {"now": now, "gaps_filled_since": now if begins else None}
        await conn.execute(_SQL.save_meter, _fields(meter) | times)
        return meter

    async def find(self, conn: AsyncConnection, key: str) -> Meter | None:
        """The meter with this key."""
        return (await self.all(conn)).get(key)

    async def get(self, conn: AsyncConnection, key: str) -> Meter:
        """The meter with this key. Raises ``NotFound``."""
        check_key(key, "meter")
        if (meter := await self.find(conn, key)) is None:
            raise NotFound(f"there is no meter {key!r}", field="meter")
        return meter

    async def all(self, conn: AsyncConnection) -> dict[str, Meter]:
        """All meters by key."""
        return {row[0]: Meter(*row) for row in await (await conn.execute(_SQL.meters)).fetchall()}

    async def page(self, conn: AsyncConnection, cursor: str | None, limit: int) -> Page[Meter]:
        """Meters in the order of their keys."""
        (after,) = read_cursor(cursor, 1) or ("",)
        rows = await (await conn.execute(_SQL.meter_page, {"after": after, "limit": limit + 1})).fetchall()
        meters = [Meter(*row) for row in rows[:limit]]
        return Page(meters, next_cursor(meters[-1].key) if len(rows) > limit else None)

    async def _in_use(self, conn: AsyncConnection, key: str) -> bool:
        return await (await conn.execute(_SQL.meter_in_use, {"key": key})).fetchone() is not None


def _check(meter: Meter) -> None:
    check_key(meter.key, "key")
    for field in ("unit", "name", "description"):
        check_text(getattr(meter, field), field)
    if meter.kind == "counter" and meter.aggregation != "sum":
        raise InvalidInput("aggregation of a counter must be sum", field="aggregation")
    _check_intervals(meter)


def _check_intervals(meter: Meter) -> None:
    is_level = meter.kind == "gauge" and meter.aggregation == "sum"
    if meter.fills_gaps and not is_level:
        raise InvalidInput("on_gap must be free unless the meter is a gauge whose aggregation is sum", field="on_gap")
    if meter.interval_minutes != HOUR_MINUTES and not is_level:
        raise InvalidInput(
            f"interval_minutes must be {HOUR_MINUTES} unless the meter is a gauge whose aggregation is sum",
            field="interval_minutes",
        )
    if meter.interval_minutes not in INTERVALS:
        raise InvalidInput(
            f"interval_minutes must be a multiple of {INTERVALS[0]} of which a day has a whole number",
            field="interval_minutes",
        )
    if not 1 <= meter.max_gap_hours <= MAX_GAP_HOURS:
        raise InvalidInput(f"max_gap_hours must be from 1 to {MAX_GAP_HOURS}", field="max_gap_hours")
    if meter.fills_gaps and not 1 <= max_slots_of(meter) <= MAX_GAP_INTERVALS:
        raise InvalidInput(
            f"max_gap_hours must be a time of at least one and at most {MAX_GAP_INTERVALS} intervals, "
            f"of {meter.interval_minutes} minutes each",
            field="max_gap_hours",
        )


def _counting(meter: Meter) -> tuple[object, ...]:
    return tuple(getattr(meter, field) for field in _COUNTING)


def _fields(meter: Meter) -> dict[str, object]:
    return {field: getattr(meter, field) for field in Meter.__struct_fields__}
