"""Readings: a source that is pulled is swept, and what it says is measured through the one intake.

A periodic reading belongs to its interval, an hour as a rule; there is one for each source and interval. Its id and
those of its measurements are derived from these, so whatever is repeated counts once: by a process that died half way,
by two at the same time, by whoever tries again what had failed. A manual reading is named by itself; it stands beside
the periodic ones, takes nobody's interval, and counts in addition.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from uuid import UUID

import msgspec
import structlog

from tallystick.customers.service import Customers
from tallystick.database.pool import Connection, Pool
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, NotFound, TallyError
from tallystick.kernel.ids import derived_id, new_id
from tallystick.kernel.paging import Page, newest_first, read_newest_first
from tallystick.kernel.text import check_key
from tallystick.metering.model import Batch
from tallystick.metering.reading_model import (
    Counts,
    Outcome,
    Reading,
    Sorted,
    State,
    chunks,
    customer_names,
    interval_of,
    merged,
    outcome_of,
    reading_of,
    sort_items,
    source_of,
    with_receipt,
)
from tallystick.metering.resources import Placement, Resources
from tallystick.metering.service import IntakeQueue, submit_patiently
from tallystick.metering.sources.sweep import Failure, Source, Sweep

HOUR = timedelta(hours=1)

SWEEP_TIMEOUT_SECONDS = 540
"""Less than the ten minutes that a job may take, so that a sweep which does not end is recorded as one that failed."""

ITEMS_AT_ONCE = 10_000
"""So many items are submitted, or placed, together."""

_SQL = Queries(Path(__file__).with_name("readings.sql"))
_log = structlog.get_logger()


class Listener(Protocol):
    """Who hears of readings that were not complete, in the transaction that says so."""

    async def reading_failed(self, conn: Connection, reading: Reading) -> None: ...


class Readings:
    """Takes readings, and lists them. Opens transactions of its own, as the intake does."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        intake: IntakeQueue,
        resources: Resources,
        customers: Customers,
        sources: Iterable[Source] = (),
        *,
        interval: timedelta = HOUR,
        listener: Listener | None = None,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._intake = intake
        self._resources = resources
        self._customers = customers
        self._sources = {check_key(source.key, "source"): source for source in sources}
        self._interval = interval
        self._listener = listener
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def sources(self) -> list[Source]:
        """The sources there are."""
        return list(self._sources.values())

    def source(self, key: str) -> Source:
        """The source with this key. Raises ``NotFound``."""
        if key not in self._sources:
            raise NotFound(f"there is no source {key!r}", field="source")
        return self._sources[key]

    async def take(self, source: Source, *, periodic: bool, reading_id: UUID | None = None) -> Reading:
        """Sweeps a source, records what it says, and answers with the reading as it stands then.

        A periodic reading that is complete already is only answered; one that is partial or has failed is taken again,
        and keeps whatever it had. Who may come twice with a manual one names it by ``reading_id``.

        Raises ``Conflict`` for a manual reading while the source is being swept, ``Overloaded`` and ``Unavailable`` as
        the intake does; it may then be repeated, and counts once.
        """
        async with self._turn(source.key, waits=periodic):
            reading = await self._begin(source.key, periodic=periodic, reading_id=reading_id)
            if reading.state == "complete":
                return reading
            sweep = await self._sweep(source)
            meters, faults = await asyncio.to_thread(sort_items, reading, sweep.items)
            counts = {meter: await self._record(source, reading, found) for meter, found in meters.items()}
            for found in meters.values():
                await self._place(found.placements)
            await self._name(customer_names(sweep))
            return await self._end(reading.id, outcome_of(sweep, counts, faults))

    async def get(self, conn: Connection, reading_id: UUID) -> Reading:
        """One reading. Raises ``NotFound``."""
        return await _found(conn, _SQL.get, reading_id)

    async def page(
        self, conn: Connection, cursor: str | None, limit: int, *, source: str | None = None, state: State | None = None
    ) -> Page[Reading]:
        """Readings, newest first: all, or those of one source, or in one state."""
        before_at, before_id = read_newest_first(cursor)
        parameters = {
            "before_at": before_at,
            "before_id": before_id,
            "source": source,
            "state": state,
            "limit": limit + 1,
        }
        found = [reading_of(row) for row in await (await conn.execute(_SQL.page, parameters)).fetchall()]
        return newest_first(found, limit, lambda reading: (reading.at, reading.id))

    @asynccontextmanager
    async def _turn(self, key: str, *, waits: bool) -> AsyncIterator[None]:
        """One sweep of a source at a time in this process: two would only ask it the same."""
        turn = self._turns[key]
        if turn.locked() and not waits:
            raise Conflict(f"a reading of {key!r} is under way: try again when it has ended", field="source")
        async with turn:
            yield

    async def _begin(self, key: str, *, periodic: bool, reading_id: UUID | None) -> Reading:
        """The reading that this attempt is for. Another attempt may have begun it: it keeps that one's instant."""
        now = self._clock.now()
        interval_start = interval_of(now, self._interval) if periodic else None
        if interval_start is not None:
            reading_id = derived_id("reading", key, interval_start.isoformat())
        parameters = {"id": reading_id or new_id(now), "source": key, "interval_start": interval_start, "at": now}
        async with self._pool.connection() as conn:
            (row,) = await (await conn.execute(_SQL.begin, parameters)).fetchall()
        return reading_of(row)

    async def _sweep(self, source: Source) -> Sweep:
        """What the source says; if it says nothing, that as a failure."""
        limit = asyncio.timeout(SWEEP_TIMEOUT_SECONDS)
        try:
            async with limit:
                return await source.sweep()
        except TallyError as error:
            detail = error.detail
        except Exception as error:
            if limit.expired():
                detail = f"it was not read within {SWEEP_TIMEOUT_SECONDS} seconds"
            else:  # what a stranger's text may quote is for the log at most
                _log.exception("reading.sweep_failed", source=source.key)
                detail = f"reading it failed with {type(error).__name__}"
        return Sweep([], [Failure(source.key, detail)])

    async def _record(self, source: Source, reading: Reading, found: Sorted) -> Counts:
        """Has the items of one meter measured. Whom the source names for the first time is posted as it says."""
        counts = found.counts
        for part in chunks(found, ITEMS_AT_ONCE):
            customers = {measurement.customer for measurement in part.measurements}
            async with self._pool.connection() as conn, conn.transaction():
                await self._customers.ensure(conn, customers, "postpaid", source.posting_policy)
            receipt = await submit_patiently(self._intake, _batch(reading.source, part))
            counts = with_receipt(
                counts,
                recorded=receipt.accepted + receipt.duplicates,
                unpriced=receipt.unpriced,
                quarantined=len(receipt.rejected),
            )
        return counts

    async def _place(self, placements: list[tuple[str, Placement]]) -> None:
        """Where the source says that resources stand, and what it calls them.

        Their customers exist by now, and most stand there already, under that name.
        """
        for start in range(0, len(placements), ITEMS_AT_ONCE):
            part = placements[start : start + ITEMS_AT_ONCE]
            parameters = {
                "customers": [customer for customer, _ in part],
                "meters": [placement.meter for _, placement in part],
                "resources": [placement.resource for _, placement in part],
                "paths": [placement.path for _, placement in part],
                "names": [placement.name for _, placement in part],
            }
            async with self._pool.connection() as conn, conn.transaction():
                moved = await (await conn.execute(_SQL.not_there, parameters)).fetchall()
                await self._resources.place(conn, [part[place - 1] for (place,) in moved])

    async def _name(self, names: dict[str, str]) -> None:
        """What the source calls customers, for those that have no name yet."""
        found = list(names.items())
        for start in range(0, len(found), ITEMS_AT_ONCE):
            async with self._pool.connection() as conn, conn.transaction():
                await self._customers.name_nameless(conn, dict(found[start : start + ITEMS_AT_ONCE]))

    async def _end(self, reading_id: UUID, outcome: Outcome) -> Reading:
        async with self._pool.connection() as conn, conn.transaction():
            before = (await _found(conn, _SQL.lock, reading_id)).outcome
            if (stands := merged(before, outcome)) is not before:
                parameters = {
                    "id": reading_id,
                    "state": stands.state,
                    "ended_at": self._clock.now(),
                    "counts": msgspec.json.encode(stands.counts).decode(),
                    "failures": msgspec.json.encode(stands.failures).decode(),
                    "faults": msgspec.json.encode(stands.faults).decode(),
                }
                await conn.execute(_SQL.end, parameters)
            reading = await self.get(conn, reading_id)
            if stands is not before and stands.state != "complete" and self._listener is not None:
                await self._listener.reading_failed(conn, reading)
        total = reading.total
        _log.info(
            "reading.ended",
            source=reading.source,
            reading_id=str(reading.id),
            state=reading.state,
            items=total.items,
            recorded=total.recorded,
            quarantined=total.quarantined,
            failures=len(reading.failures),
        )
        return reading


async def _found(conn: Connection, query: str, reading_id: UUID) -> Reading:
    row = await (await conn.execute(query, {"id": reading_id})).fetchone()
    if row is None:
        raise NotFound(f"there is no reading {reading_id}", field="id")
    return reading_of(row)


def _batch(key: str, part: Sorted) -> Batch:
    return Batch(source_of(key), part.measurements, part.indexes, part.unreadable)
