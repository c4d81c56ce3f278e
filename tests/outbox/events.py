"""Events for tests, and what waits in an outbox."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tallystick.customers.model import Region
from tallystick.database.pool import Pool
from tallystick.outbox.model import Event, Subject
from tallystick.outbox.service import Outbox, take

AT = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)


def subject(number: int = 1, *, region: Region = "emea", vip: bool = False) -> Subject:
    return Subject(UUID(int=number), f"customer-{number}", region, vip)


def event(number: int, about: Subject | None = None, **data: Any) -> Event:
    """The event with this number as its id."""
    return Event(UUID(int=number), "account.changed", AT, about or subject(), data or {"number": number})


async def tell(pool: Pool, *events: Event) -> None:
    async with pool.connection() as conn, conn.transaction():
        await Outbox(is_on=True).tell(conn, events)


async def waiting(pool: Pool) -> list[Event]:
    """What could be published now, in order."""
    async with pool.connection() as conn, conn.transaction():
        return await take(conn, 100_000) or []
