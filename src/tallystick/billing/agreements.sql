-- Rows of agreements change only while their transaction holds the ledger's lock.

-- name: put_tier!
insert into tiers (name, asset, credits, category, priority, created_at)
values (:name, :asset, :credits, :category, :priority, :created_at)
on conflict (name) do update
set asset = excluded.asset, credits = excluded.credits, category = excluded.category, priority = excluded.priority

-- name: add_tier!
insert into tiers (name, asset, credits, category, priority, created_at)
values (:name, :asset, :credits, :category, :priority, :created_at)
on conflict (name) do nothing

-- name: tier
select name, asset, credits::text, category, priority, created_at from tiers where name = :name

-- name: tiers
select name, asset, credits::text, category, priority, created_at from tiers where name > :after order by name limit :limit

-- name: known_tiers
select name from tiers where name = any (:names::text[])

-- name: make!
insert into agreements (customer_id, id, tier, starts_at, ends_at, due_at, created_at)
select customer_id, id, tier, starts_at, ends_at, starts_at, :now
from unnest(:customer_ids::uuid[], :ids::uuid[], :tiers::text[], :starts::timestamptz[], :ends::timestamptz[])
    as new (customer_id, id, tier, starts_at, ends_at)
on conflict do nothing

-- name: named
select a.customer_id, a.id, a.tier, a.starts_at, a.ends_at, a.payer_id, a.grant_id, a.created_at, a.due_at
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join agreements as a on a.customer_id = wanted.customer_id and a.id = wanted.id

-- name: page
select a.customer_id, a.id, a.tier, a.starts_at, a.ends_at, a.payer_id, a.grant_id, a.created_at, a.due_at
from agreements as a
where a.customer_id = :customer_id and (a.created_at, a.id) < (:before_at::timestamptz, :before_id::uuid)
order by a.created_at desc, a.id desc
limit :limit

-- name: due
select customer_id, id from agreements where due_at <= :now order by due_at, customer_id, id limit :limit

-- name: next_due
select min(due_at) from agreements where due_at > :after

-- name: terms
-- What these agreements grant, by their tiers as they are now, and to whom.
select a.customer_id, a.id, p.id, p.credit_policy, x.ledger, t.credits::text, t.category, t.priority
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join agreements as a on a.customer_id = wanted.customer_id and a.id = wanted.id
join tiers as t on t.name = a.tier
join assets as x on x.code = t.asset
join customers as c on c.id = a.customer_id
join customers as p on p.id = coalesce(c.payer_id, c.id)

-- name: started!
update agreements as a
set payer_id = new.payer_id, grant_id = new.grant_id, due_at = null
from unnest(:customer_ids::uuid[], :ids::uuid[], :payer_ids::uuid[], :grant_ids::uuid[]) as new (customer_id, id, payer_id, grant_id)
where a.customer_id = new.customer_id and a.id = new.id

-- name: end!
-- One that ends where it starts never grants anything.
update agreements as a
set ends_at = new.ends_at, due_at = case when new.ends_at > a.starts_at and a.grant_id is null then a.starts_at end
from unnest(:customer_ids::uuid[], :ids::uuid[], :ends::timestamptz[]) as new (customer_id, id, ends_at)
where a.customer_id = new.customer_id and a.id = new.id
