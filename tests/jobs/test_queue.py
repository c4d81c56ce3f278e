"""The queue: jobs that exist if their transaction commits, wait once, fail, die, and are brought back."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from procrastinate.jobs import Job

from tallystick.database.pool import Pool
from tallystick.jobs.kinds import Kind, Run
from tallystick.jobs.queue import MAX_ARGS_BYTES, MAX_ERROR_CHARACTERS, MAX_PAUSE_SECONDS, Backoff, Jobs
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, Unavailable
from tests.jobs.conftest import Desk, rows, run


async def nothing(_: Run) -> None:
    pass


async def failing(_: Run) -> None:
    raise Unavailable("the platform does not answer")


async def take(jobs: Jobs, pool: Pool) -> Job:
    """The next job, taken as a worker takes it."""
    await jobs.app.open_async(pool)
    job = await jobs.app.job_manager.fetch_job(jobs.names, await jobs.app.job_manager.register_worker())
    assert job is not None
    return job


async def test_a_job_exists_exactly_if_its_transaction_commits(desk: Desk, pool: Pool) -> None:
    jobs = desk.jobs(Kind("mail", nothing))
    async with pool.connection() as conn:
        async with conn.transaction(force_rollback=True):
            assert await jobs.defer(conn, "mail", {"to": "ada"}) is not None
        assert await desk.waiting() == []
        async with conn.transaction():
            job_id = await jobs.defer(conn, "mail", {"to": "bob"})
            assert await desk.waiting() == []  # another connection does not see it yet
    assert await desk.waiting() == [("mail", {"to": "bob"})]
    assert list(await desk.states()) == [job_id]


async def test_a_unique_job_waits_once_and_its_caller_goes_on(desk: Desk, pool: Pool) -> None:
    jobs = desk.jobs(Kind("measure", nothing), Kind("post", nothing))
    async with pool.connection() as conn, conn.transaction():
        assert await jobs.defer(conn, "measure", unique="now") is not None
        assert await jobs.defer(conn, "measure", unique="now") is None
        assert await jobs.defer(conn, "measure", unique="later") is not None
        assert await jobs.defer(conn, "post", unique="now") is not None
        assert await jobs.defer(conn, "post") is not None
        assert await jobs.defer(conn, "post") is not None
    assert [name for name, _ in await desk.waiting()] == ["measure", "measure", "post", "post", "post"]


async def test_callers_at_once_get_one_unique_job(desk: Desk) -> None:
    jobs = desk.jobs(Kind("measure", nothing))
    answers = await asyncio.gather(*(desk.defer(jobs, "measure", unique="now") for _ in range(4)))
    assert len([answer for answer in answers if answer is not None]) == 1
    assert len(await desk.waiting()) == 1


async def test_once_it_has_been_started_another_may_wait_and_both_can_be_tried_again(desk: Desk, pool: Pool) -> None:
    jobs = desk.jobs(Kind("measure", nothing))
    await desk.defer(jobs, "measure", unique="now")
    started = await take(jobs, pool)
    assert await desk.defer(jobs, "measure", unique="now") is not None
    await jobs.app.job_manager.retry_job(started)
    assert list((await desk.states()).values()) == ["todo", "todo"]


async def test_arguments_are_json_and_bounded(desk: Desk) -> None:
    jobs = desk.jobs(Kind("mail", nothing))
    with pytest.raises(ValueError, match="must not be longer than"):
        await desk.defer(jobs, "mail", {"text": "x" * MAX_ARGS_BYTES})
    with pytest.raises(TypeError, match="JSON"):
        await desk.defer(jobs, "mail", {"set": {1}})
    with pytest.raises(KeyError):
        await desk.defer(jobs, "unheard-of")
    assert await desk.states() == {}


async def test_a_kind_that_nobody_knows_here_is_left_for_others(desk: Desk, pool: Pool) -> None:
    newer, older = desk.jobs(Kind("new", nothing)), desk.jobs(Kind("old", nothing))
    await desk.defer(newer, "new")
    await desk.defer(older, "old")
    assert (await take(older, pool)).task_name == "old"
    assert await desk.waiting() == [("new", {})]


def test_pauses_double_up_to_an_hour_and_then_it_is_over() -> None:
    backoff = Backoff(attempts=20, first_pause_seconds=2)
    assert [backoff.pause_seconds(failed) for failed in range(5)] == [2, 4, 8, 16, 32]
    assert backoff.pause_seconds(19) == MAX_PAUSE_SECONDS

    def job(attempts: int) -> Job:
        return Job(queue="a", lock=None, queueing_lock=None, task_name="a", attempts=attempts)

    assert backoff.get_retry_decision(exception=RuntimeError(), job=job(18)) is not None
    assert backoff.get_retry_decision(exception=RuntimeError(), job=job(19)) is None
    given_back = backoff.get_retry_decision(exception=asyncio.CancelledError(), job=job(19))
    assert given_back is not None
    assert given_back.retry_at is None


async def test_why_an_attempt_failed_is_kept_in_a_line(desk: Desk, pool: Pool) -> None:
    async def refused(_: Run) -> None:
        async with pool.connection() as conn:
            await conn.execute("insert into job_slots values ('a', now(), now()), ('a', now(), now())")

    async def long(_: Run) -> None:
        raise RuntimeError("x" * 2 * MAX_ERROR_CHARACTERS)

    async def slow(_: Run) -> None:
        await asyncio.Event().wait()

    jobs = desk.jobs(
        Kind("away", failing), Kind("refused", refused), Kind("long", long), Kind("slow", slow, timeout_seconds=0)
    )
    errors = {}
    for name in jobs.names:
        await desk.defer(jobs, name)
        job = await take(jobs, pool)
        with pytest.raises((Unavailable, psycopg.Error, RuntimeError, TimeoutError)):
            await jobs.carry_out(job)
        async with pool.connection() as conn:
            errors[name] = (await jobs.get(conn, job.id or 0)).error or ""
    assert errors["away"] == "unavailable: the platform does not answer"
    assert errors["refused"] == 'UniqueViolation: duplicate key value violates unique constraint "job_slots_pkey"'
    assert len(errors["long"]) == MAX_ERROR_CHARACTERS
    assert errors["slow"] == "TimeoutError: it took longer than 0 seconds"


async def test_the_list_goes_from_page_to_page_in_every_state(desk: Desk, pool: Pool) -> None:
    jobs = desk.jobs(Kind("mail", nothing))
    ids = [await desk.defer(jobs, "mail", {"number": number}) for number in range(5)]
    statuses = ("todo", "doing", "succeeded", "failed", "failed")
    for job_id, status in zip(ids, statuses, strict=True):
        await run(pool, "update procrastinate_jobs set status = %s where id = %s", status, job_id)
    async with pool.connection() as conn:
        first = await jobs.page(conn, None, None, 2)
        rest = await jobs.page(conn, None, first.next, 10)
        listed = first.items + rest.items
        assert [job.id for job in listed] == ids[::-1]
        assert [job.state for job in listed] == ["dead", "dead", "done", "running", "waiting"]
        assert [job.args for job in listed] == [{"number": number} for number in (4, 3, 2, 1, 0)]
        assert rest.next is None
        dead = await jobs.page(conn, "dead", None, 1)
        assert [job.id for job in dead.items] == [ids[4]]
        dead = await jobs.page(conn, "dead", dead.next, 1)
        assert ([job.id for job in dead.items], dead.next) == ([ids[3]], None)
        for foreign in ("nonsense", "WyJhIl0", "WyItMSJd"):
            with pytest.raises(InvalidInput):
                await jobs.page(conn, None, foreign, 1)


async def test_a_dead_job_is_tried_again_as_often_as_a_new_one(desk: Desk, pool: Pool) -> None:
    jobs = desk.jobs(Kind("mail", failing))
    job_id = await desk.defer(jobs, "mail")
    assert job_id is not None
    async with pool.connection() as conn:
        with pytest.raises(Conflict, match="is waiting: only dead jobs"):
            await jobs.retry(conn, job_id)
        with pytest.raises(NotFound, match="there is no job"):
            await jobs.retry(conn, job_id + 1)
        await run(pool, "update procrastinate_jobs set status = 'failed', attempts = 3 where id = %s", job_id)
        again = await jobs.retry(conn, job_id)
        assert (again.state, again.attempts) == ("waiting", 0)


async def test_a_lost_job_is_taken_back_once_and_not_for_ever(desk: Desk, pool: Pool) -> None:
    jobs = desk.jobs(Kind("mail", nothing), attempts=2)
    job_id = await desk.defer(jobs, "mail")
    assert (await take(jobs, pool)).id == job_id

    async def rescue() -> int:
        async with pool.connection() as conn:
            return await jobs.rescue(conn, lost_after_seconds=60)

    assert await rescue() == 0  # its worker has just given a sign of life
    await run(pool, "update procrastinate_workers set last_heartbeat = now() - interval '61 seconds'")
    assert sorted(await asyncio.gather(*(rescue() for _ in range(3)))) == [0, 0, 1]
    assert await desk.states() == {job_id: "todo"}
    assert (await take(jobs, pool)).id == job_id
    await run(pool, "delete from procrastinate_workers")  # another worker found it dead first
    assert await rescue() == 1
    assert await desk.states() == {job_id: "failed"}
    assert await rows(pool, "select error from job_failures") == [("the worker was lost in the middle of it",)]
