-- name: enter
select pg_advisory_xact_lock_shared(7411, 2)

-- name: change
select pg_advisory_xact_lock(7411, 2)

-- name: raise_version!
update catalogue set version = version + 1

-- name: version
select version from catalogue

-- name: prices
select p.id, p.meter, p.kind, p.customer_id, p.effective_from, p.asset, a.ledger, p.quantum, p.model, p.created_at
from prices as p
join assets as a on a.code = p.asset

-- name: ensure_kind!
insert into resource_kinds (meter, key, created_at)
select key, :kind, :now from meters where key = :meter
on conflict do nothing

-- name: asset_ledger
select ledger from assets where code = :asset

-- name: meter_exists
select true from meters where key = :meter

-- name: insert!
insert into prices (id, meter, kind, customer_id, effective_from, asset, quantum, model, created_at)
values (:id, :meter, :kind, :customer_id, :effective_from, :asset, :quantum, :model, :now)
on conflict do nothing

-- name: page
select p.id, p.meter, p.kind, c.key, p.effective_from, p.asset, p.quantum, p.model, p.created_at
from prices as p
left join customers as c on c.id = p.customer_id
where (:meter::text is null or p.meter = :meter) and (p.meter, p.kind, p.id) > (:after_meter, :after_kind, :after_id::uuid)
order by p.meter, p.kind, p.id
limit :limit

-- name: unsettled
select id, meter, kind from prices where settled_at is null order by meter, kind, id

-- name: settled!
update prices set settled_at = :now where id = any (:ids::uuid[])
