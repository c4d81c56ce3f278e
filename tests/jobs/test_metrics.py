"""What Prometheus is told of jobs is what stands in the queue."""

from __future__ import annotations

from tallystick.database.pool import Pool
from tallystick.jobs.kinds import Kind, Run
from tallystick.jobs.metrics import job_metrics
from tests.jobs.conftest import Desk, run

UPDATE = "update procrastinate_jobs set status = %s::procrastinate_job_status where id = %s"


async def nothing(_: Run) -> None:
    pass


async def told(pool: Pool, *names: str) -> dict[str, float]:
    """The figures, with the labels behind the name; those that are zero are left out."""
    async with pool.connection() as conn:
        metrics = await job_metrics(names, lost_after_seconds=30)(conn)
    samples = [sample for metric in metrics for sample in metric.samples]
    assert len(samples) == 3 * len(names) + 2  # the zeros are told, for alerts to stand on
    return {".".join([sample.name, *sample.labels.values()]): sample.value for sample in samples if sample.value}


async def test_an_empty_queue_is_all_zeros(pool: Pool) -> None:
    assert await told(pool, "mail", "post") == {}


async def test_jobs_are_counted_by_kind_and_state(desk: Desk, pool: Pool) -> None:
    jobs = desk.jobs(Kind("mail", nothing), Kind("post", nothing))
    ids = [await desk.defer(jobs, name) for name in ("mail", "mail", "mail", "mail", "post", "post")]
    for job_id, status in zip(ids, ("failed", "succeeded", "todo", "todo", "todo", "doing"), strict=True):
        await run(pool, UPDATE, status, job_id)
    assert await told(pool, "mail", "post") == {
        "tallystick_jobs.mail.waiting": 2,
        "tallystick_jobs.mail.dead": 1,
        "tallystick_jobs.post.waiting": 1,
        "tallystick_jobs.post.running": 1,
    }
    assert await told(pool, "post") == {"tallystick_jobs.post.waiting": 1, "tallystick_jobs.post.running": 1}


async def test_the_lag_is_that_of_the_first_that_may_begin(desk: Desk, pool: Pool) -> None:
    jobs = desk.jobs(Kind("mail", nothing))
    first = await desk.defer(jobs, "mail")
    await desk.defer(jobs, "mail")
    await run(pool, "update procrastinate_events set at = now() - interval '1 hour'")
    assert (await told(pool, "mail"))["tallystick_jobs_lag_seconds"] >= 3600
    await run(pool, "update procrastinate_jobs set scheduled_at = now() - interval '2 hours' where id = %s", first)
    assert (await told(pool, "mail"))["tallystick_jobs_lag_seconds"] >= 7200
    await run(pool, "update procrastinate_jobs set scheduled_at = now() + interval '1 hour'")
    assert "tallystick_jobs_lag_seconds" not in await told(pool, "mail")


async def test_workers_count_while_they_give_signs_of_life(pool: Pool) -> None:
    await run(pool, "insert into procrastinate_workers (last_heartbeat) values (now()), (now() - interval '1 hour')")
    assert await told(pool) == {"tallystick_workers": 1}
