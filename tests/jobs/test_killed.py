"""A worker that is killed in the middle of a job: another one does it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path

import psycopg
import pytest

from tallystick.jobs.kinds import Kind, Run
from tests.jobs.conftest import Desk, until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@contextmanager
def worker_process(url: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.jobs.process", url], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def nothing(_: Run) -> None:
    pass


async def test_a_job_whose_worker_is_killed_runs_again(desk: Desk, database_url: str) -> None:
    jobs = desk.jobs(Kind("long", nothing))
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as holder,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as listener,
        AsyncExitStack() as told,
    ):
        await listener.execute("listen diary")
        await holder.execute("select pg_advisory_lock(1)")
        notices = await told.enter_async_context(aclosing(listener.notifies()))
        job_id = await desk.defer(jobs, "long")
        with worker_process(database_url) as first:
            assert (await anext(notices)).payload == "begun 1"
            assert await desk.states() == {job_id: "doing"}
            first.send_signal(signal.SIGKILL)
            assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
        with worker_process(database_url):
            assert (await anext(notices)).payload == "begun 2"
            assert await desk.entries() == []
            await holder.execute("select pg_advisory_unlock(1)")
            assert (await anext(notices)).payload == "ended 2"

            async def is_done() -> bool:
                return await desk.states() == {job_id: "succeeded"}

            await until(is_done)
        assert await desk.entries() == [(job_id, None)]
