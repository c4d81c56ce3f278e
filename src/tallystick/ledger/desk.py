"""Where orders to move money are handed in: carried out in groups, each exactly once, and answered for good.

Orders that arrive together are carried out in one transaction. Each has an id from which its transfers get theirs, so
running it again after a crash moves nothing twice; an ``Idempotency-Key`` extends that to the caller: the same key
gives the same answer for good, and another request under it is refused. What an order does is its handler's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from tallystick.database.group_commit import GroupCommit
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, TallyError
from tallystick.kernel.ids import derived_id

_SQL = Queries(Path(__file__).with_suffix(".sql"))

MAX_GROUP = 500
MAX_QUEUED = 5_000


class Order(Protocol):
    """What somebody wants done: a frozen dataclass with at least these fields.

    ``id`` names it: a fresh UUIDv7, or derived from ``idempotency_key`` if the caller gave one. ``type`` says who
    carries it out. ``fingerprint`` covers whatever must be the same when the key comes again.
    """

    @property
    def id(self) -> UUID: ...
    @property
    def type(self) -> str: ...
    @property
    def idempotency_key(self) -> str | None: ...
    @property
    def fingerprint(self) -> bytes: ...


Answer = dict[str, Any] | TallyError
"""What came of an order: a JSON object, or why it was refused. Both are kept under its idempotency key."""

Handler = Callable[[AsyncConnection, Sequence[Any]], Awaitable[Sequence[Answer]]]
"""Carries out orders of its types in the caller's transaction and answers each. What it raises undoes the
transaction.
"""

SomeOrder = TypeVar("SomeOrder", bound=Order)


def fingerprint(*fields: object) -> bytes:
    """A digest of what an order says; UUIDs, times and the like by their text."""
    return hashlib.sha256(json.dumps(fields, default=str).encode()).digest()


class Desk:
    """The queue of orders."""

    def __init__(self, pool: AsyncConnectionPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._handlers: list[tuple[frozenset[str], Handler]] = []
        self.group: GroupCommit[Order, Answer] = GroupCommit(
            "desk", self._execute, max_group_weight=MAX_GROUP, max_queued_weight=MAX_QUEUED
        )

    def register(self, types: Iterable[str], handler: Handler) -> None:
        """Lets ``handler`` carry out orders of these types. Within a group, who registered first goes first."""
        self._handlers.append((frozenset(types), handler))

    async def carry_out(self, order: SomeOrder) -> dict[str, Any]:
        """Carries out one order and returns its answer once that is durable.

        Raises what refused it, ``Conflict`` if its idempotency key was used for something else, ``Overloaded``,
        ``Unavailable``.
        """
        if order.idempotency_key is not None:
            order = replace(order, id=derived_id("idempotency", order.idempotency_key))  # type: ignore[type-var]
        answer = await self.group.submit(order)
        if isinstance(answer, TallyError):
            raise answer
        return answer

    async def _execute(self, orders: list[Order]) -> list[Answer]:
        async with self._pool.connection() as conn, conn.transaction():
            answers = await self._answered(conn, orders)
            unanswered = (order for order in reversed(orders) if order.id.int not in answers)
            fresh = list({order.id.int: order for order in unanswered}.values())[::-1]
            for types, handler in self._handlers:
                if mine := [order for order in fresh if order.type in types]:
                    for order, answer in zip(mine, await handler(conn, mine), strict=True):
                        answers[order.id.int] = order.fingerprint if order.idempotency_key else b"", answer
            await self._keep(conn, fresh, answers)
        return [_answer_for(order, *answers[order.id.int]) for order in orders]

    async def _answered(self, conn: AsyncConnection, orders: list[Order]) -> dict[int, tuple[bytes, Answer]]:
        """By the integers of their ids, which are found ten times as fast as the ids themselves."""
        keys = [order.idempotency_key for order in orders if order.idempotency_key is not None]
        if not keys:
            return {}
        rows = await (await conn.execute(_SQL.answered, {"keys": keys})).fetchall()
        return {derived_id("idempotency", key).int: (known, _from_json(answer)) for key, known, answer in rows}

    async def _keep(self, conn: AsyncConnection, orders: list[Order], answers: dict[int, tuple[bytes, Answer]]) -> None:
        """Whoever carries out the same key meanwhile is met here: this transaction then fails and runs again."""
        keyed = [order for order in orders if order.idempotency_key is not None]
        if keyed:
            await conn.execute(
                _SQL.keep_answers,
                {
                    "keys": [order.idempotency_key for order in keyed],
                    "fingerprints": [order.fingerprint for order in keyed],
                    "answers": [json.dumps(_as_json(answers[order.id.int][1])) for order in keyed],
                    "now": self._clock.now(),
                },
            )


def _as_json(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, TallyError):
        return {"error": answer.code, "detail": answer.detail, "field": answer.field}
    return {"answer": answer}


def _from_json(kept: dict[str, Any]) -> Answer:
    if "error" in kept:
        return errors_by_code()[kept["error"]](kept["detail"], field=kept.get("field"))
    if "answer" in kept:
        answer: dict[str, Any] = kept["answer"]
        return answer
    return kept  # an answer of version 0.1


def errors_by_code() -> dict[str, type[TallyError]]:
    """Refusals by code; of those that share one, the most general."""
    kinds: list[type[TallyError]] = [TallyError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code: kind for kind in reversed(kinds)}


def _answer_for(order: Order, known: bytes, answer: Answer) -> Answer:
    if order.idempotency_key is None or known == order.fingerprint:
        return answer
    return Conflict("Idempotency-Key was used for another request before", field="Idempotency-Key")
