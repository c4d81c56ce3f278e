-- name: insert!
insert into api_keys (id, prefix, digest, name, customer_id, agent_id, scopes, requests_per_minute, lives, created_at, expires_at)
values (
    :id, :prefix, :digest, :name, :customer_id, :agent_id, :scopes, :requests_per_minute, :lives::interval, :now::timestamptz,
    :now::timestamptz + :lives::interval
)

-- name: agent
-- By id or by e-mail, with its customer.
select a.id, a.customer_id, c.key
from agents as a
join customers as c on c.id = a.customer_id
where a.id::text = lower(:name) or lower(a.email) = lower(:name)

-- name: customer
select id from customers where key = :key and deleted_at is null

-- name: get
select k.id, k.prefix, k.name, c.key, k.agent_id, k.scopes, k.requests_per_minute, k.lives, k.created_at, k.expires_at,
    k.revoked_at, k.last_used_at, k.replaced_by
from api_keys as k
left join customers as c on c.id = k.customer_id
where k.id = :id

-- name: page
select k.id, k.prefix, k.name, c.key, k.agent_id, k.scopes, k.requests_per_minute, k.lives, k.created_at, k.expires_at,
    k.revoked_at, k.last_used_at, k.replaced_by
from api_keys as k
left join customers as c on c.id = k.customer_id
where (k.created_at, k.id) < (:before_time::timestamptz, :before_id::uuid) and (:customer::text is null or c.key = :customer)
order by k.created_at desc, k.id desc
limit :limit

-- name: lock!
-- What stands in it is read afterwards, by a statement that sees what whoever had it before has done.
select from api_keys where id = :id for no key update

-- name: revoke!
update api_keys set revoked_at = :now where id = :id and revoked_at is null

-- name: replace!
update api_keys set replaced_by = :replaced_by, expires_at = least(expires_at, :ends_at::timestamptz) where id = :id

-- name: by_prefix
-- With whoever holds it, and whether that one is still there and may use anything.
select k.id, k.digest, k.scopes, k.requests_per_minute, k.expires_at, k.revoked_at,
    k.customer_id, c.key, c.deleted_at is not null, k.agent_id, a.email, a.blocked_at is not null
from api_keys as k
left join customers as c on c.id = k.customer_id
left join agents as a on a.id = k.agent_id
where k.prefix = :prefix

-- name: any_active
select exists (select from api_keys where revoked_at is null and (expires_at is null or expires_at > :now))

-- name: named
-- The customer with this key or, if there is none, with this id.
select id, key from customers
where deleted_at is null and (key = :name or id::text = lower(:name))
order by key <> :name
limit 1

-- name: note_use!
update api_keys as k set last_used_at = greatest(k.last_used_at, used.at)
from unnest(:ids::uuid[], :ats::timestamptz[]) as used (id, at)
where k.id = used.id
