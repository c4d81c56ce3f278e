"""What the proof says when somebody has tampered with where a counter stands, or with what was measured of it."""

from __future__ import annotations

import pytest

from tallystick.database.pool import Connection
from tallystick.metering.model import Meter
from tallystick.metering.quantify import counter_scope
from tallystick.operations.verify import Verify
from tests.operations.damage import SOLO, damage, detail, failed

COUNTERS = "counters_stand"
STATE = f"customer_id = {SOLO} and scope = '{counter_scope(Meter('project_vcpu_usage'), '')}'"
NAME = "counter of solo, meter ''project_vcpu_usage'', resource ''''"

LATEST = "at + interval '2 hours'"

DAMAGES = {
    "it stands at another value": (
        f"update meter_states set value = 30 where {STATE}"
        f" returning '{NAME}: stands at 30 since ' || at || ', found no measurement of that value'",
    ),
    "it stands at another instant": (
        f"update meter_states set at = at + interval '1 hour' where {STATE}"
        f" returning '{NAME}: stands at 31 since ' || at || ', found no measurement of that value'",
    ),
    "it fell back to where it stood before": (
        f"update meter_states set value = 25, at = at - interval '2 hours' where {STATE}"
        f" returning '{NAME}: stands at 25 since ' || at || ', found that it was counted at ' || {LATEST}",
    ),
    "it stands nowhere": (
        f"delete from meter_states where {STATE} returning '{NAME}: 4 measurements, found no state'",
    ),
    "its latest measurement is gone": (
        f"delete from measurements where customer_id = {SOLO} and sender_id = 'vcpu-3'"
        f" returning '{NAME}: stands at 31 since ' || at || ', found no measurement of that value'",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_tampering_is_found_and_named(name: str, conn: Connection, verify: Verify) -> None:
    named = await damage(conn, *DAMAGES[name])
    verdict = await verify.run(conn)
    assert COUNTERS in failed(verdict)
    assert named in detail(verdict, COUNTERS)


async def test_those_of_others_are_not_looked_at(conn: Connection, verify: Verify) -> None:
    await damage(conn, *DAMAGES["it stands at another value"])
    assert failed(await verify.run(conn, "solo")) == {COUNTERS}
    assert (await verify.run(conn, "plant")).holds


async def test_a_series_without_measurements_needs_no_state(conn: Connection, verify: Verify) -> None:
    """What was sent in it was known already by its id."""
    await conn.execute(
        f"insert into series select customer_id, gen_random_uuid(), source, meter, kind, 'other', agent from series"
        f" where customer_id = {SOLO} and meter = 'project_vcpu_usage'"
    )
    assert (await verify.run(conn)).holds
