"""The one way in: identify, sift, quantify, total, price, store, post, in one transaction.

Whatever was read from whatever source, ``record`` takes it through the same steps. When the transaction commits, every
measurement is durable, counted and, if it has a price, charged; one that was known by its id already changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import NIL, derived_id, measurement_key
from tallystick.kernel.money import EXACT
from tallystick.ledger.wallets import Movement, Wallets, usage_id
from tallystick.metering.blocking import BLOCKED
from tallystick.metering.directory import (
    Directories,
    Directory,
    Stream,
    StreamKey,
    TotalKey,
    stream_key,
)
from tallystick.metering.entries import Entry, rows_of
from tallystick.metering.gaps import Change, estimate_remark, hours_remark, in_hours, slot_of, start_of
from tallystick.metering.levels import Measured, put_levels
from tallystick.metering.model import Batch, Measurement, Receipt, Rejection, Unreadable
from tallystick.metering.quantify import WITHOUT_UNIT_PRICE, State, in_money, scope_of
from tallystick.metering.quarantine import quarantine
from tallystick.metering.states import Outdated, Place, Standing, load, place_of, save
from tallystick.metering.unposted import UnpostedMonth, note_unposted
from tallystick.pricing.functions import Dynamic
from tallystick.pricing.model import Price

_SQL = Queries(Path(__file__).with_name("queries.sql"))

_NO_PRICE = str(NIL)

ROWS_AT_ONCE = 1_000
"""So many rows are written to the database before others get their turn."""


class Recorded(msgspec.Struct):
    """The receipts of a transaction, in the order of its batches, and what may be remembered once it has committed."""

    receipts: list[Receipt]
    directory: Directory
    streams: dict[StreamKey, Stream]
    counters: dict[Place, Standing]

    def remember(self) -> None:
        """To be called once the transaction has committed."""
        self.directory.remember(self.streams)
        self.directory.counters.put(self.counters)


class Listener(Protocol):
    """Who hears of totals without a price that have no measurements but those of this transaction: usage waits."""

    async def usage_waits(self, conn: AsyncConnection, totals: Sequence[TotalKey]) -> None: ...


class Intake:
    """Records batches. Works in the caller's transaction."""

    def __init__(
        self,
        clock: Clock,
        zone: ZoneInfo,
        directories: Directories,
        wallets: Wallets,
        listener: Listener | None = None,
    ) -> None:
        self._clock = clock
        self._listener = listener
        self._zone = zone
        self._directories = directories
        self._wallets = wallets

    def stripe(self, customer: str) -> int:
        """The stripe of the customer with this key; any number while the customer is not known here."""
        return self._directories.stripe(customer)

    async def record(self, conn: AsyncConnection, batches: list[Batch]) -> Recorded:
        """Takes batches through all steps. Only a failure of the database raises."""
        now = self._clock.now()
        directory = await self._directories.enter(conn)
        unreadable = [list(batch.unreadable) for batch in batches]
        streams, new = await self._identify(conn, directory, batches, unreadable)
        size = sum(len(batch.measurements) for batch in batches)
        await _others_turn(size)
        sent = self._entries(directory, streams, batches)
        await _others_turn(size)
        fresh, counters = await self._sift(conn, directory, sent)
        await self._quantify(conn, directory, fresh, counters)
        estimates = await self._take_levels(conn, directory, fresh)
        counted = [*fresh, *estimates] if estimates else fresh
        if directory.blocked:
            _count_for_nothing([entry for entry in counted if entry.stream.is_blocked])
        totals = await self._total(conn, counted)
        await _others_turn(size)
        _price(totals)
        movements = _movements(totals)
        await _others_turn(size)
        await self._store(conn, counted, now)
        await note_unposted(conn, _unposted(totals))
        await self._wallets.charge(conn, movements)
        for batch, pieces in zip(batches, unreadable, strict=True):
            await quarantine(conn, batch.source, pieces, now)
        return Recorded(_receipts(batches, unreadable, sent, fresh), directory, new, counters)

    async def _identify(
        self,
        conn: AsyncConnection,
        directory: Directory,
        batches: list[Batch],
        unreadable: list[list[Unreadable]],
    ) -> tuple[list[list[Stream | None]], dict[StreamKey, Stream]]:
        """The stream of every measurement, and the streams that the directory did not know and were created.

        Usage of an unknown meter that may not be created becomes unreadable, and has no stream. What the directory
        knows is taken from it at once: another transaction may let it forget while this one waits.
        """
        known = directory.streams
        streams = [[known.get(stream_key(measurement)) for measurement in batch.measurements] for batch in batches]
        missing: dict[StreamKey, bool] = {}
        for batch, found in zip(batches, streams, strict=True):
            if None in found:
                for measurement, stream in zip(batch.measurements, found, strict=True):
                    if stream is None:
                        key = stream_key(measurement)
                        missing[key] = missing.get(key, False) or batch.creates_meters
        if not missing:
            return streams, {}
        wanted = (key[2] for key, creates in missing.items() if creates)
        meters = await self._directories.create_meters(conn, directory, wanted)
        for batch, pieces in zip(batches, unreadable, strict=True):
            if not batch.creates_meters:
                pieces.extend(
                    _of_unknown_meter(measurement, index)
                    for measurement, index in zip(batch.measurements, batch.indexes, strict=True)
                    if measurement.meter not in meters
                )
        known_meters = [key for key in missing if key[2] in meters]
        new = await self._directories.create_streams(conn, meters, known_meters, directory.blocked)
        for batch, found in zip(batches, streams, strict=True):
            found[:] = [
                stream or new.get(stream_key(measurement))
                for measurement, stream in zip(batch.measurements, found, strict=True)
            ]
        return streams, new

    def _entries(self, directory: Directory, streams: list[list[Stream | None]], batches: list[Batch]) -> list[Entry]:
        zone = self._zone
        return [
            Entry(
                number,
                measurement_key(measurement.source, measurement.sender_id),
                measurement,
                stream,
                stream.window(measurement.at, directory, zone),
                measurement.value,
            )
            for number, batch in enumerate(batches)
            for measurement, stream in zip(batch.measurements, streams[number], strict=True)
            if stream is not None
        ]

    async def _sift(
        self, conn: AsyncConnection, directory: Directory, sent: list[Entry]
    ) -> tuple[list[Entry], dict[Place, Standing]]:
        """Those entries that are not known by id, neither from the store nor from earlier in these batches.

        Meters with a state are folded over one batch at a time per customer, so their customers are locked first: an id
        that another transaction is recording is then seen here. For other meters the primary key is the guard: the
        loser runs again. It is the guard as well where what is remembered of counters, which comes along, says that a
        measurement is newer than all before it: such are taken for new.
        """
        first: dict[tuple[str, bytes], Entry] = {}
        for entry in sent:
            first.setdefault((entry.stream.customer, entry.id), entry)
        stripes = {entry.stream.stripe for entry in sent if entry.stream.has_state}
        if stripes:
            await conn.execute(_SQL.lock_stripe, {"stripes": sorted(stripes)})
        counters = directory.counters.take({entry.stream.counter for entry in sent if entry.stream.counter})
        doubtful = [entry for entry in first.values() if not _is_newest(entry, counters)]
        if doubtful:
            cursor = await conn.execute(
                _SQL.known,
                {
                    "customer_ids": UuidArray.of_bytes([entry.stream.customer_bytes for entry in doubtful]),
                    "ids": UuidArray.of_bytes([entry.id for entry in doubtful]),
                },
            )
            for (place,) in await cursor.fetchall():
                known = doubtful[place - 1]
                del first[known.stream.customer, known.id]
        return list(first.values()), counters

    async def _quantify(
        self, conn: AsyncConnection, directory: Directory, fresh: list[Entry], counters: dict[Place, Standing]
    ) -> None:
        """Sets quantity and remark of entries whose meter has a state, other than a level, and where counters stand.

        For all others the quantity is the value so far. Raises ``Outdated``.
        """
        folded = sorted([entry for entry in fresh if entry.stream.is_folded], key=_at)  # of equal times the first sent
        if not folded:
            return
        places = [entry.stream.counter or _place(entry) for entry in folded]
        before = {place: standing.state for place, standing in counters.items()}
        before |= await load(conn, {place for place in places if place not in before})
        after = _fold(folded, places, before)
        try:
            await save(conn, before, after, counters)
        except Outdated:
            directory.counters.distrust()
            raise
        for entry, place in zip(folded, places, strict=True):
            if entry.stream.counter:
                at, standing = entry.measurement.at, counters.get(place)
                newest = at if standing is None or at > standing.newest else standing.newest
                counters[place] = Standing(after[place], newest)

    async def _take_levels(self, conn: AsyncConnection, directory: Directory, fresh: list[Entry]) -> list[Entry]:
        """Sets quantity and remark of a gauge's entries whose interval is no hour or whose gaps are filled.

        Answers with the estimates that they change: measurements of their own, which nobody sent.
        """
        estimates: list[Entry] = []
        levels = [entry for entry in fresh if entry.stream.is_level]
        filling = [(entry, scope) for entry in levels if (scope := entry.stream.scope) is not None]
        steps = await put_levels(conn, [_measured(entry, scope) for entry, scope in filling]) if filling else []
        for (entry, _), step in zip(filling, steps, strict=True):
            entry.quantity, entry.remark = step.difference, step.remark
            estimates += [self._estimate(directory, entry, change) for change in step.changes]
        for entry in (*levels, *estimates):
            meter, difference = entry.stream.meter, entry.quantity
            entry.quantity, entry.remark = in_hours(meter, difference), hours_remark(meter, difference, entry.remark)
        return estimates

    def _estimate(self, directory: Directory, cause: Entry, change: Change) -> Entry:
        """The measurement of an estimate, or of its change, named by the one that caused it."""
        stream, at = cause.stream, start_of(cause.stream.meter, change.slot)
        name = f"estimate/{at.isoformat()}/{cause.id.hex()}"
        return Entry(
            cause.batch,
            derived_id("estimate", name).bytes,
            msgspec.structs.replace(cause.measurement, sender_id=name, at=at, value=change.after),
            stream,
            stream.window(at, directory, self._zone),
            EXACT.subtract(change.after, change.before),
            estimate_remark(stream.meter, change),
        )

    async def _total(self, conn: AsyncConnection, fresh: list[Entry]) -> list[tuple[Decimal, list[Entry]]]:
        """Raises the totals; gives for each what it was before, with the entries that were added to it in order.

        Every transaction raises totals in the same order, so none waits for another in a circle.
        """
        groups: dict[TotalKey, list[Entry]] = {}
        for entry in fresh:
            entry.total = _total_of(entry)
            if (group := groups.get(entry.total)) is None:
                groups[entry.total] = [entry]
            else:
                group.append(entry)
        sums = {total: _sum(group) for total, group in groups.items()}
        if not groups:
            return []
        keys = sorted(groups)
        cursor = await conn.execute(
            _SQL.raise_totals,
            {
                "customer_ids": array(key[0] for key in keys),
                "periods": array(key[1] for key in keys),
                "price_ids": array(key[2] for key in keys),
                "meters": [key[3] for key in keys],
                "kinds": [key[4] for key in keys],
                "quantities": array(sums[key] for key in keys),
                "measurements": array(len(groups[key]) for key in keys),
            },
        )
        rows = await cursor.fetchall()
        without_price = [row for row in rows if row[2] == _NO_PRICE]
        if without_price and self._listener is not None:
            new = [row[:5] for row in without_price if row[6] == len(groups[row[:5]])]
            await self._listener.usage_waits(conn, new)
        subtract = EXACT.subtract
        return [(subtract(row[5], sums[row[:5]]), groups[row[:5]]) for row in rows]

    async def _store(self, conn: AsyncConnection, fresh: list[Entry], now: datetime) -> None:
        if not fresh:
            return
        async with conn.cursor() as cursor, cursor.copy(_SQL.copy_measurements) as copy:
            for start in range(0, len(fresh), ROWS_AT_ONCE):
                await copy.write(rows_of(fresh[start : start + ROWS_AT_ONCE], now))
                await _others_turn(len(fresh))


