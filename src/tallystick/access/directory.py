"""Keys as the gate asks for them: found by their prefix, and remembered as long as nobody has changed any.

Every change of keys, agents and customers that decides whether a key works notifies (``LISTEN``) in its transaction,
and all that is remembered is forgotten. While nobody listens, nothing is remembered: each request asks the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import TupleRow

from tallystick.access.callers import Caller, Scope
from tallystick.access.keys import INVALID, RefusedKey
from tallystick.access.model import digest_of, prefix_of
from tallystick.customers.agents import AgentBlocked
from tallystick.database.pool import CONNECT_TIMEOUT_SECONDS, Pool
from tallystick.database.queries import Queries, TimestampArray, UuidArray
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Overloaded, TallyError
from tallystick.metering.model import Sender

CHANNEL: Final = "api_keys"
"""What migration 0016 notifies."""

MAX_REMEMBERED: Final = 10_000
"""Keys, and customers of tokens; then all are forgotten, and those that are used come again."""

SIGN_OF_LIFE_SECONDS: Final = 5
"""So often the connection that listens is asked whether it is still there, and so long it may take to answer."""

TRUSTED_SECONDS: Final = 12
"""What is remembered counts so long after the last sign of life: a connection that is dead without a word, or a process
that was stopped and goes on, may have missed something."""

LOOKUPS_AT_ONCE: Final = 2
MAX_LOOKUPS_WAITING: Final = 1000
"""Strangers with made-up keys cannot have more connections than that, nor more patience."""

NOTE_USE_SECONDS: Final = 60
MAX_USES_NOTED: Final = 50_000
"""Keys that were used since it was last noted; what further ones did is not."""

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0

Kept = TypeVar("Kept")

_SQL = Queries(Path(__file__).with_name("queries.sql"))
_log = structlog.get_logger("tallystick.access")


class KeyExpired(RefusedKey):
    """It was a key, until its time was over."""

    code = "key_expired"


class KeyRevoked(RefusedKey):
    """It was a key, until somebody ended it."""

    code = "key_revoked"


class AgentDeleted(TallyError):
    """The agent who held the key is no more."""

    code = "agent_deleted"
    status = 403


class CustomerDeleted(TallyError):
    """The customer who held the key is no more."""

    code = "customer_deleted"
    status = 403


@dataclass(frozen=True, slots=True)
class Found:
    """A key as the database has it: whose it is, and why it does not work, if it does not."""

    digest: bytes
    caller: Caller
    expires_at: datetime | None
    refusal: tuple[type[TallyError], str] | None


class KeyDirectory:
    """Finds keys. One for a process."""

    def __init__(self, pool: Pool, url: str, clock: Clock) -> None:
        """``url`` is the database's: listening takes a connection of its own."""
        self._pool = pool
        self._url = url
        self._clock = clock
        self._remembered: dict[str, Found] = {}
        self._customers: dict[str, Sender] = {}
        self._are_there: bool | None = None
        self._generation = 0
        self._trusted_until = 0.0
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._waiting = 0
        self._used: dict[UUID, datetime] = {}

    async def caller(self, text: str) -> Caller:
        """Who holds this key. Raises ``RefusedKey`` in one of its kinds, ``AgentBlocked``, ``AgentDeleted`` or
        ``CustomerDeleted``; ``Overloaded`` if too many keys are being looked up.

        What is wrong with a key is told only to whoever has all of it.
        """
        prefix = prefix_of(text)
        found = None if prefix is None else await self._found(prefix)
        if found is None or not hmac.compare_digest(digest_of(text), found.digest):
            raise RefusedKey(INVALID)
        if found.refusal is not None:
            refusal, detail = found.refusal
            raise refusal(detail)
        now = self._clock.now()
        if found.expires_at is not None and found.expires_at <= now:
            raise KeyExpired("this API key has expired")
        self._note(found.caller, now)
        return found.caller

    async def customer(self, name: str) -> Sender | None:
        """The customer with this key or, if there is none, this id."""
        if self._may_remember() and (known := self._customers.get(name)) is not None:
            return known
        generation = self._generation
        row = await self._ask(_SQL.named, {"name": name})
        if row is None:
            return None
        sender = Sender(*row)
        if self._may_remember(generation):
            _put(self._customers, name, sender)
        return sender

    async def are_there(self) -> bool:
        """Whether there is a key that has not ended: it decides what is said to whoever shows none."""
        if self._may_remember() and self._are_there is not None:
            return self._are_there
        generation = self._generation
        row = await self._ask(_SQL.any_active, {"now": self._clock.now()})
        are_there = bool(row and row[0])
        if self._may_remember(generation):
            self._are_there = are_there
        return are_there

    # What is remembered

    async def _found(self, prefix: str) -> Found | None:
        if self._may_remember() and (known := self._remembered.get(prefix)) is not None:
            return known
        generation = self._generation
        row = await self._ask(_SQL.by_prefix, {"prefix": prefix})
        if row is None:
            return None
        found = _read(row)
        if self._may_remember(generation):
            _put(self._remembered, prefix, found)
        return found

    def _may_remember(self, since: int | None = None) -> bool:
        """Whether what is remembered counts; and with ``since``, whether nothing has changed since that generation."""
        return time.monotonic() < self._trusted_until and since in (None, self._generation)

    def forget(self) -> None:
        """Forgets all; what is being looked up at this moment is not remembered either."""
        self._generation += 1
        self._remembered.clear()
        self._customers.clear()
        self._are_there = None

    async def _ask(self, query: str, parameters: dict[str, object]) -> TupleRow | None:
        if self._waiting >= MAX_LOOKUPS_WAITING:
            raise Overloaded("too many keys are being looked up")
        self._waiting += 1
        try:
            async with self._lookups, self._pool.connection() as conn:
                return await (await conn.execute(query, parameters)).fetchone()
        finally:
            self._waiting -= 1

    # Listening, and noting what was used

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Meanwhile keys are remembered, and it is noted when they are used."""
        tasks = [asyncio.create_task(duty()) for duty in (self._listen, self._keep_noting)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            self._distrust()
            with contextlib.suppress(psycopg.Error):  # it is about a minute, and the database may be gone
                await self.note_use()

    async def _listen(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            try:
                connect = psycopg.AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    application_name="tallystick",
                )
                async with await connect as conn:
                    await conn.execute(f"listen {CHANNEL}")
                    self.forget()
                    pause_seconds = FIRST_PAUSE_SECONDS
                    await self._hear(conn)
            except Exception as error:  # whatever it is: until somebody listens again, the database is asked
                _log.warning("keys.not_listening", error=type(error).__name__)
            finally:
                self._distrust()
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _hear(self, conn: psycopg.AsyncConnection[TupleRow]) -> None:
        """Until the connection is lost."""
        while True:
            async with asyncio.timeout(SIGN_OF_LIFE_SECONDS):
                await conn.execute("select")
            self._trusted_until = time.monotonic() + TRUSTED_SECONDS
            async for _ in conn.notifies(timeout=SIGN_OF_LIFE_SECONDS):
                self.forget()

    def _distrust(self) -> None:
        self._trusted_until = 0.0
        self.forget()

    def _note(self, caller: Caller, now: datetime) -> None:
        if caller.id is not None and (caller.id in self._used or len(self._used) < MAX_USES_NOTED):
            self._used[caller.id] = now

    async def _keep_noting(self) -> None:
        while True:
            await asyncio.sleep(NOTE_USE_SECONDS)
            try:
                await self.note_use()
            except psycopg.Error as error:
                _log.warning("keys.use_not_noted", error=type(error).__name__)

    async def note_use(self) -> None:
        """Writes when keys were last used. What cannot be written is lost: it is for people to look at."""
        used, self._used = self._used, {}
        if not used:
            return
        async with self._pool.connection() as conn:
            await conn.execute(_SQL.note_use, {"ids": UuidArray(used), "ats": TimestampArray(used.values())})


def _put(remembered: dict[str, Kept], name: str, value: Kept) -> None:
    if len(remembered) >= MAX_REMEMBERED:
        remembered.clear()
    remembered[name] = value


def _read(row: TupleRow) -> Found:
    key_id, digest, scopes, per_minute, expires_at, revoked_at, *holder = row
    customer_id, customer, is_gone, agent_id, email, is_blocked = holder
    sender = Sender(customer_id, customer, agent_id, email) if customer_id else None
    caller = Caller(frozenset(map(Scope, scopes)), sender, key_id, per_minute)
    return Found(bytes(digest), caller, expires_at, _refusal(revoked_at, is_gone, sender, is_blocked))


def _refusal(
    revoked_at: datetime | None, is_gone: bool, sender: Sender | None, is_blocked: bool
) -> tuple[type[TallyError], str] | None:
    if revoked_at is not None:
        return KeyRevoked, "this API key has been revoked"
    if sender is None:
        return None
    if is_gone:
        return CustomerDeleted, "the customer of this API key has been deleted"
    if sender.agent_id is not None and sender.agent_email is None:
        return AgentDeleted, "the agent of this API key has been deleted"
    return (AgentBlocked, "the agent of this API key is blocked") if is_blocked else None
