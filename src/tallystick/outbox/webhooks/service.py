"""Endpoints of webhooks: who is told what over HTTP, with which secret, and what became of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from tallystick.customers.service import Customers
from tallystick.database.pool import Pool
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.ids import NIL, derived_id, new_id
from tallystick.kernel.paging import Page, foreign_cursor, newest_first, next_cursor, read_cursor, read_newest_first
from tallystick.kernel.text import check_text
from tallystick.outbox.catalogue import CATALOGUE, WEBHOOK_DISABLED
from tallystick.outbox.model import EVERYBODY, Event, Subject
from tallystick.outbox.service import Outbox
from tallystick.outbox.webhooks import queue
from tallystick.outbox.webhooks.queue import Claimed, Outcome
from tallystick.outbox.webhooks.signing import new_secret
from tallystick.outbox.webhooks.territory import Territory

_SQL = Queries(Path(__file__).with_suffix(".sql"))

MAX_ENDPOINTS: Final = 20
"""Of one customer; and as many that hear of all."""

MAX_TYPES: Final = 50
"""Types and patterns of one endpoint."""

LOOK_SECONDS: Final = 1
"""How soon a process learns of the first endpoint that another one has made."""

MAX_OVERLAP_HOURS: Final = 7 * 24

MAX_REPLAYED: Final = 10_000
"""Deliveries that one call has begun anew; it says where the next one goes on."""

PRUNED_AT_ONCE: Final = 1000

TEST: Final = "webhook.test"
"""The type of the event that is sent on request, and never told otherwise."""

State = Literal["enabled", "disabled"]
DeliveryState = Literal["waiting", "delivered", "failed"]
Ended = Literal["delivered", "failed"]

_PATTERN = re.compile(r"\*|[a-z_]+(\.[a-z_]+)*(\.\*)?")
_BY_REQUEST: Final = "by request"
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)

_log = structlog.get_logger("tallystick.outbox")


class EndpointDisabled(Conflict):
    """An endpoint that is disabled is sent nothing."""

    code = "webhook_disabled"


class TooManyEndpoints(Conflict):
    """A customer has as many endpoints as it may have."""

    code = "too_many_webhooks"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Who is told. ``customer`` is the key of the one it hears of, ``None`` if of all.

    Until ``former_until`` the secret before the last rotation signs as well. ``failing_since``: since then it has
    taken nothing that it was sent.
    """

    id: UUID
    customer_id: UUID | None
    customer: str | None
    url: str
    description: str | None
    types: list[str]
    disabled_at: datetime | None
    disabled_because: str | None
    failing_since: datetime | None
    former_until: datetime | None
    created_at: datetime

    @property
    def state(self) -> State:
        """Whether it is told."""
        return "enabled" if self.disabled_at is None else "disabled"


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """What is asked for; ``customer`` is a key."""

    url: str
    types: Sequence[str] = (queue.ALL,)
    description: str | None = None
    customer: str | None = None


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """What is asked for; what is ``None`` stays as it is."""

    url: str | None = None
    types: Sequence[str] | None = None
    description: str | None = None
    state: State | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to an endpoint, and how the last attempt went.

    ``due_at`` is when it is tried next, ``None`` if at once; of one that has ended it means nothing.
    """

    event_id: UUID
    type: str
    state: DeliveryState
    attempts: int
    told_at: datetime
    due_at: datetime | None
    tried_at: datetime | None
    status: int | None
    duration_ms: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """So many deliveries begin anew; ``next`` is the cursor with which to go on, if there may be more."""

    count: int
    next: str | None


class Webhooks:
    """Works in the caller's transaction.

    ``owner`` is the key of a customer whose own endpoints alone the caller may touch; ``None``: he may touch all.
    """

    def __init__(
        self, clock: Clock, customers: Customers, outbox: Outbox, territory: Territory, *, disable_after_days: int
    ) -> None:
        self._clock = clock
        self._customers = customers
        self._outbox = outbox
        self.territory = territory
        self._disable_after_days = disable_after_days
        self._has_made_one = False  # here; it is counted on before anybody can see it

    # Endpoints

    @property
    def exist(self) -> bool:
        """Whether there is anybody to be told, as far as this process knows."""
        return self._outbox.tells_webhooks

    async def look(self, conn: AsyncConnection) -> None:
        """Notes whether there is anybody to be told at all, for the outbox to write nothing for nobody."""
        ((exist,),) = await (await conn.execute(_SQL.exist)).fetchall()
        self._outbox.tells_webhooks = exist or self._has_made_one

    @asynccontextmanager
    async def watched(self, pool: Pool) -> AsyncIterator[None]:
        """Meanwhile this process learns whether there is anybody, whoever makes the first endpoint."""
        watching = asyncio.create_task(self._watch(pool), name="webhooks")
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch(self, pool: Pool) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                async with pool.connection() as conn:
                    await self.look(conn)
            except Exception as error:
                _log.warning("webhook.not_looked", error=type(error).__name__)

    async def create(self, conn: AsyncConnection, new: NewEndpoint) -> tuple[Endpoint, str]:
        """Makes an endpoint. Its secret is answered here and never again.

        Raises ``InvalidInput``, ``TooManyEndpoints``.
        """
        endpoint_id, secret = new_id(self._clock.now()), new_secret()
        parameters = {
            "id": endpoint_id,
            "customer_id": await self._customer_id(conn, new.customer),
            "url": self.territory.check_url(new.url),
            "types": check_types(new.types),
            "description": _checked_description(new.description),
            "secret": secret,
        }
        await conn.execute(_SQL.lock)
        ((count,),) = await (await conn.execute(_SQL.count, parameters)).fetchall()
        if count >= MAX_ENDPOINTS:
            raise TooManyEndpoints(f"there are {MAX_ENDPOINTS} webhooks already: delete one first")
        await conn.execute(_SQL.insert, parameters)
        self._outbox.tells_webhooks = self._has_made_one = True
        return await self.get(conn, endpoint_id, new.customer), secret

    async def get(self, conn: AsyncConnection, endpoint_id: UUID, owner: str | None) -> Endpoint:
        """One endpoint. Raises ``NotFound``, for one that is somebody else's too."""
        found = await self._listed(conn, owner, id=endpoint_id, limit=1)
        if not found:
            raise NotFound(f"there is no webhook {endpoint_id}", field="id")
        return found[0]

    async def page(self, conn: AsyncConnection, owner: str | None, cursor: str | None, limit: int) -> Page[Endpoint]:
        """Endpoints in the order in which they were made."""
        (after,) = read_cursor(cursor, 1) or (str(NIL),)
        try:
            found = await self._listed(conn, owner, after=UUID(after), limit=limit + 1)
        except ValueError:
            raise foreign_cursor() from None
        return Page(found[:limit], next_cursor(str(found[limit - 1].id)) if len(found) > limit else None)

    async def change(
        self, conn: AsyncConnection, endpoint_id: UUID, owner: str | None, change: EndpointChange
    ) -> Endpoint:
        """Changes what is given. What waited for one that was disabled is sent once it is enabled.

        Raises ``NotFound``, ``InvalidInput``.
        """
        await self.get(conn, endpoint_id, owner)
        parameters = {
            "id": endpoint_id,
            "url": None if change.url is None else self.territory.check_url(change.url),
            "types": None if change.types is None else check_types(change.types),
            "description": _checked_description(change.description),
            "disabled": None if change.state is None else change.state == "disabled",
            "because": _BY_REQUEST,
        }
        await conn.execute(_SQL.change, parameters)
        return await self.get(conn, endpoint_id, owner)

    async def delete(self, conn: AsyncConnection, endpoint_id: UUID, owner: str | None) -> None:
        """Deletes an endpoint, and with it what waits for it. Raises ``NotFound``."""
        await self.get(conn, endpoint_id, owner)
        await conn.execute(_SQL.delete, {"id": endpoint_id})

    async def rotate(
        self, conn: AsyncConnection, endpoint_id: UUID, owner: str | None, overlap_hours: int
    ) -> tuple[Endpoint, str]:
        """Gives an endpoint another secret, which is answered here and never again. Raises ``NotFound``.

        Meanwhile the one before signs as well, for ``overlap_hours``.
        """
        await self.get(conn, endpoint_id, owner)
        secret = new_secret()
        await conn.execute(_SQL.rotate, {"id": endpoint_id, "secret": secret, "overlap_hours": overlap_hours})
        return await self.get(conn, endpoint_id, owner), secret

    # Deliveries

    async def deliveries(
        self,
        conn: AsyncConnection,
        endpoint_id: UUID,
        owner: str | None,
        cursor: str | None,
        limit: int,
        *,
        state: DeliveryState | None = None,
    ) -> Page[Delivery]:
        """What an endpoint was told, newest first. Raises ``NotFound``."""
        await self.get(conn, endpoint_id, owner)
        before, before_id = read_newest_first(cursor)
        parameters = {
            "id": endpoint_id,
            "state": state,
            "before": before,
            "before_id": before_id,
            "limit": limit + 1,
        }
        rows = await (await conn.execute(_SQL.deliveries, parameters)).fetchall()
        return newest_first([Delivery(*row) for row in rows], limit, lambda each: (each.told_at, each.event_id))

    async def replay(
        self,
        conn: AsyncConnection,
        endpoint_id: UUID,
        owner: str | None,
        *,
        since: datetime | None = None,
        state: Ended | None = None,
        cursor: str | None = None,
    ) -> Replayed:
        """Has what was told since an instant sent once more, whatever became of it, or what ended in one ``state``.

        Raises ``NotFound``, ``EndpointDisabled``.
        """
        await self._enabled(conn, endpoint_id, owner)
        place = read_cursor(cursor, 2)
        try:
            start, after = (since or _EARLIEST, NIL) if place is None else (_instant(place[0]), UUID(place[1]))
        except ValueError:
            raise foreign_cursor() from None
        parameters = {"id": endpoint_id, "state": state, "since": start, "since_id": after, "limit": MAX_REPLAYED}
        rows = await (await conn.execute(_SQL.replay, parameters)).fetchall()
        more = next_cursor(rows[-1][0].isoformat(), str(rows[-1][1])) if len(rows) == MAX_REPLAYED else None
        return Replayed(len(rows), more)

    async def replay_one(self, conn: AsyncConnection, endpoint_id: UUID, owner: str | None, event_id: UUID) -> None:
        """Has one event sent once more, or at once if it waits. Raises ``NotFound``, ``EndpointDisabled``."""
        await self._enabled(conn, endpoint_id, owner)
        if not await (await conn.execute(_SQL.replay_one, {"id": endpoint_id, "event_id": event_id})).fetchone():
            raise NotFound(f"this webhook was not told of {event_id}", field="event")

    async def test(self, conn: AsyncConnection, endpoint_id: UUID, owner: str | None) -> UUID:
        """Sends an endpoint an event that says nothing, whatever it hears of; the event's id.

        Raises ``NotFound``, ``EndpointDisabled``.
        """
        endpoint = await self._enabled(conn, endpoint_id, owner)
        now = self._clock.now()
        subject = await _subject(conn, endpoint.customer_id)
        event = Event(new_id(now), TEST, now, subject, {"id": str(endpoint_id)})
        await queue.put_for_one(conn, endpoint_id, event)
        return event.id

    async def note(self, conn: AsyncConnection, claimed: Claimed, outcome: Outcome) -> None:
        """Notes how an attempt went, and disables an endpoint that is gone or has failed for days; that is told."""
        await queue.note(conn, claimed, outcome)
        if outcome.error is None:
            return
        days = self._disable_after_days
        because = "it answered 410" if outcome.is_gone else f"it took nothing for {days} days"
        gone = await queue.give_up(conn, claimed.endpoint_id, because, gone=outcome.is_gone, days=days)
        if gone is None:
            return
        _log.warning("webhook.disabled", endpoint=str(claimed.endpoint_id), because=because)
        data = {
            "id": str(claimed.endpoint_id),
            "description": gone.description,
            "because": because,
            "failing_since": None if gone.failing_since is None else gone.failing_since.isoformat(),
        }
        event_id = derived_id("event", WEBHOOK_DISABLED.name, claimed.endpoint_id, gone.at.isoformat())
        subject = await _subject(conn, gone.customer_id)
        event = Event(event_id, WEBHOOK_DISABLED.name, self._clock.now(), subject, data)
        await self._outbox.tell(conn, [event])

    async def _customer_id(self, conn: AsyncConnection, key: str | None) -> UUID | None:
        if key is None:
            return None
        if found := await self._customers.find(conn, [key]):
            return found[key][0]
        raise InvalidInput(f"customer names no customer: {key!r}", field="customer")

    async def _enabled(self, conn: AsyncConnection, endpoint_id: UUID, owner: str | None) -> Endpoint:
        endpoint = await self.get(conn, endpoint_id, owner)
        if endpoint.state == "disabled":
            raise EndpointDisabled("this webhook is disabled: enable it first")
        return endpoint

    async def _listed(self, conn: AsyncConnection, owner: str | None, **chosen: Any) -> list[Endpoint]:
        parameters = {"id": None, "after": NIL, "customer": owner, **chosen}
        return [Endpoint(*row) for row in await (await conn.execute(_SQL.listed, parameters)).fetchall()]


