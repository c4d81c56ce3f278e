"""Events on their way to endpoints: put there with their cause, claimed by whoever sends them, and noted.

All instants are the database's: every worker compares with the same clock, whatever its machine or the books have.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray
from tallystick.outbox.messages import cloud_event
from tallystick.outbox.model import Event

_SQL = Queries(Path(__file__).with_suffix(".sql"))

PAUSES_SECONDS: Final = (
    5,
    5 * 60,
    30 * 60,
    2 * 3600,
    5 * 3600,
    10 * 3600,
    14 * 3600,
    20 * 3600,
    24 * 3600,
)
"""After each failure but the last, which gives a delivery up: in all more than three days."""

JITTER: Final = 5
"""A pause is longer by up to one of so many parts, so that what failed together does not come back together."""

LONGEST_PAUSE_SECONDS: Final = 24 * 3600
"""An endpoint may ask for longer pauses than ours, but for none longer than this."""

LEASE_SECONDS: Final = 60
"""Whoever has not noted by then how an attempt went has died; an attempt itself takes 15 seconds at most."""

MAX_COUNTED: Final = 100_000
"""Waiting deliveries are counted no further."""

ALL: Final = "*"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is ours to try now; ``keys`` are the endpoint's secrets, ``at`` is when the attempt begins."""

    customer_id: UUID
    endpoint_id: UUID
    event_id: UUID
    type: str
    body: str = field(repr=False)
    attempt: int
    at: datetime
    url: str = field(repr=False)  # there may be a secret in it
    keys: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went. ``error`` is a short sentence, ``None`` if the endpoint took it.

    ``status`` is that of the answer, ``None`` if there was none; ``pause_seconds`` what the endpoint asked for.
    """

    status: int | None
    error: str | None
    duration_ms: int
    pause_seconds: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether the endpoint wants nothing any more, as the specification has it: 410 Gone."""
        return self.status == 410


@dataclass(frozen=True, slots=True)
class GivenUp:
    """An endpoint that has just been disabled. ``customer_id`` is ``None`` for one that heard of all customers."""

    at: datetime
    failing_since: datetime | None
    description: str | None
    customer_id: UUID | None


@dataclass(frozen=True, slots=True)
class Lag:
    """Deliveries that wait (up to ``MAX_COUNTED``), and how old the oldest is."""

    waiting: int
    oldest_seconds: int


def patterns_of(type_: str) -> list[str]:
    """All that an endpoint may call this type: ``*``, ``account.*``, ``account.created``."""
    parts = type_.split(".")
    return [ALL, *(".".join([*parts[:count], ALL]) for count in range(1, len(parts))), type_]


def pause_seconds(attempt: int, asked_seconds: int = 0) -> int | None:
    """How long to wait after an attempt has failed; ``None`` if it was the last."""
    if attempt > len(PAUSES_SECONDS):
        return None
    pause = PAUSES_SECONDS[attempt - 1]
    return min(LONGEST_PAUSE_SECONDS, max(pause, asked_seconds)) + random.randint(0, pause // JITTER)  # noqa: S311


async def put(conn: AsyncConnection, events: Sequence[Event]) -> None:
    """Puts events on their way to every endpoint that hears of them."""
    await conn.execute(
        _SQL.put,
        {
            "customer_ids": UuidArray([event.subject.id for event in events]),
            "event_ids": UuidArray([event.id for event in events]),
            "types": [event.type for event in events],
            "patterns": [" ".join(patterns_of(event.type)) for event in events],
            "bodies": [body_of(event) for event in events],
        },
    )


async def put_for_one(conn: AsyncConnection, endpoint_id: UUID, event: Event) -> None:
    """Puts an event on its way to one endpoint, whatever that hears of."""
    parameters = {
        "customer_id": event.subject.id,
        "endpoint_id": endpoint_id,
        "event_id": event.id,
        "type": event.type,
        "body": body_of(event),
    }
    await conn.execute(_SQL.put_for_one, parameters)


def body_of(event: Event) -> str:
    """What is sent: the same document as to the broker."""
    return msgspec.json.encode(cloud_event(event)).decode()


async def claim(conn: AsyncConnection, limit: int, *, failing: bool, full: Iterable[UUID]) -> list[Claimed]:
    """The next deliveries, one of each endpoint at most, that fails, or does not; none of those that are ``full``."""
    parameters = {"limit": limit, "failing": failing, "full": UuidArray(full), "lease_seconds": LEASE_SECONDS}
    rows = await (await conn.execute(_SQL.claim, parameters)).fetchall()
    return [Claimed(*(*row[:-2], tuple(filter(None, row[-2:])))) for row in rows]


async def note(conn: AsyncConnection, claimed: Claimed, outcome: Outcome) -> None:
    """Notes how an attempt went: delivered, to be tried again, or failed for good."""
    pause = pause_seconds(claimed.attempt, outcome.pause_seconds)
    state = "delivered" if outcome.error is None else "failed" if pause is None or outcome.is_gone else "waiting"
    await conn.execute(
        _SQL.note,
        {
            "customer_id": claimed.customer_id,
            "endpoint_id": claimed.endpoint_id,
            "event_id": claimed.event_id,
            "attempt": claimed.attempt,
            "state": state,
            "pause_seconds": pause or 0,
            "status": outcome.status,
            "duration_ms": outcome.duration_ms,
            "error": outcome.error,
        },
    )
    query = _SQL.recovered if outcome.error is None else _SQL.failing
    await conn.execute(query, {"endpoint_id": claimed.endpoint_id})


async def give_up(conn: AsyncConnection, endpoint_id: UUID, because: str, *, gone: bool, days: int) -> GivenUp | None:
    """Disables an endpoint that is ``gone``, or has failed for so many days. ``None`` if it stays as it is."""
    parameters = {"endpoint_id": endpoint_id, "because": because, "gone": gone, "days": days}
    row = await (await conn.execute(_SQL.give_up, parameters)).fetchone()
    return None if row is None else GivenUp(*row)


async def count_endpoints(conn: AsyncConnection) -> dict[str, int]:
    """How many endpoints are enabled, disabled, and enabled while they fail."""
    (row,) = await (await conn.execute(_SQL.count_endpoints)).fetchall()
    return dict(zip(("enabled", "failing", "disabled"), row, strict=True))


async def lag(conn: AsyncConnection) -> Lag:
    """How much waits to be delivered, to endpoints that are told."""
    ((waiting, oldest),) = await (await conn.execute(_SQL.lag, {"limit": MAX_COUNTED})).fetchall()
    return Lag(waiting, max(0, oldest))
