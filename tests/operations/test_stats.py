"""What a service says of what it is doing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tallystick.metering.service import LANES
from tallystick.operations import stats
from tallystick.operations.stats import format_uptime
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.metering.books import batch, measurement


def test_uptime_keeps_its_shape() -> None:
    """Theirs changed it: no microseconds if they were zero, and days in words."""
    assert format_uptime(timedelta()) == "0:00:00.000000"
    assert format_uptime(timedelta(seconds=1)) == "0:00:01.000000"
    assert format_uptime(timedelta(hours=1, minutes=2, seconds=3, microseconds=4)) == "1:02:03.000004"
    assert format_uptime(timedelta(days=2, hours=3, microseconds=999_999)) == "51:00:00.999999"


async def test_a_service_at_rest(database_url: str) -> None:
    async with open_service(Settings(dev=True, database_pool_size=4), database_url) as service:
        first = service.stats.snapshot()
        again = service.stats.snapshot(verbose=True)
    assert {name: first[name] for name in ("number_of_workers", "queue_size", "number_of_locks")} == {
        "number_of_workers": LANES + 1,
        "queue_size": 0,
        "number_of_locks": 0,
    }
    assert list(first) == ["number_of_workers", "queue_size", "number_of_locks", "uptime"]
    assert list(again) == [*first, "task_stacks", "group_locks"]
    assert list(again["task_stacks"]) == [f"worker-{number}" for number in range(1, LANES + 2)]
    assert all("group_commit.py" in stack for stack in again["task_stacks"].values())
    assert again["group_locks"] == {}
    assert again["uptime"] > first["uptime"]


async def test_a_service_at_work(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_service(Settings(dev=True, database_pool_size=4), database_url) as service:
        async with service.pool.connection() as conn, conn.transaction():
            await service.pricing.change(conn)  # recording waits for whoever changes prices
            first = asyncio.create_task(
                service.intake.submit(batch([measurement("ada"), measurement("ada"), measurement("bob")]))
            )
            await under_way(service)
            then = asyncio.create_task(service.intake.submit(batch([measurement("eve"), measurement("eve")])))
            await asyncio.sleep(0)  # it runs to its first wait
            busy = service.stats.snapshot(verbose=True)
            monkeypatch.setattr(stats, "MAX_LOCKS_SHOWN", 1)
            bounded = service.stats.snapshot(verbose=True)
        await asyncio.gather(first, then)
        rest = service.stats.snapshot(verbose=True)
    assert (busy["queue_size"], busy["number_of_locks"]) == (2, 2)
    assert busy["group_locks"] == {"ada": "<worker-1: 2 measurements>", "bob": "<worker-1: 1 measurements>"}
    assert (bounded["number_of_locks"], len(bounded["group_locks"])) == (2, 1)
    assert (rest["queue_size"], rest["number_of_locks"], rest["group_locks"]) == (0, 0, {})


async def under_way(service: Service) -> None:
    """Returns when a lane has taken what was submitted."""
    while not any(lane.under_way for lane in service.intake.lanes):  # noqa: ASYNC110 (they do not tell anybody)
        await asyncio.sleep(0)
