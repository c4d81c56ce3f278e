"""What a queue says of itself: what is under way, how much its groups weighed, where it stands."""

from __future__ import annotations

import asyncio

import pytest

from tallystick.database.group_commit import GroupCommit
from tallystick.kernel.errors import Overloaded


class Held:
    """Stands for a transaction that goes on until the test lets it end."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()

    async def execute(self, items: list[str]) -> list[str]:
        self.entered.set()
        await self.open.wait()
        if "bad" in items:
            raise ValueError("bad item")
        return items


async def test_what_is_under_way_is_told_until_it_is_answered() -> None:
    held = Held()
    group: GroupCommit[str, str] = GroupCommit("test", held.execute, max_group_weight=10, max_queued_weight=5)
    assert (group.stack(), group.under_way) == ("", ())
    await group.start()
    first = asyncio.create_task(group.submit("first", 2))
    await held.entered.wait()
    rest = [asyncio.create_task(group.submit(item, 2)) for item in ("second", "third")]
    await asyncio.sleep(0)  # they run to their first wait
    assert (group.name, group.under_way, group.queued_weight, group.max_queued_weight) == ("test", ["first"], 4, 5)
    assert "group_commit.py" in group.stack()
    with pytest.raises(Overloaded):
        await group.submit("fourth", 2)
    held.open.set()
    assert await asyncio.gather(first, *rest) == ["first", "second", "third"]
    await group.stop()
    assert (group.under_way, group.queued_weight) == ((), 0)
    weighed = {bound: count for bound, count in zip(group.weights.bounds, group.weights.counts, strict=False) if count}
    assert (weighed, group.weights.total) == ({2: 1, 5: 1}, 6)  # the second group weighed 4
    assert sum(group.seconds.counts) == 2
    assert group.seconds.total > 0


async def test_a_group_that_is_split_is_one_group_still() -> None:
    held = Held()
    held.open.set()
    group: GroupCommit[str, str] = GroupCommit("test", held.execute, max_group_weight=10, max_queued_weight=10)
    tasks = [asyncio.create_task(group.submit(item)) for item in ("good", "bad")]
    await asyncio.sleep(0)
    await group.start()
    good, bad = await asyncio.gather(*tasks, return_exceptions=True)
    assert good == "good"
    assert isinstance(bad, ValueError)
    assert (sum(group.weights.counts), group.weights.total) == (1, 2)
    await group.stop()
    assert (group.under_way, sum(group.seconds.counts)) == ((), 1)
