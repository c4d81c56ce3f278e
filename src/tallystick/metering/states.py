"""Where counters, maxima and latest values stand: kept in the database, and of counters remembered in memory too.

Counters come in again and again, mostly to the process that had them last. It need not read them: it writes where they
stand now, on condition that they still stand where it remembers. If one does not, because another process has moved it,
everything is undone, and done again without memory.

Whoever calls holds the locks of the customers' stripes, so nobody else changes their states meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from tallystick.database.group_commit import LostRace
from tallystick.database.queries import Queries, TimestampArray, UuidArray, array
from tallystick.metering.quantify import State

_SQL = Queries(Path(__file__).with_name("states.sql"))

MAX_REMEMBERED: Final = 200_000
"""Counters kept in memory, about 400 bytes each; beyond that, remembering starts anew."""

TRANSACTIONS_WITHOUT_MEMORY: Final = 100
"""So many transactions are not remembered after one that was misled: where several processes take in the same counters
in turns, being misled each time would cost more than reading."""

Place = bytes
"""The ids of a customer and of the scope of a state, one after the other."""

_ID_BYTES = 16


def place_of(customer_id: UUID, scope: UUID) -> Place:
    """The place of a customer's scope."""
    return customer_id.bytes + scope.bytes


class Outdated(LostRace):
    """A state is not what was remembered. What was done on its account must be undone, and done again."""


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of a counter: its state, and the time of its newest measurement, whether or not it counted."""

    state: State
    newest: datetime


class Memory:
    """What this process has seen of counters.

    A transaction takes out what it works with, and what it leaves is put back once it has committed. So no two work
    with the same memory, and one that fails leaves none behind: run again, it reads.
    """

    def __init__(self) -> None:
        self._standings: dict[Place, Standing] = {}
        self._pause = 0

    def take(self, places: Iterable[Place]) -> dict[Place, Standing]:
        """What is remembered of these places, for one who has locked their customers. It is forgotten here."""
        pop = self._standings.pop
        return {place: standing for place in places if (standing := pop(place, None)) is not None}

    def put(self, standings: Mapping[Place, Standing]) -> None:
        """Remembers what a transaction leaves that has committed."""
        if self._pause:
            self._pause -= bool(standings)
            return
        if len(self._standings) + len(standings) > MAX_REMEMBERED:
            self._standings.clear()
        self._standings.update(standings)

    def distrust(self) -> None:
        """Forgets everything, and remembers nothing for a while."""
        self._standings.clear()
        self._pause = TRANSACTIONS_WITHOUT_MEMORY


async def load(conn: AsyncConnection, places: Collection[Place]) -> dict[Place, State]:
    """The states of those places that have one."""
    if not places:
        return {}
    wanted = list(places)
    cursor = await conn.execute(_SQL.states, _ids(wanted))
    return {wanted[number - 1]: State(value, at) for number, value, at in await cursor.fetchall()}


async def save(
    conn: AsyncConnection, before: Mapping[Place, State], after: Mapping[Place, State], believed: Collection[Place]
) -> None:
    """Writes the states ``after``; places that are not in ``before`` had none.

    Raises ``Outdated`` if a place stands elsewhere than ``before`` says. Of those that stay where they are, only the
    ``believed`` are looked at: the others were read under the same lock.
    """
    begun = [place for place in after if place not in before]
    moved = [place for place, state in before.items() if after[place] is not state]
    stood = [place for place in believed if after[place] is before[place]]
    if begun:
        await conn.execute(_SQL.begin, _ids(begun) | _states(after, begun))
    if moved:
        cursor = await conn.execute(_SQL.move, _ids(moved) | _states(after, moved) | _befores(before, moved))
        _check(cursor.rowcount, moved)
    if stood:
        row = await (await conn.execute(_SQL.count_standing, _ids(stood) | _befores(before, stood))).fetchone()
        _check(row[0] if row else 0, stood)


def _check(found: int, expected: Collection[Place]) -> None:
    if found != len(expected):
        raise Outdated(f"{len(expected) - found} of {len(expected)} states are not what was remembered")


def _ids(places: Collection[Place]) -> dict[str, object]:
    return {
        "customer_ids": UuidArray.of_bytes([place[:_ID_BYTES] for place in places]),
        "scopes": UuidArray.of_bytes([place[_ID_BYTES:] for place in places]),
    }


def _states(states: Mapping[Place, State], places: Collection[Place]) -> dict[str, object]:
    return {
        "values": array([states[place].value for place in places]),
        "ats": TimestampArray([states[place].at for place in places]),
    }


def _befores(states: Mapping[Place, State], places: Collection[Place]) -> dict[str, object]:
    return {f"{name}_before": value for name, value in _states(states, places).items()}
