"""Jobs that are long done are removed; dead ones stay."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tallystick.database.pool import Pool
from tallystick.jobs import pruning as module
from tallystick.jobs.kinds import Kind, Run
from tallystick.jobs.pruning import Pruning
from tallystick.kernel.clock import TestClock
from tests.jobs.conftest import NOON, Desk, rows, run


async def test_what_succeeded_long_ago_goes_with_its_events_and_slots(
    desk: Desk, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    pruning = Pruning(pool, TestClock(NOON), keep_days=30)
    jobs = desk.jobs(Kind("prune-jobs", pruning.run))
    ids = [await desk.defer(jobs, "prune-jobs") for _ in range(9)]
    statuses = ["succeeded"] * 6 + ["failed", "doing", "todo"]
    for job_id, status in zip(ids, statuses, strict=True):
        await run(pool, "update procrastinate_jobs set status = %s where id = %s", status, job_id)
    await run(pool, "update procrastinate_events set at = now() - interval '31 days' where job_id <> %s", ids[5])
    for days in (29, 31):
        await run(pool, "insert into job_slots values ('a', %s, now())", NOON - timedelta(days=days))
    await pruning.run(Run(1, 1, {}))
    assert list(await desk.states()) == ids[5:]
    assert {job for (job,) in await rows(pool, "select job_id from procrastinate_events")} == set(ids[5:])
    assert await rows(pool, "select slot from job_slots") == [(NOON - timedelta(days=29),)]
