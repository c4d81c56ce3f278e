"""Where gauges stand whose gaps are filled: kept in the database, read and written for a whole batch at once.

Whoever calls holds the locks of the customers' stripes, so nobody else changes their levels meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, array
from tallystick.metering.gaps import Level, Step, put, reach_of, slot_of, start_of
from tallystick.metering.model import Meter
from tallystick.metering.reading_model import key_of_source

_SQL = Queries(Path(__file__).with_name("levels.sql"))

Place = tuple[str, UUID]
"""Customer id and scope."""


class Measured(NamedTuple):
    """One value on its way into a level."""

    customer: str
    scope: UUID
    meter: Meter
    source: str
    slot: int
    value: Decimal
    at: datetime

    @property
    def place(self) -> Place:
        return self.customer, self.scope


async def put_levels(conn: AsyncConnection, measured: Sequence[Measured]) -> list[Step]:
    """Takes values in, in the order of their times, of equal times the first sent; the steps in the order given."""
    known = await _load(conn, measured)
    covered = await _covered(conn, measured)
    steps: dict[int, Step] = {}
    touched: dict[tuple[str, UUID, int], Level] = {}
    for index in sorted(range(len(measured)), key=lambda index: measured[index].at):
        item = measured[index]
        levels, slots = known[item.place], covered[item.source, item.meter.key]
        step = steps[index] = put(item.meter, levels, slots, item.slot, item.value, item.at)
        for slot in (item.slot, *(change.slot for change in step.changes)):
            touched[item.customer, item.scope, slot] = levels[slot]
    await _save(conn, touched)
    return [steps[index] for index in range(len(measured))]


async def _load(conn: AsyncConnection, measured: Sequence[Measured]) -> dict[Place, dict[int, Level]]:
    """The levels within reach of each value."""
    wanted = sorted({(*item.place, item.slot, reach_of(item.meter)) for item in measured})
    cursor = await conn.execute(
        _SQL.levels,
        {
            "customer_ids": array(customer for customer, _, _, _ in wanted),
            "scopes": array(scope for _, scope, _, _ in wanted),
            "firsts": array(slot - reach for _, _, slot, reach in wanted),
            "lasts": array(slot + reach for _, _, slot, reach in wanted),
        },
    )
    known: dict[Place, dict[int, Level]] = {item.place: {} for item in measured}
    for customer, scope, slot, value, at in await cursor.fetchall():
        known[customer, scope][slot] = Level(value, at)
    return known


async def _covered(conn: AsyncConnection, measured: Sequence[Measured]) -> defaultdict[tuple[str, str], set[int]]:
    """Intervals in which a source that is pulled was asked for a meter, within reach of the values."""
    spans: dict[tuple[str, str], tuple[Meter, int, int]] = {}
    for item in measured:
        if key_of_source(item.source) is not None:
            name = item.source, item.meter.key
            _, first, last = spans.get(name, (item.meter, item.slot, item.slot))
            spans[name] = item.meter, min(first, item.slot), max(last, item.slot)
    covered: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    if not spans:
        return covered
    cursor = await conn.execute(
        _SQL.covered,
        {
            "sources": [key_of_source(source) for source, _ in spans],
            "meters": [meter for _, meter in spans],
            "firsts": [start_of(meter, first - reach_of(meter)) for meter, first, _ in spans.values()],
            "lasts": [start_of(meter, last + reach_of(meter) + 1) for meter, _, last in spans.values()],
        },
    )
    sources = {(key_of_source(source), meter): (source, meter) for source, meter in spans}
    for key, meter, at in await cursor.fetchall():
        name = sources[key, meter]
        covered[name].add(slot_of(spans[name][0], at))
    return covered


async def _save(conn: AsyncConnection, touched: dict[tuple[str, UUID, int], Level]) -> None:
    await conn.execute(
        _SQL.save_levels,
        {
            "customer_ids": array(customer for customer, _, _ in touched),
            "scopes": array(scope for _, scope, _ in touched),
            "slots": array(slot for _, _, slot in touched),
            "values": array(level.value for level in touched.values()),
            "ats": [level.at for level in touched.values()],
        },
    )
