-- name: enter
select pg_advisory_xact_lock_shared(7411, 2)

-- name: change
select pg_advisory_xact_lock(7411, 2)

-- name: raise_version
update catalogue set version = version + 1 returning version

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

-- name: listed
-- Prices by meter, kind and age, each with its meter's unit and the start of the next version, which is its end.
select p.id, p.meter, p.kind, c.key, p.effective_from, p.asset, p.quantum, p.model, p.created_at, m.unit,
    (
        select min(n.effective_from) from prices as n
        where n.meter = p.meter and n.kind = p.kind and n.customer_id is not distinct from p.customer_id
            and n.effective_from > p.effective_from
    )
from prices as p
join meters as m on m.key = p.meter
left join customers as c on c.id = p.customer_id
where (:id::uuid is null or p.id = :id::uuid)
    and (:meter::text is null or p.meter = :meter::text)
    and (:kind::text is null or p.kind = :kind::text)
    and (:customer::text is null or c.key = :customer::text)
    and (p.meter, p.kind, p.id) > (:after_meter::text, :after_kind::text, :after_id::uuid)
order by p.meter, p.kind, p.id
limit :limit

-- name: in_force
-- For one customer at an instant, by meter and kind: its own price if it has one by then, else everybody's, which ends at the latest where
-- the customer's own begins.
select distinct on (p.meter, p.kind)
    p.id, p.meter, p.kind, c.key, p.effective_from, p.asset, p.quantum, p.model, p.created_at, m.unit,
    (
        select min(n.effective_from) from prices as n
        where n.meter = p.meter and n.kind = p.kind and n.effective_from > :at
            and (n.customer_id is not distinct from p.customer_id or n.customer_id = :customer_id)
    )
from prices as p
join meters as m on m.key = p.meter
left join customers as c on c.id = p.customer_id
where p.effective_from <= :at and (p.customer_id is null or p.customer_id = :customer_id)
    and (p.meter, p.kind) > (:after_meter::text, :after_kind::text)
order by p.meter, p.kind, p.customer_id nulls last, p.effective_from desc
limit :limit

-- name: unsettled
select id, meter, kind from prices where settled_at is null order by meter, kind, id

-- name: settled!
update prices set settled_at = :now where id = any (:ids::uuid[])
