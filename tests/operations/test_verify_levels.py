"""What the proof says when somebody has tampered with the levels of gauges, or with what they come from."""

from __future__ import annotations

import pytest

from tallystick.database.pool import Connection
from tallystick.metering.gaps import level_scope
from tallystick.metering.model import Meter
from tallystick.operations.verify import Verify
from tests.operations.damage import damage, detail, failed

LEVELS = "levels_equal_measurements"
PLANT = "(select id from customers where key = 'plant')"
FREE = f"customer_id = {PLANT} and sender_id = 'free'"
WATER = "level of plant, meter ''water'', kind '''', resource '''', from 2026-03-10T"

HEAT = level_scope(Meter("heat"), "events:test", "", "", "")

# Intervals of half an hour.
ESTIMATED, MEASURED, LAST = "slot = 35487331", "slot = 35487334", "slot = 35487341"

HALF_PAST = "timestamptz '2026-03-10 14:30+00'"

DAMAGES = {
    "a level is another value than was measured": (
        f"update gauge_levels set value = 11 where {MEASURED}"
        f" returning '{WATER}11:00Z: stands at 11 since ' || at || ', found no measurement of that value'",
    ),
    "an estimate is another one": (
        f"update gauge_levels set value = 9 where {ESTIMATED}"
        f" returning '{WATER}09:30Z: stands at 9, found measurements that come to 8.5'",
    ),
    "a level is gone": (
        f"delete from gauge_levels where {MEASURED} returning '{WATER}11:00Z: 1 measurements, found no level'",
    ),
    "a level has no measurements": (
        f"insert into gauge_levels values ({PLANT}, gen_random_uuid(), 7, 3.50, null)"
        " returning 'level of plant in scope ' || scope || ', interval 7: stands at 3.5, found no measurement in it'",
    ),
    "a level is somebody else's": (
        f"update gauge_levels set scope = gen_random_uuid() where {LAST}"
        " returning 'level of plant in scope ' || scope || ', interval ' || slot || ': stands at 13'",
    ),
    "what was measured is said to be estimated": (
        f"update gauge_levels set at = null where {LAST}"
        f" returning '{WATER}14:30Z: its latest value is of ' || {HALF_PAST} || ', found an estimate'",
    ),
    "what was estimated is said to be measured": (
        f"update gauge_levels set at = '2026-03-10 09:30+00' where {ESTIMATED}"
        f" returning '{WATER}09:30Z: its latest value is of nobody, found ' || at",
    ),
    "a level is of an earlier instant": (
        f"update gauge_levels set at = at - interval '1 minute' where {LAST}"
        f" returning '{WATER}14:30Z: its latest value is of ' || at + interval '1 minute' || ', found ' || at",
    ),
    "a measurement adds something else": (
        f"update measurements set quantity = quantity + 1 where customer_id = {PLANT} and sender_id = 'water-2'"
        f" returning '{WATER}11:00Z: stands at 10, found measurements that come to 12'",
    ),
    "a measurement is gone": (
        f"delete from measurements where customer_id = {PLANT} and sender_id = 'water-5.5' returning 'in scope '",
    ),
    "a level under a dynamic price is another value than was measured": (
        f"update gauge_levels as l set value = 14 where scope = '{HEAT}' and slot = 17743668"
        " returning '12:00Z: stands at 14 since ' || at || ', found no measurement of that value'",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_tampering_is_found_and_named(name: str, conn: Connection, verify: Verify) -> None:
    named = await damage(conn, *DAMAGES[name])
    verdict = await verify.run(conn)
    assert LEVELS in failed(verdict)
    assert named in detail(verdict, LEVELS)


async def test_an_interval_with_values_from_before_gaps_were_filled_is_left_out(
    conn: Connection, verify: Verify
) -> None:
    """Such a value was charged beside the level. Whatever came later is proven."""
    await conn.execute(f"update measurements set recorded_at = recorded_at - interval '2 days' where {FREE}")
    await conn.execute("update meters set gaps_filled_since = gaps_filled_since - interval '1 day' where key = 'power'")
    assert (await verify.run(conn)).holds
    await conn.execute("update meters set gaps_filled_since = null where key = 'power'")
    found = detail(await verify.run(conn), LEVELS)
    assert "resource 'm', from 2026-03-10T09:00Z: stands at 8, found measurements that come to 15" in found
    assert found.startswith("1 differences in ")


async def test_those_of_others_are_not_looked_at(conn: Connection, verify: Verify) -> None:
    await damage(conn, *DAMAGES["an estimate is another one"])
    assert failed(await verify.run(conn, "plant")) == {LEVELS}
    assert (await verify.run(conn, "solo")).holds