async def _others_turn(rows: int) -> None:
    """Lets other lanes feed the database, which would wait for them while this one computes over many rows."""
    if rows >= ROWS_AT_ONCE:
        await asyncio.sleep(0)


def _count_for_nothing(blocked: list[Entry]) -> None:
    """Of agents that are blocked. Where a counter stands goes on, so nothing is charged for it later either."""
    for entry in blocked:
        entry.quantity, entry.remark = Decimal(0), BLOCKED


def _total_of(entry: Entry) -> TotalKey:
    """The total an entry goes to. Under a dynamic price its quantity is money."""
    price = entry.window.price
    if price is not None and isinstance(price.model, Dynamic):
        unit_price = entry.measurement.unit_price
        if unit_price is None:
            entry.remark = entry.remark or WITHOUT_UNIT_PRICE
            return entry.window.waiting
        entry.quantity, entry.remark = in_money(entry.quantity, unit_price, entry.remark)
    return entry.window.total


def _sum(group: list[Entry]) -> Decimal:
    return reduce(EXACT.add, [entry.quantity for entry in group])


def _measured(entry: Entry, scope: UUID) -> Measured:
    stream, measurement = entry.stream, entry.measurement
    slot = slot_of(stream.meter, measurement.at)
    return Measured(stream.customer, scope, stream.meter, measurement.source, slot, measurement.value, measurement.at)


