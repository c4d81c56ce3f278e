-- name: exist
select exists (select from webhook_endpoints)

-- name: lock
-- Endpoints are made one at a time, so that they can be counted.
select pg_advisory_xact_lock(7417, 2)

-- name: count
select count(*) from webhook_endpoints where customer_id is not distinct from :customer_id

-- name: insert!
insert into webhook_endpoints (id, customer_id, url, description, types, secret, created_at)
values (:id, :customer_id, :url, :description, :types, :secret, now())

-- name: listed
select e.id, e.customer_id, c.key, e.url, e.description, e.types, e.disabled_at, e.disabled_because, e.failing_since, e.former_until, e.created_at
from webhook_endpoints as e
left join customers as c on c.id = e.customer_id
where (:id::uuid is null or e.id = :id) and (:customer::text is null or c.key = :customer) and e.id > :after
order by e.id
limit :limit

-- name: change!
-- What is null stays. One that is told again begins anew: what it failed before does not count.
update webhook_endpoints
set url = coalesce(:url, url), description = coalesce(:description, description), types = coalesce(:types, types),
    disabled_at = case when :disabled::boolean is null then disabled_at when :disabled then coalesce(disabled_at, now()) end,
    disabled_because = case when :disabled::boolean is null then disabled_because when :disabled then coalesce(disabled_because, :because) end,
    failing_since = case when not :disabled and disabled_at is not null then null else failing_since end
where id = :id

-- name: delete!
delete from webhook_endpoints where id = :id

-- name: rotate!
-- The secret so far signs as well for a while.
update webhook_endpoints
set former_secret = secret, former_until = now() + make_interval(hours => :overlap_hours), secret = :secret
where id = :id

-- name: deliveries
select event_id, type, state, attempts, told_at, nullif(due_at, '-infinity'), tried_at, status, duration_ms, error
from webhook_deliveries
where endpoint_id = :id and (:state::text is null or state = :state) and (told_at, event_id) < (:before, :before_id)
order by told_at desc, event_id desc
limit :limit

-- name: replay
-- Those that have ended, in the order in which they were told; where the next portion begins.
with chosen as (
    select customer_id, endpoint_id, event_id, told_at
    from webhook_deliveries
    where endpoint_id = :id and state <> 'waiting' and (:state::text is null or state = :state)
        and (told_at, event_id) > (:since, :since_id)
    order by told_at, event_id
    limit :limit
),
begun as (
    update webhook_deliveries as d
    set state = 'waiting', attempts = 0, due_at = '-infinity'
    from chosen as c
    where d.customer_id = c.customer_id and d.endpoint_id = c.endpoint_id and d.event_id = c.event_id
    returning d.told_at, d.event_id
)
select told_at, event_id from begun order by told_at, event_id

-- name: replay_one
update webhook_deliveries
set state = 'waiting', attempts = 0, due_at = '-infinity'
where endpoint_id = :id and event_id = :event_id
returning event_id

-- name: subject
select id, key, region, vip from customers where id = :id

-- name: prune_old!
delete from webhook_deliveries
where (customer_id, endpoint_id, event_id) in (
    select customer_id, endpoint_id, event_id from webhook_deliveries
    where told_at < now() - make_interval(days => :days)
    order by told_at
    limit :limit
)

-- name: prune_orphans!
-- Of endpoints that are gone.
delete from webhook_deliveries
where (customer_id, endpoint_id, event_id) in (
    select d.customer_id, d.endpoint_id, d.event_id
    from webhook_deliveries as d
    left join webhook_endpoints as e on e.id = d.endpoint_id
    where e.id is null
    limit :limit
)

-- name: prune_endpoints!
-- Of customers that are gone, once these have been told so.
delete from webhook_endpoints as e
using customers as c
where c.id = e.customer_id and c.deleted_at is not null
    and not exists (select from webhook_deliveries as d where d.endpoint_id = e.id and d.state = 'waiting')
