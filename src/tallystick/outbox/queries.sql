-- name: put!
-- A fact that is told again while it waits, waits once.
insert into outbox_events (customer_id, id, type, at, subject, region, vip, data)
select new.customer_id, new.id, new.type, new.at, new.subject, new.region, new.vip, new.data
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :types::text[], :ats::timestamptz[], :subjects::text[], :regions::text[], :vips::boolean[],
    :data::jsonb[]
) with ordinality as new (customer_id, id, type, at, subject, region, vip, data, line)
order by new.line
on conflict (customer_id, id) do nothing

-- name: lead
-- One process at a time publishes, so that events leave in order.
select pg_try_advisory_xact_lock(7417, 1)

-- name: take
-- Of a transaction that is older than every running one: none of those can still commit an event with an earlier position.
select id, type, at, customer_id, subject, region, vip, data
from outbox_events
where xact < pg_snapshot_xmin(pg_current_snapshot())
order by position
limit :limit

-- name: finish!
delete from outbox_events as e
using unnest(:customer_ids::uuid[], :ids::uuid[]) as done (customer_id, id)
where e.customer_id = done.customer_id and e.id = done.id

-- name: lag
select count(*), min(at) from (select at from outbox_events order by position limit :limit) as waiting