async def prune(pool: Pool, *, keep_days: int) -> int:
    """Removes deliveries that are older, or whose endpoint is gone, and endpoints of customers who are; how many.

    A portion at a time is removed at once.
    """
    removed = 0
    async with pool.connection() as conn:
        await conn.execute(_SQL.prune_endpoints)
        for query in (_SQL.prune_old, _SQL.prune_orphans):
            while True:
                cursor = await conn.execute(query, {"days": keep_days, "limit": PRUNED_AT_ONCE})
                removed += cursor.rowcount
                if cursor.rowcount < PRUNED_AT_ONCE:
                    break
    return removed


def check_types(types: Sequence[str]) -> list[str]:
    """Returns what an endpoint wants to hear of, each once. Raises ``InvalidInput`` for what nobody is ever told."""
    if not 1 <= len(types) <= MAX_TYPES:
        raise InvalidInput(f"types must have 1 to {MAX_TYPES} items", field="types")
    known = {pattern for name in CATALOGUE for pattern in queue.patterns_of(name)}
    for each in types:
        if not _PATTERN.fullmatch(each) or each not in known:
            raise InvalidInput(
                f"types must be names of events, as account.created, or patterns, as account.* or *: {each[:100]!r}",
                field="types",
            )
    return list(dict.fromkeys(types))


async def _subject(conn: AsyncConnection, customer_id: UUID | None) -> Subject:
    if customer_id is None:
        return EVERYBODY
    ((*subject,),) = await (await conn.execute(_SQL.subject, {"id": customer_id})).fetchall()
    return Subject(*subject)


def _checked_description(text: str | None) -> str | None:
    return None if text is None else check_text(text, "description")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
