-- name: counts
select task_name,
    count(*) filter (where status = 'todo'),
    count(*) filter (where status = 'doing'),
    count(*) filter (where status in ('failed', 'aborted', 'cancelled'))
from procrastinate_jobs
where status in ('todo', 'doing', 'failed', 'aborted', 'cancelled') and task_name = any (:names::text[])
group by task_name

-- name: lag_seconds
-- Of the first in the queue that may begin: what waits for its next attempt is not late.
select coalesce(floor(extract(epoch from now() - coalesce(first.scheduled_at, e.at))), 0)::bigint
from (
    select id, scheduled_at
    from procrastinate_jobs
    where status = 'todo' and (scheduled_at is null or scheduled_at <= now())
    order by id
    limit 1
) as first
cross join lateral (select min(at) as at from procrastinate_events where job_id = first.id and type = 'deferred') as e

-- name: workers
select count(*) from procrastinate_workers where last_heartbeat >= now() - make_interval(secs => :seconds)
