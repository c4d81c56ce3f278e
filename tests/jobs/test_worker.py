"""The worker: takes jobs and runs them, tries failed ones again, and stops without losing any."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import pytest

from tallystick.database.pool import Pool
from tallystick.jobs import manager
from tallystick.jobs import worker as module
from tallystick.jobs.kinds import Kind, Run
from tallystick.jobs.schedule import Entry
from tallystick.kernel.clock import TestClock
from tests.jobs.conftest import NOON, Desk, rows, run, until

HOURLY = Entry("hourly", "1 * * * *", "UTC", missed="every")


async def test_it_runs_what_waits_and_what_comes(desk: Desk, pool: Pool) -> None:
    done: asyncio.Queue[int] = asyncio.Queue()
    jobs = desk.jobs(Kind("mail", desk.diary(lambda run_: done.put(run_.job_id))))
    first = await desk.defer(jobs, "mail", {"to": "ada"})
    async with desk.worker(TestClock(NOON), jobs).running():
        assert await done.get() == first
        second = await desk.defer(jobs, "mail")
        assert await done.get() == second
    assert await desk.states() == {first: "succeeded", second: "succeeded"}
    assert await rows(pool, "select id from procrastinate_workers") == []


async def test_two_workers_run_each_slot_once(desk: Desk, pool: Pool) -> None:
    clock = TestClock(NOON)
    done: asyncio.Queue[str] = asyncio.Queue()
    work = desk.diary(lambda run_: done.put(run_.slot.isoformat()))
    pairs = [desk.jobs(Kind("hourly", work)) for _ in range(2)]
    async with desk.worker(clock, pairs[0], [HOURLY]).running(), desk.worker(clock, pairs[1], [HOURLY]).running():
        await until(desk.has_begun)
        for hour in range(3):
            clock.advance(timedelta(hours=1))
            assert await done.get() == f"2026-03-01T{12 + hour}:01:00+00:00"
    assert [slot.hour for _, slot in await desk.entries() if slot] == [12, 13, 14]
    assert done.empty()


async def test_slots_missed_while_nobody_worked_are_run_in_their_order(desk: Desk, pool: Pool) -> None:
    clock = TestClock(NOON)
    done: asyncio.Queue[int] = asyncio.Queue()
    jobs = desk.jobs(Kind("hourly", desk.diary(lambda run_: done.put(run_.slot.hour))))
    async with desk.worker(clock, jobs, [HOURLY]).running():
        await until(desk.has_begun)
    clock.advance(timedelta(hours=4))
    async with desk.worker(clock, jobs, [HOURLY]).running():
        assert [await done.get() for _ in range(4)] == [12, 13, 14, 15]


async def test_a_job_that_fails_is_tried_again_and_dies_in_the_end(
    desk: Desk, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: asyncio.Queue[int] = asyncio.Queue()

    async def fail(run_: Run) -> None:
        await attempts.put(run_.attempt)
        raise RuntimeError("it is raining")

    walked: asyncio.Queue[int] = asyncio.Queue()
    walk = desk.diary(lambda run_: walked.put(run_.job_id))
    jobs = desk.jobs(Kind("picnic", fail), Kind("walk", walk), attempts=3)
    dead = await desk.defer(jobs, "picnic", {"basket": "secret-basket"})
    other = await desk.defer(jobs, "walk")
    assert dead is not None
    async with desk.worker(TestClock(NOON), jobs).running():
        assert [await attempts.get() for _ in range(3)] == [1, 2, 3]
        await walked.get()
    assert await desk.states() == {dead: "failed", other: "succeeded"}
    async with pool.connection() as conn:
        (listed,) = (await jobs.page(conn, "dead", None, 10)).items
        assert (listed.id, listed.attempts, listed.error) == (dead, 3, "RuntimeError: it is raining")
        await jobs.retry(conn, dead)
    async with desk.worker(TestClock(NOON), jobs).running():
        assert [await attempts.get() for _ in range(3)] == [1, 2, 3]
    assert (await desk.states())[dead] == "failed"
    assert "secret-basket" not in caplog.text  # arguments are no business of the log


async def test_it_finishes_the_job_under_way_before_it_stops(desk: Desk) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def careful(_: Run) -> None:
        started.set()
        await go_on.wait()

    jobs = desk.jobs(Kind("careful", careful))
    job_id = await desk.defer(jobs, "careful")
    async with desk.worker(TestClock(NOON), jobs).running():
        await started.wait()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
    assert await desk.states() == {job_id: "succeeded"}


async def test_a_job_that_takes_too_long_to_stop_is_given_back(
    desk: Desk, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0)
    started = asyncio.Event()

    async def endless(_: Run) -> None:
        started.set()
        await asyncio.Event().wait()

    jobs = desk.jobs(Kind("endless", endless), attempts=1)
    job_id = await desk.defer(jobs, "endless")
    async with desk.worker(TestClock(NOON), jobs).running():
        await started.wait()
    assert await desk.states() == {job_id: "todo"}
    assert await rows(pool, "select error from job_failures") == []


async def test_it_lives_through_the_loss_of_its_connections(desk: Desk, database_url: str) -> None:
    done: asyncio.Queue[int] = asyncio.Queue()

    async def work(run_: Run) -> None:
        await done.put(run_.job_id)

    jobs = desk.jobs(Kind("mail", work))
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        first = await jobs.defer(conn, "mail")

        async def is_done() -> bool:
            cursor = await conn.execute(
                "select from procrastinate_jobs where status = 'succeeded' and id = %s", (first,)
            )
            return cursor.rowcount == 1

        async with desk.worker(TestClock(NOON), jobs, lost_after_seconds=1).running():
            await done.get()
            await until(is_done)
            await conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
            await conn.execute("delete from procrastinate_workers")  # meanwhile it was taken for dead
            job_id = await jobs.defer(conn, "mail")
            assert await done.get() == job_id
        cursor = await conn.execute("select status::text from procrastinate_jobs where id = %s", (job_id,))
        assert await cursor.fetchall() == [("succeeded",)]


async def test_signs_of_life_keep_others_from_taking_its_job(desk: Desk, pool: Pool) -> None:
    """The job goes on for longer than a worker may be silent."""
    ran: list[int] = []
    beats = asyncio.Event()

    async def slow(run_: Run) -> None:
        ran.append(run_.attempt)
        ((first,),) = await rows(pool, "select last_heartbeat from procrastinate_workers order by id limit 1")
        seen = {first}
        while len(seen) < 5:  # more than those that may stay away
            seen |= {beat for (beat,) in await rows(pool, "select last_heartbeat from procrastinate_workers")}
            await asyncio.sleep(0.01)
        beats.set()

    pair = [desk.jobs(Kind("slow", slow)) for _ in range(2)]
    job_id = await desk.defer(pair[0], "slow")
    clock = TestClock(NOON)
    async with (
        desk.worker(clock, pair[0], lost_after_seconds=1).running(),
        desk.worker(clock, pair[1], lost_after_seconds=1).running(),
    ):
        await beats.wait()
    assert ran == [1]
    assert await desk.states() == {job_id: "succeeded"}


@pytest.mark.parametrize(("attempts", "runs"), [(1000, 1), (1, 2)], ids=["it-comes-back", "it-gives-up"])
async def test_the_end_of_a_job_is_noted_in_the_end(
    desk: Desk, pool: Pool, monkeypatch: pytest.MonkeyPatch, attempts: int, runs: int
) -> None:
    """The database refuses the note at first. Whoever gives up, and holds the job, lets go of it: it runs again."""
    monkeypatch.setattr(manager, "ATTEMPTS", attempts)
    monkeypatch.setattr(manager, "PAUSE_SECONDS", 0)
    ran: asyncio.Queue[int] = asyncio.Queue()

    async def rename(old: str, new: str) -> None:
        await run(pool, f"alter function procrastinate_{old} rename to procrastinate_{new}")

    async def work(run_: Run) -> None:
        if run_.attempt == 1:
            await rename("finish_job_v1", "away")
        await ran.put(run_.attempt)

    jobs = desk.jobs(Kind("mail", work))
    job_id = await desk.defer(jobs, "mail")

    async def is_done() -> bool:
        return await desk.states() == {job_id: "succeeded"}

    async def is_refused() -> bool:
        return jobs.manager.refused > 0

    async with desk.worker(TestClock(NOON), jobs, lost_after_seconds=1).running():
        await until(is_refused)
        await rename("away", "finish_job_v1")
        await until(is_done)
    assert ran.qsize() == runs
