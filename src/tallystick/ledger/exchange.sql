-- name: record!
insert into exchanges (customer_id, id, from_ledger, to_ledger, amount, rate, received, created_at)
select customer_id, id, from_ledger, to_ledger, amount, rate, received, :now
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :sources::integer[], :targets::integer[], :amounts::numeric[], :rates::numeric[],
    :received::numeric[]
) as new (customer_id, id, from_ledger, to_ledger, amount, rate, received)
on conflict do nothing

-- name: get
select e.id, source.code, target.code, e.amount::text, e.rate, e.received::text, e.created_at
from exchanges as e
join assets as source on source.ledger = e.from_ledger
join assets as target on target.ledger = e.to_ledger
where e.customer_id = :customer_id and e.id = :id

-- name: page
select e.id, source.code, target.code, e.amount::text, e.rate, e.received::text, e.created_at
from exchanges as e
join assets as source on source.ledger = e.from_ledger
join assets as target on target.ledger = e.to_ledger
where e.customer_id = :customer_id and (e.created_at, e.id) < (:before_at::timestamptz, :before_id::uuid)
order by e.created_at desc, e.id desc
limit :limit
