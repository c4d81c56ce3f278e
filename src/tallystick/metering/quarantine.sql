-- name: keep!
insert into quarantine (id, source, code, detail, raw, received_at)
select id, source, code, detail, raw, :now
from unnest(:ids::uuid[], :sources::text[], :codes::text[], :details::text[], :raws::bytea[]) as new (id, source, code, detail, raw)
order by id
on conflict do nothing

-- name: page
select id, source, code, detail, raw, repaired, received_at, replayed_at
from quarantine
where (received_at, id) > (:after_time::timestamptz, :after_id::uuid) and (replayed_at is not null) = :replayed
order by received_at, id
limit :limit

-- name: get
select id, source, code, detail, raw, repaired, received_at, replayed_at from quarantine where id = :id

-- name: repair!
update quarantine set repaired = :repaired, replayed_at = null where id = :id

-- name: close!
update quarantine set replayed_at = :now where id = any (:ids::uuid[]) and replayed_at is null
