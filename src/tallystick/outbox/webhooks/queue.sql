-- name: put!
-- An event for each endpoint that hears of its customer and its type. The same fact is told an endpoint once.
insert into webhook_deliveries (customer_id, endpoint_id, event_id, type, body)
select new.customer_id, e.id, new.event_id, new.type, new.body
from unnest(:customer_ids::uuid[], :event_ids::uuid[], :types::text[], :patterns::text[], :bodies::text[])
    as new (customer_id, event_id, type, patterns, body)
cross join lateral (
    select id, types from webhook_endpoints where customer_id = new.customer_id and disabled_at is null
    union all
    select id, types from webhook_endpoints where customer_id is null and disabled_at is null
) as e
where e.types && string_to_array(new.patterns, ' ')
on conflict do nothing

-- name: put_for_one!
insert into webhook_deliveries (customer_id, endpoint_id, event_id, type, body)
values (:customer_id, :endpoint_id, :event_id, :type, :body)

-- name: claim
-- The next delivery of each endpoint that has one, has not too many under way, and fails, or does not. It is put off for as long as an attempt
-- can last: if nothing is noted by then, its worker has died, and it is tried again.
with recursive waiting as (
    (select endpoint_id from webhook_deliveries where state = 'waiting' order by endpoint_id limit 1)
    union all
    select (
        select d.endpoint_id from webhook_deliveries as d
        where d.state = 'waiting' and d.endpoint_id > w.endpoint_id
        order by d.endpoint_id
        limit 1
    )
    from waiting as w
    where w.endpoint_id is not null
),
due as (
    select next.customer_id, e.id, next.event_id, e.url, e.secret, case when e.former_until > now() then e.former_secret end as former_secret
    from waiting as w
    join webhook_endpoints as e on e.id = w.endpoint_id
    cross join lateral (
        select d.customer_id, d.event_id, d.due_at
        from webhook_deliveries as d
        where d.endpoint_id = e.id and d.state = 'waiting' and d.due_at <= now()
        order by d.due_at
        limit 1
        for no key update skip locked
    ) as next
    where e.disabled_at is null and (e.failing_since is not null) = :failing and e.id <> all (:full::uuid[])
    order by next.due_at
    limit :limit
)
update webhook_deliveries as d
set attempts = d.attempts + 1, tried_at = now(), due_at = now() + make_interval(secs => :lease_seconds)
from due
where d.customer_id = due.customer_id and d.endpoint_id = due.id and d.event_id = due.event_id
returning d.customer_id, d.endpoint_id, d.event_id, d.type, d.body, d.attempts, d.tried_at, due.url, due.secret, due.former_secret

-- name: note!
-- How an attempt went, unless somebody else has tried since, or has had it begin anew.
update webhook_deliveries
set state = :state, due_at = now() + make_interval(secs => :pause_seconds), status = :status, duration_ms = :duration_ms, error = :error
where customer_id = :customer_id and endpoint_id = :endpoint_id and event_id = :event_id and attempts = :attempt and state = 'waiting'

-- name: recovered!
update webhook_endpoints set failing_since = null where id = :endpoint_id and failing_since is not null

-- name: failing!
update webhook_endpoints set failing_since = now() where id = :endpoint_id and failing_since is null

-- name: give_up
-- An endpoint that wants no more, or has failed for so long; and whom it heard of. Nothing if it is disabled already.
update webhook_endpoints as e
set disabled_at = now(), disabled_because = :because
where e.id = :endpoint_id and e.disabled_at is null and (:gone or e.failing_since <= now() - make_interval(days => :days))
returning e.disabled_at, e.failing_since, e.description, e.customer_id

-- name: count_endpoints
select
    count(*) filter (where disabled_at is null and failing_since is null),
    count(*) filter (where disabled_at is null and failing_since is not null),
    count(*) filter (where disabled_at is not null)
from webhook_endpoints

-- name: lag
select count(*), coalesce(extract(epoch from now() - min(told_at)), 0)::bigint
from (
    select d.told_at
    from webhook_deliveries as d
    join webhook_endpoints as e on e.id = d.endpoint_id and e.disabled_at is null
    where d.state = 'waiting'
    limit :limit
) as waiting
