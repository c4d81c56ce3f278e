-- Times of jobs are the database's, as in all that procrastinate keeps. Times of slots are the clock's.

-- name: page
select j.id, j.task_name, j.status::text, j.args, j.attempts, e.deferred_at, e.changed_at,
    case when j.status = 'todo' then j.scheduled_at end, f.error
from procrastinate_jobs as j
cross join lateral (
    select min(at) as deferred_at, max(at) as changed_at from procrastinate_events where job_id = j.id and type <> 'scheduled'
) as e
left join job_failures as f on f.job_id = j.id
where j.status = any (:statuses::procrastinate_job_status[]) and j.id < :before
order by j.id desc
limit :limit

-- name: get
select j.id, j.task_name, j.status::text, j.args, j.attempts, e.deferred_at, e.changed_at,
    case when j.status = 'todo' then j.scheduled_at end, f.error
from procrastinate_jobs as j
cross join lateral (
    select min(at) as deferred_at, max(at) as changed_at from procrastinate_events where job_id = j.id and type <> 'scheduled'
) as e
left join job_failures as f on f.job_id = j.id
where j.id = :id

-- name: again
-- procrastinate would count the attempts on, and so bury the job again at its first failure.
update procrastinate_jobs
set status = 'todo', attempts = 0, scheduled_at = null, worker_id = null
where id = :id and status = any (:dead::procrastinate_job_status[])
returning id

-- name: failed!
insert into job_failures (job_id, failed_at, error)
select id, now(), :error from procrastinate_jobs where id = :id
on conflict (job_id) do update set failed_at = excluded.failed_at, error = excluded.error

-- name: rescue
-- A worker whose row is gone has been found dead already. The row of the job is looked at again once it is locked: two who find the same
-- lost job must not both give it to somebody.
with lost as (
    select j.id
    from procrastinate_jobs as j
    left join procrastinate_workers as w on w.id = j.worker_id
    where j.status = 'doing' and (w.id is null or w.last_heartbeat < now() - make_interval(secs => :seconds))
    for update of j skip locked
),
taken as (
    update procrastinate_jobs as j
    set status = case when j.attempts + 1 >= :attempts then 'failed' else 'todo' end::procrastinate_job_status,
        attempts = j.attempts + 1, scheduled_at = null, worker_id = null
    from lost
    where j.id = lost.id
    returning j.id, j.task_name, j.status::text
),
noted as (
    insert into job_failures (job_id, failed_at, error)
    select id, now(), 'the worker was lost in the middle of it' from taken
    on conflict (job_id) do update set failed_at = excluded.failed_at, error = excluded.error
)
select id, task_name, status from taken

-- name: begin
-- Entries that are new have been carried out until now: there is nothing to catch up with.
insert into job_schedule (name, carried_out_until)
select name, :now from unnest(:names::text[]) as new (name)
order by name
on conflict do nothing

-- name: carried_out
select name, carried_out_until from job_schedule where name = any (:names::text[])

-- name: enter
-- Puts a job into the queue for each slot that nobody has entered yet, and notes up to when each entry has been carried out: one
-- statement, so both or neither. The jobs of an entry share a lock: they run one after the other, in the order of their slots. Books that
-- live by a test clock are told the time by it.
with stood as (
    update books_clock set stands_at = :now where kind = 'test' and stands_at < :now
),
reached as (
    update job_schedule as s
    set carried_out_until = greatest(s.carried_out_until, new.until)
    from unnest(:names::text[], :until::timestamptz[]) as new (name, until)
    where s.name = new.name
),
entered as (
    insert into job_slots (name, slot, entered_at)
    select new.name, new.slot, :now
    from unnest(:slot_names::text[], :slots::timestamptz[]) as new (name, slot)
    join job_schedule as s on s.name = new.name and s.carried_out_until < new.slot
    order by new.slot, new.name
    on conflict do nothing
    returning name, slot
)
select procrastinate_defer_jobs_v1(
    array_agg(
        row (
            name, name, 0, name, null, jsonb_build_object('slot', to_char(slot at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')), null
        )::procrastinate_job_to_defer_v1
        order by slot, name
    )
)
from entered
having count(*) > 0

-- name: prune
-- Dead jobs stay: somebody is to look at them.
delete from procrastinate_jobs
where id in (
    select j.id
    from procrastinate_jobs as j
    where j.status = 'succeeded'
        and not exists (select from procrastinate_events as e where e.job_id = j.id and e.at > now() - make_interval(days => :days))
    order by j.id
    limit :limit
)

-- name: prune_slots!
-- Their entries have been carried out beyond them, so none comes again.
delete from job_slots where slot < :before

-- name: books_clock
-- By whose clock these books live: that of whoever opened them first.
with first as (
    insert into books_clock (kind, stands_at)
    values (:kind, :stands_at)
    on conflict do nothing
    returning kind, stands_at
)
select kind, stands_at from first
union all
select kind, stands_at from books_clock
limit 1

-- name: own_clock
select pg_try_advisory_lock(:space, :number)

-- name: waiting
select id from procrastinate_jobs where queueing_lock = :lock and status = 'todo'
