"""The outbox: events are written in the transaction that caused them, and leave for the broker later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

import msgspec
from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.errors import TooLarge
from tallystick.outbox.model import Event, Subject
from tallystick.outbox.webhooks import queue as webhook_queue

_SQL = Queries(Path(__file__).with_name("queries.sql"))

MAX_DATA_BYTES = 64 << 10
"""Longest data of an event, as JSON. What people may write into a field is far shorter."""

MAX_COUNTED = 100_000
"""Waiting events are counted no further; whoever has so many knows enough."""

_AT_ONCE = 5000
"""Events in one statement."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the broker is behind: events that wait (up to ``MAX_COUNTED``), and how old the oldest is."""

    waiting: int
    oldest_seconds: int


class Outbox:
    """Works in the caller's transaction, and never waits for the broker, or for anybody else."""

    def __init__(self, *, is_on: bool) -> None:
        """``is_on``: whether there is a broker. Without one nobody would ever take an event away that is for it."""
        self._tells_broker = is_on
        self.tells_webhooks = False
        """Whether there are webhooks, as far as this process knows."""

    @property
    def is_on(self) -> bool:
        """Whether anybody is told anything at all. If not, to tell costs nothing."""
        return self._tells_broker or self.tells_webhooks

    async def tell(self, conn: AsyncConnection, events: Iterable[Event]) -> None:
        """Events, in their order, once the caller's transaction commits. Raises ``TooLarge`` for data without end.

        The broker and each webhook have their own way through them: none of them can hold up the others.
        """
        if not self.is_on:
            return
        rest = iter(events)
        while some := list(islice(rest, _AT_ONCE)):
            encoded = [_encoded(event) for event in some]
            if self._tells_broker:
                await _put(conn, some, encoded)
            if self.tells_webhooks:
                await webhook_queue.put(conn, some)


async def _put(conn: AsyncConnection, events: Sequence[Event], encoded: Sequence[str]) -> None:
    await conn.execute(
        _SQL.put,
        {
            "customer_ids": UuidArray([event.subject.id for event in events]),
            "ids": UuidArray([event.id for event in events]),
            "types": [event.type for event in events],
            "ats": [event.at for event in events],
            "subjects": [event.subject.key for event in events],
            "regions": [event.subject.region for event in events],
            "vips": [event.subject.vip for event in events],
            "data": encoded,
        },
    )


async def take(conn: AsyncConnection, limit: int) -> list[Event] | None:
    """The first events that wait, in order; ``None`` if another process publishes.

    They are the caller's until his transaction ends: nobody else gets any.
    """
    ((leads,),) = await (await conn.execute(_SQL.lead)).fetchall()
    if not leads:
        return None
    rows = await (await conn.execute(_SQL.take, {"limit": limit})).fetchall()
    return [Event(id_, type_, at, Subject(*subject), data) for id_, type_, at, *subject, data in rows]


async def finish(conn: AsyncConnection, events: Sequence[Event]) -> None:
    """Removes what the broker has confirmed."""
    parameters = {
        "customer_ids": UuidArray([event.subject.id for event in events]),
        "ids": UuidArray([event.id for event in events]),
    }
    await conn.execute(_SQL.finish, parameters)


async def lag(conn: AsyncConnection, now: datetime) -> Lag:
    """How far the broker is behind."""
    ((waiting, oldest),) = await (await conn.execute(_SQL.lag, {"limit": MAX_COUNTED})).fetchall()
    return Lag(waiting, max(0, round((now - oldest).total_seconds())) if oldest else 0)


def _encoded(event: Event) -> str:
    text = msgspec.json.encode(event.data)
    if len(text) > MAX_DATA_BYTES:
        raise TooLarge(f"data of an event must have at most {MAX_DATA_BYTES} bytes; {event.type} has {len(text)}")
    return text.decode()