def _is_newest(entry: Entry, counters: dict[Place, Standing]) -> bool:
    """Whether a counter's measurement is newer than all that were seen of it."""
    counter = entry.stream.counter
    if counter is None or (standing := counters.get(counter)) is None:
        return False
    return entry.measurement.at > standing.newest


def _fold(entries: list[Entry], places: list[Place], before: dict[Place, State]) -> dict[Place, State]:
    """The states after these entries, which get their quantities and remarks."""
    states = before.copy()
    for entry, place in zip(entries, places, strict=True):
        step = entry.stream.fold(states.get(place), entry.measurement.value, entry.measurement.at)
        entry.quantity, states[place], entry.remark = step.quantity, step.state, step.remark
    return states


def _place(entry: Entry) -> Place:
    stream = entry.stream
    scope = scope_of(stream.meter, stream.kind, stream.resource, entry.window.period, entry.measurement.value)
    return place_of(stream.customer_id, scope)


def _at(entry: Entry) -> datetime:
    return entry.measurement.at


def _price(totals: list[tuple[Decimal, list[Entry]]]) -> None:
    """Charges each entry ``F(after) - F(before)`` of the total it was added to."""
    add = EXACT.add
    for before_all, group in totals:
        price = _price_of(group)
        if price is None:
            continue
        quantity, function = before_all, price.function
        cost = function(quantity)
        for entry in group:
            quantity = entry.after = add(quantity, entry.quantity)
            before, cost = cost, function(quantity)
            entry.amount = cost - before


