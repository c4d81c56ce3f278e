"""What happens in the rooms below, told: each of them has a ``Listener`` to which it says so, and this is it.

It is said in the transaction in which it happens, after the rows are written, which are read here once more. The same
fact has the same id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.customers.model import Customer
from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.calendar import month_starting
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import derived_id
from tallystick.kernel.money import format_amount
from tallystick.ledger.grant_model import CreditGrant
from tallystick.ledger.grants import Place
from tallystick.metering.directory import TotalKey
from tallystick.metering.reading_model import Reading
from tallystick.outbox.catalogue import (
    ACCOUNT_CREATED,
    GRANT_EXPIRED,
    GRANT_MADE,
    GRANT_VOIDED,
    PRICE_CHANGED,
    READING_FAILED,
    USAGE_POSTED,
    USAGE_UNPRICED,
    EventType,
)
from tallystick.outbox.model import EVERYBODY, Event, Subject
from tallystick.outbox.service import Outbox
from tallystick.pricing.service import ListedPrice

_SQL = Queries(Path(__file__).with_suffix(".sql"))


class Facts:
    """Works in the caller's transaction; does nothing, and costs nothing, where nobody is told anything."""

    def __init__(self, clock: Clock, outbox: Outbox) -> None:
        self._clock = clock
        self._outbox = outbox

    async def customers_came(self, conn: AsyncConnection, customers: Sequence[Customer]) -> None:
        """Customers were created: described by somebody, opened by an instruction, or named by usage."""
        events = (
            self._event(
                ACCOUNT_CREATED,
                Subject.of(customer),
                {"id": str(customer.id), "name": customer.name, "email": customer.email},
                customer.id,
            )
            for customer in customers
        )
        await self._outbox.tell(conn, events)

    async def grants_made(self, conn: AsyncConnection, places: Collection[Place]) -> None:
        """Credits of grants have come in."""
        if not self._outbox.is_on or not places:
            return
        events = []
        for *about, id_, asset, amount, category, priority, source, reason, expires_at in await self._of(
            conn, _SQL.grants, places
        ):
            data = {
                "id": str(id_),
                "asset": asset,
                "amount": format_amount(int(amount)),
                "category": category,
                "priority": priority,
                "source": source,
                "reason": reason,
                "expires_at": None if expires_at is None else expires_at.isoformat(),
            }
            events.append(self._event(GRANT_MADE, Subject(*about), data, id_))
        await self._outbox.tell(conn, events)

    async def grants_ended(self, conn: AsyncConnection, ended: Sequence[tuple[CreditGrant, int]]) -> None:
        """Grants have expired or were voided, with so many microunits left, of which holds may still have some."""
        if not self._outbox.is_on or not ended:
            return
        left = {grant.id: amount for grant, amount in ended}
        kinds = {grant.id: GRANT_VOIDED if grant.state == "voided" else GRANT_EXPIRED for grant, _ in ended}
        events = []
        for *about, id_, asset, amount, category, _, _, _, _ in await self._of(
            conn, _SQL.grants, [(grant.payer.id, grant.id) for grant, _ in ended]
        ):
            data = {
                "id": str(id_),
                "asset": asset,
                "amount": format_amount(int(amount)),
                "left": format_amount(left[id_]),
                "category": category,
            }
            events.append(self._event(kinds[id_], Subject(*about), data, id_))
        await self._outbox.tell(conn, events)

    async def price_changed(self, conn: AsyncConnection, customer_id: UUID | None, price: ListedPrice) -> None:
        """A price was added, for one customer or for everybody."""
        if not self._outbox.is_on:
            return
        subject = EVERYBODY if customer_id is None else (await self._subjects(conn, [customer_id]))[customer_id]
        data = {
            "id": str(price.id),
            "meter": price.meter,
            "kind": price.kind,
            "customer": price.customer,
            "effective_from": price.effective_from.isoformat(),
            "asset": price.asset,
            "quantum": price.quantum,
            "model": price.model,
        }
        await self._outbox.tell(conn, [self._event(PRICE_CHANGED, subject, data, price.id)])

    async def usage_waits(self, conn: AsyncConnection, totals: Sequence[TotalKey]) -> None:
        """For the first time in a month, usage of a customer, meter and kind has no price."""
        if not self._outbox.is_on or not totals:
            return
        subjects = await self._subjects(conn, {UUID(total[0]) for total in totals})
        events = []
        for customer_id, period, _, meter, kind in totals:
            data = {"meter": meter, "kind": kind, "month": str(month_starting(date.fromisoformat(period)))}
            subject = subjects[UUID(customer_id)]
            events.append(self._event(USAGE_UNPRICED, subject, data, customer_id, period, meter, kind))
        await self._outbox.tell(conn, events)

    async def reading_failed(self, conn: AsyncConnection, reading: Reading) -> None:
        """A reading has ended, and nothing, or not all, could be read of its source."""
        if not self._outbox.is_on:
            return
        data = {
            "id": str(reading.id),
            "source": reading.source,
            "state": reading.state,
            "interval_start": None if reading.interval_start is None else reading.interval_start.isoformat(),
            "failures": len(reading.failures),
            "detail": reading.failures[0].detail if reading.failures else None,
        }
        event = self._event(READING_FAILED, EVERYBODY, data, reading.id, reading.state)
        await self._outbox.tell(conn, [event])

    async def usage_posted(self, conn: AsyncConnection, places: Collection[Place]) -> None:
        """Months, or supplements to them, have been posted in the books of payers."""
        if not self._outbox.is_on:
            return
        events = []
        for *about, id_, asset, amount, period, number in await self._of(conn, _SQL.postings, places):
            data = {
                "id": str(id_),
                "month": str(month_starting(period)),
                "supplement": number,
                "asset": asset,
                "amount": format_amount(int(amount)),
            }
            events.append(self._event(USAGE_POSTED, Subject(*about), data, id_))
        await self._outbox.tell(conn, events)

    async def _of(self, conn: AsyncConnection, query: str, places: Collection[Place]) -> list[tuple[Any, ...]]:
        """Rows by customer and id, each with the subject first."""
        parameters = {
            "customer_ids": UuidArray(customer_id for customer_id, _ in places),
            "ids": UuidArray(id_ for _, id_ in places),
        }
        return await (await conn.execute(query, parameters)).fetchall()

    async def _subjects(self, conn: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, Subject]:
        rows = await (await conn.execute(_SQL.subjects, {"ids": UuidArray(ids)})).fetchall()
        return {subject.id: subject for subject in (Subject(*row) for row in rows)}

    def _event(self, kind: EventType, subject: Subject, data: dict[str, Any], *cause: str | UUID) -> Event:
        return Event(derived_id("event", kind.name, *cause), kind.name, self._clock.now(), subject, data)
