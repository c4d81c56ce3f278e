from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest

from tallystick.database import group_commit
from tallystick.database.group_commit import MAX_ATTEMPTS, GroupCommit
from tallystick.kernel.errors import Overloaded, Unavailable

Group = GroupCommit[str, str]
Execute = Callable[[list[str]], Awaitable[list[str]]]


class Database:
    """Stands for a transaction: notes the groups it gets, and answers when the test lets it."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()

    async def execute(self, items: list[str]) -> list[str]:
        self.groups.append(items)
        self.entered.set()
        await self.open.wait()
        if "bad" in items:
            raise ValueError("bad item")
        return [item.upper() for item in items]

    async def hold(self, group: Group, item: str) -> asyncio.Task[str]:
        """Submits ``item``; its transaction is under way, and stays so, when this returns."""
        self.open.clear()
        self.entered.clear()
        task = asyncio.create_task(group.submit(item))
        await self.entered.wait()
        return task


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "FIRST_PAUSE_SECONDS", 0)


@asynccontextmanager
async def running(execute: Execute, *, most: int = 100, queued: int = 1000) -> AsyncIterator[Group]:
    group: Group = GroupCommit("test", execute, max_group_weight=most, max_queued_weight=queued)
    await group.start()
    try:
        yield group
    finally:
        await group.stop()


async def submitted(group: Group, *items: str, weight: int = 1) -> list[asyncio.Task[str]]:
    """Tasks that have put their items into the queue."""
    tasks = [asyncio.create_task(group.submit(item, weight)) for item in items]
    await asyncio.sleep(0)  # each task runs to its first wait
    return tasks


# Grouping


async def test_who_arrives_while_a_transaction_is_under_way_shares_the_next_one(database: Database) -> None:
    async with running(database.execute) as group:
        first = await database.hold(group, "a")
        others = await submitted(group, "b", "c", "d")
        assert group.queued_weight == 3
        database.open.set()
        assert [await task for task in (first, *others)] == ["A", "B", "C", "D"]
    assert database.groups == [["a"], ["b", "c", "d"]]
    assert group.queued_weight == 0


async def test_a_group_has_a_greatest_weight_but_no_item_is_too_heavy(database: Database) -> None:
    async with running(database.execute, most=10) as group:
        first = await database.hold(group, "a")
        light = await submitted(group, "b", "c", weight=5)
        heavy = await submitted(group, "d", weight=50)
        last = await submitted(group, "e", "f", weight=6)
        database.open.set()
        await asyncio.gather(first, *light, *heavy, *last)
    assert database.groups == [["a"], ["b", "c"], ["d"], ["e"], ["f"]]


# Limits


async def test_a_full_queue_refuses_at_once_and_takes_again_later(database: Database) -> None:
    async with running(database.execute, queued=3) as group:
        first = await database.hold(group, "a")
        waiting = await submitted(group, "b", "c", "d")
        with pytest.raises(Overloaded, match=r"^the test queue is full$"):
            await group.submit("e")
        database.open.set()
        await asyncio.gather(first, *waiting)
        assert await group.submit("e") == "E"


async def test_an_empty_queue_takes_even_what_is_heavier_than_itself(database: Database) -> None:
    async with running(database.execute, queued=3) as group:
        assert await group.submit("a", weight=1000) == "A"


# Failures


async def test_a_bad_request_harms_only_itself(database: Database) -> None:
    async with running(database.execute) as group:
        first = await database.hold(group, "a")
        others = await submitted(group, "b", "bad", "c")
        database.open.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["A", "B", "bad item", "C"]
    assert database.groups[1:] == [["b", "bad", "c"], ["b"], ["bad"], ["c"]]


@pytest.mark.parametrize(
    "failure",
    [
        psycopg.errors.UniqueViolation,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.SerializationFailure,
        psycopg.OperationalError,
        psycopg.InterfaceError,
    ],
)
async def test_a_lost_race_or_connection_is_tried_again(failure: type[Exception]) -> None:
    attempts = 0

    async def execute(items: list[str]) -> list[str]:
        nonlocal attempts
        attempts += 1
        if attempts < MAX_ATTEMPTS:
            raise failure
        return items

    async with running(execute) as group:
        assert await group.submit("a") == "a"
    assert attempts == MAX_ATTEMPTS


async def test_who_loses_every_race_is_told_so_and_the_others_are_served() -> None:
    attempts: Counter[str] = Counter()

    async def execute(items: list[str]) -> list[str]:
        attempts.update(items)
        if "unlucky" in items:
            raise psycopg.errors.UniqueViolation
        return items

    async with running(execute) as group:
        tasks = await submitted(group, "a", "unlucky", "b")
        assert [await tasks[0], await tasks[2]] == ["a", "b"]
        with pytest.raises(psycopg.errors.UniqueViolation):
            await tasks[1]
    assert attempts == {"a": MAX_ATTEMPTS + 1, "unlucky": 2 * MAX_ATTEMPTS, "b": MAX_ATTEMPTS + 1}


async def test_without_a_database_a_whole_group_is_refused_after_so_many_attempts() -> None:
    """One by one would take as many times longer as the group has items, and could only end the same."""
    attempts = 0

    async def execute(items: list[str]) -> list[str]:
        nonlocal attempts
        attempts += 1
        raise psycopg.OperationalError

    async with running(execute) as group:
        tasks = await submitted(group, *(f"item {number}" for number in range(50)))
        refusals = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(refusal) for refusal in refusals] == ["the database cannot be reached"] * 50
    assert {type(refusal) for refusal in refusals} == {Unavailable}
    assert attempts == MAX_ATTEMPTS


async def test_too_few_answers_are_an_error_that_the_lane_survives() -> None:
    async def execute(items: list[str]) -> list[str]:
        return items[:1] if "short" not in items else []

    async with running(execute) as group:
        tasks = await submitted(group, "a", "short", "b")
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answers[0], answers[2]] == ["a", "b"]
        assert isinstance(answers[1], ValueError)
        assert await group.submit("c") == "c"


# Callers that go away


async def test_who_goes_away_while_waiting_is_left_out(database: Database) -> None:
    async with running(database.execute) as group:
        first = await database.hold(group, "a")
        tasks = await submitted(group, "b", "c", "d")
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        database.open.set()
        assert [await first, await tasks[0], await tasks[2]] == ["A", "B", "D"]
    assert database.groups == [["a"], ["b", "d"]]
    assert group.queued_weight == 0


async def test_who_goes_away_while_its_transaction_runs_disturbs_nobody(database: Database) -> None:
    async with running(database.execute) as group:
        gone = await database.hold(group, "a")
        others = await submitted(group, "b")
        gone.cancel()
        await asyncio.wait([gone])
        database.open.set()
        assert await others[0] == "B"
        assert await group.submit("c") == "C"


# Stopping


async def test_stopping_finishes_what_waits_and_refuses_what_comes(database: Database) -> None:
    async with running(database.execute, most=1) as group:
        first = await database.hold(group, "a")
        waiting = await submitted(group, "b", "c")
        stopping = asyncio.create_task(group.stop())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match=r"^the service is stopping$"):
            await group.submit("d")
        database.open.set()
        await stopping
        assert [task.result() for task in (first, *waiting)] == ["A", "B", "C"]
    assert database.groups == [["a"], ["b"], ["c"]]


# All together


async def test_everybody_gets_its_own_answer_whatever_fails_meanwhile() -> None:
    """300 callers; every group fails three times at first, and every third caller asks the impossible."""
    failures = (psycopg.errors.DeadlockDetected, psycopg.OperationalError, psycopg.errors.UniqueViolation)
    tries: Counter[str] = Counter()

    async def execute(items: list[str]) -> list[str]:
        await asyncio.sleep(0)
        group = " ".join(items)
        tries[group] += 1
        if tries[group] <= len(failures):
            raise failures[tries[group] - 1]
        if any(int(item) % 3 == 0 for item in items):
            raise ValueError("bad item")
        return [f"answer {item}" for item in items]

    async with running(execute, most=20) as group:
        answers = await asyncio.gather(*(group.submit(str(n)) for n in range(300)), return_exceptions=True)
    for number, answer in enumerate(answers):
        assert str(answer) == ("bad item" if number % 3 == 0 else f"answer {number}")
