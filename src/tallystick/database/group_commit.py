"""Group commit: many small requests share one transaction, so that each need not wait for a disk of its own.

Requests queue while a transaction is under way; the next one takes all of them, up to a limit. The queue is bounded:
when it is full a request is refused at once and may be sent again. A group that fails is run again one by one, so a bad
request harms only itself.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import psycopg
import structlog

from tallystick.kernel.counting import SECONDS, Distribution
from tallystick.kernel.errors import Overloaded, Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_ATTEMPTS = 6
"""How often a transaction that lost a race, or its connection, is run. Whoever runs under this must be repeatable."""

FIRST_PAUSE_SECONDS = 0.05

WEIGHTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)

MAX_STACK_FRAMES: Final = 20


class LostRace(Exception):
    """A transaction has found that another came before it. Nothing is wrong: run again, it sees what that one did."""


_LOST_RACE = (
    LostRace,
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
_LOST_CONNECTION = (psycopg.OperationalError, psycopg.InterfaceError)

_log = structlog.get_logger()


class GroupCommit(Generic[Item, Answer]):
    """Runs ``execute`` on groups of submitted items, one group after the other.

    ``execute`` opens a transaction, answers for each item in order, and commits.
    """

    def __init__(
        self,
        name: str,
        execute: Callable[[list[Item]], Awaitable[list[Answer]]],
        *,
        max_group_weight: int,
        max_queued_weight: int,
    ) -> None:
        self.name = name
        self.max_queued_weight = max_queued_weight
        self.weights = Distribution(WEIGHTS)
        """How much the groups so far weighed."""
        self.seconds = Distribution(SECONDS)
        """How long they took."""
        self._execute = execute
        self._max_group_weight = max_group_weight
        self._queue: deque[tuple[Item, int, asyncio.Future[Answer]]] = deque()
        self._queued_weight = 0
        self._arrived = asyncio.Event()
        self._under_way: Sequence[Item] = ()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def queued_weight(self) -> int:
        """How much waits."""
        return self._queued_weight

    @property
    def under_way(self) -> Sequence[Item]:
        """The items of the transaction that runs now."""
        return self._under_way

    def stack(self) -> str:
        """Where in the code it stands, for people."""
        text = io.StringIO()
        if self._task is not None:
            self._task.print_stack(limit=MAX_STACK_FRAMES, file=text)
        return text.getvalue()

    async def start(self) -> None:
        """Starts carrying out what is submitted."""
        self._task = asyncio.create_task(self._lane(), name=self.name)

    async def stop(self) -> None:
        """Refuses new items, finishes those that wait, and ends."""
        self._stopping = True
        self._arrived.set()
        if self._task is not None:
            await self._task

    async def submit(self, item: Item, weight: int = 1) -> Answer:
        """The answer for ``item`` once its transaction has committed.

        Raises ``Overloaded`` if the queue is full, ``Unavailable`` while stopping or without a database, and what
        ``execute`` raises for this item alone.
        """
        if self._stopping:
            raise Unavailable("the service is stopping")
        if self._queue and self._queued_weight + weight > self.max_queued_weight:
            raise Overloaded(f"the {self.name} queue is full")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((item, weight, future))
        self._queued_weight += weight
        self._arrived.set()
        return await future

    async def _lane(self) -> None:
        while True:
            await self._arrived.wait()
            group = self._take()
            if not group:
                if self._stopping:
                    return
                self._arrived.clear()
                continue
            began = time.perf_counter()
            await self._run(group)
            self._under_way = ()
            self.seconds.add(time.perf_counter() - began)

    def _take(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        group: list[tuple[Item, asyncio.Future[Answer]]] = []
        taken = 0
        while self._queue and (not group or taken + self._queue[0][1] <= self._max_group_weight):
            item, weight, future = self._queue.popleft()
            self._queued_weight -= weight
            if not future.cancelled():
                taken += weight
                group.append((item, future))
        if group:
            self.weights.add(taken)
        return group

    async def _run(self, group: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            self._under_way = items = [item for item, _ in group]
            answers = await self._attempt(items)
            answered = list(zip(group, answers, strict=True))
        except Exception as error:
            if len(group) > 1 and not isinstance(error, Unavailable):
                _log.warning(f"{self.name}.group_split", items=len(group), error=type(error).__name__)
                for member in group:
                    await self._run([member])
            else:
                for _, future in group:
                    _resolve(future, error)
            return
        for (_, future), answer in answered:
            _resolve(future, answer)

    async def _attempt(self, items: list[Item]) -> list[Answer]:
        pause_seconds = FIRST_PAUSE_SECONDS
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await self._execute(items)
            except _LOST_RACE as error:
                _log.info(f"{self.name}.lost_race", attempt=attempt, error=type(error).__name__)
                if attempt == MAX_ATTEMPTS:
                    raise
            except _LOST_CONNECTION as error:
                _log.warning(f"{self.name}.lost_connection", attempt=attempt, error=type(error).__name__)
                if attempt == MAX_ATTEMPTS:
                    raise Unavailable("the database cannot be reached") from error
                await asyncio.sleep(pause_seconds)
                pause_seconds *= 2
        raise AssertionError("every attempt returns or raises")


def _resolve(future: asyncio.Future[Answer], outcome: Answer | Exception) -> None:
    if future.cancelled():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
