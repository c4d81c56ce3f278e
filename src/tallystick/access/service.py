"""Keys in the database: made, listed, revoked and rotated. A key's text is answered once, and kept nowhere."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from tallystick.access.callers import Scope
from tallystick.access.model import (
    DEFAULT_OVERLAP,
    MAX_OVERLAP,
    ApiKey,
    NewKey,
    check_new,
    check_span,
    digest_of,
    make_text,
    prefix_of,
)
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.ids import new_id
from tallystick.kernel.paging import Page, newest_first, read_newest_first
from tallystick.kernel.text import check_key

_SQL = Queries(Path(__file__).with_name("queries.sql"))


class KeyEnded(Conflict):
    """The key is revoked, expired or replaced already, so none can follow it."""

    code = "key_ended"


class Made(NamedTuple):
    """A new key, and its text, which nobody can show again."""

    key: ApiKey
    text: str


class ApiKeys:
    """Works in the caller's transaction, at whose end every process is told (triggers of migration 0016)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def create(self, conn: AsyncConnection, new: NewKey) -> Made:
        """Makes a key. Raises ``InvalidInput`` for a field that breaks its rule or names nobody."""
        check_new(new)
        customer_id, agent_id = await self._holder(conn, new)
        now = self._clock.now()
        text = make_text()
        key_id = new_id(now)
        fields = {
            "id": key_id,
            "prefix": prefix_of(text),
            "digest": digest_of(text),
            "name": new.name,
            "customer_id": customer_id,
            "agent_id": agent_id,
            "scopes": sorted(set(new.scopes)),
            "requests_per_minute": new.requests_per_minute,
            "lives": new.lives,
            "now": now,
        }
        await conn.execute(_SQL.insert, fields)
        return Made(await self.get(conn, key_id), text)

    async def get(self, conn: AsyncConnection, key_id: UUID) -> ApiKey:
        """One key. Raises ``NotFound``."""
        row = await (await conn.execute(_SQL.get, {"id": key_id})).fetchone()
        if row is None:
            raise _no_key(key_id)
        return _key(row)

    async def page(
        self, conn: AsyncConnection, cursor: str | None, limit: int, *, customer: str | None = None
    ) -> Page[ApiKey]:
        """Keys, newest first: all of them, or those of a customer and its agents. Raises ``InvalidInput``."""
        before_time, before_id = read_newest_first(cursor)
        wanted = {"before_time": before_time, "before_id": before_id, "customer": customer, "limit": limit + 1}
        rows = await (await conn.execute(_SQL.page, wanted)).fetchall()
        return newest_first([_key(row) for row in rows], limit, lambda key: (key.created_at, key.id))

    async def revoke(self, conn: AsyncConnection, key_id: UUID) -> ApiKey:
        """Ends a key for good. One that is revoked stays as it is. Raises ``NotFound``."""
        await conn.execute(_SQL.revoke, {"id": key_id, "now": self._clock.now()})
        return await self.get(conn, key_id)

    async def rotate(self, conn: AsyncConnection, key_id: UUID, overlap: timedelta = DEFAULT_OVERLAP) -> Made:
        """A new key with the same holder, scopes, limit and length of life. The old one ends after ``overlap``.

        Raises ``NotFound``, ``InvalidInput``, and ``KeyEnded`` if the old one has ended, or if another has replaced it
        already: whose text was lost must be revoked first.
        """
        check_span(overlap, timedelta(), MAX_OVERLAP, "overlap")
        await conn.execute(_SQL.lock, {"id": key_id})
        old = await self.get(conn, key_id)
        await self._refuse_ended(conn, old)
        agent = None if old.agent_id is None else str(old.agent_id)
        same = NewKey(old.name, old.scopes, old.customer, agent, old.lives, old.requests_per_minute)
        made = await self.create(conn, same)
        ends_at = self._clock.now() + overlap
        await conn.execute(_SQL.replace, {"id": key_id, "replaced_by": made.key.id, "ends_at": ends_at})
        return made

    async def any_active(self, conn: AsyncConnection) -> bool:
        """Whether there is a key that has not ended."""
        ((found,),) = await (await conn.execute(_SQL.any_active, {"now": self._clock.now()})).fetchall()
        return bool(found)

    async def _refuse_ended(self, conn: AsyncConnection, key: ApiKey) -> None:
        """Raises ``KeyEnded`` if no key can follow this one."""
        if key.revoked_at is not None:
            raise KeyEnded(f"key {key.id} is revoked", field="id")
        if key.expires_at is not None and key.expires_at <= self._clock.now():
            raise KeyEnded(f"key {key.id} has expired", field="id")
        if key.replaced_by is not None and (await self.get(conn, key.replaced_by)).revoked_at is None:
            raise KeyEnded(f"key {key.id} has been replaced already, by {key.replaced_by}", field="id")

    async def _holder(self, conn: AsyncConnection, new: NewKey) -> tuple[UUID | None, UUID | None]:
        """Ids of the customer and the agent that a key is for. An agent implies its customer."""
        if new.agent is not None:
            found = await conn.execute(_SQL.agent, {"name": check_key(new.agent, "agent")})
            if (row := await found.fetchone()) is None:
                raise InvalidInput(f"agent must name an agent, which {new.agent!r} does not", field="agent")
            agent_id, customer_id, customer = row
            if new.customer not in (None, customer):
                raise InvalidInput(f"agent must belong to customer {new.customer!r}", field="agent")
            return customer_id, agent_id
        if new.customer is None:
            return None, None
        found = await conn.execute(_SQL.customer, {"key": check_key(new.customer, "customer")})
        if (row := await found.fetchone()) is None:
            raise InvalidInput(f"customer must name a customer, which {new.customer!r} does not", field="customer")
        return row[0], None


def _no_key(key_id: UUID) -> NotFound:
    return NotFound(f"there is no key {key_id}", field="id")


def _key(row: TupleRow) -> ApiKey:
    key_id, prefix, name, customer, agent_id, scopes, *more = row
    return ApiKey(key_id, prefix, name, customer, agent_id, tuple(Scope(scope) for scope in scopes), *more)
