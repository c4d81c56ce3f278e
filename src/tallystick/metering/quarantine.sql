-- name: keep!
insert into quarantine (id, source, code, detail, raw, customer_id, agent_id, received_at)
select id, source, code, detail, raw, customer_id, agent_id, :now
from unnest(
    :ids::uuid[], :sources::text[], :codes::text[], :details::text[], :raws::bytea[], :customer_ids::uuid[], :agent_ids::uuid[]
) as new (id, source, code, detail, raw, customer_id, agent_id)
order by id
on conflict do nothing

-- name: page
select q.id, source, code, detail, raw, repaired, received_at, replayed_at, q.customer_id, c.key, q.agent_id, a.email
from quarantine as q
left join customers as c on c.id = q.customer_id
left join agents as a on a.id = q.agent_id
where (received_at, q.id) > (:after_time::timestamptz, :after_id::uuid) and (replayed_at is not null) = :replayed
order by received_at, q.id
limit :limit

-- name: get
select q.id, source, code, detail, raw, repaired, received_at, replayed_at, q.customer_id, c.key, q.agent_id, a.email
from quarantine as q
left join customers as c on c.id = q.customer_id
left join agents as a on a.id = q.agent_id
where q.id = :id

-- name: repair!
update quarantine set repaired = :repaired, replayed_at = null where id = :id

-- name: close!
update quarantine set replayed_at = :now where id = any (:ids::uuid[]) and replayed_at is null