def _price_of(group: list[Entry]) -> Price | None:
    """The price of a total, given the entries that were added to it."""
    window = group[0].window
    return None if group[0].total == window.waiting else window.price


def _unposted(totals: list[tuple[Decimal, list[Entry]]]) -> set[UnpostedMonth]:
    """The months whose totals were raised at a price, of those who are posted monthly."""
    months = set()
    for _, group in totals:
        stream = group[0].stream
        if stream.payer.posting_policy == "monthly" and _price_of(group) is not None:
            months.add(UnpostedMonth(stream.customer, group[0].window.period, str(stream.payer.id)))
    return months


def _movements(totals: list[tuple[Decimal, list[Entry]]]) -> list[Movement]:
    """One movement per payer and asset, of those who are posted at once."""
    charged: dict[tuple[int, int], list[Entry]] = {}
    for _, group in totals:
        payer = group[0].stream.payer
        if payer.posting_policy == "immediate" and (price := _price_of(group)) is not None:
            place = payer.id.int, price.ledger
            charged.setdefault(place, []).extend([entry for entry in group if entry.amount])
    movements = []
    for (_, ledger), entries in charged.items():
        if entries:
            first = entries[0]
            movement_id = usage_id(first.stream.payer.id, ledger, first.stream.customer_id, UUID(bytes=first.id))
            movement_text = movement_id.hex
            for entry in entries:
                entry.movement = movement_text
            amount = sum([entry.amount or 0 for entry in entries])
            movements.append(Movement(movement_id, first.stream.payer, ledger, amount))
    return movements


def _of_unknown_meter(measurement: Measurement, index: int) -> Unreadable:
    return Unreadable(
        index,
        msgspec.json.encode(measurement),
        "unknown_meter",
        f"there is no meter {measurement.meter!r} yet: create it, then replay",
        reader="measurement",
    )


def _receipts(
    batches: list[Batch], unreadable: list[list[Unreadable]], sent: list[Entry], fresh: list[Entry]
) -> list[Receipt]:
    counts = [[0, 0, 0] for _ in batches]
    for entry in sent:
        counts[entry.batch][0] += 1
    for entry in fresh:
        counts[entry.batch][1] += 1
        if entry.amount is None:
            counts[entry.batch][2] += 1
    return [
        Receipt(
            accepted=accepted,
            duplicates=received - accepted,
            unpriced=unpriced,
            rejected=[
                Rejection(piece.index, piece.code, piece.detail)
                for piece in sorted(pieces, key=lambda piece: piece.index)
            ],
        )
        for (received, accepted, unpriced), pieces in zip(counts, unreadable, strict=True)
    ]
