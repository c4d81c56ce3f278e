-- name: kinds
-- Kinds in their order, each with the start of everybody's first price and what was measured without a price.
select k.meter, k.key, k.name, k.created_at,
    (select min(p.effective_from) from prices as p where p.meter = k.meter and p.kind = k.key and p.customer_id is null),
    w.customers, w.measurements, w.quantity, w.first_month, w.last_month
from resource_kinds as k
cross join lateral (
    select count(distinct t.customer_id) as customers, sum(t.measurements)::bigint as measurements, sum(t.quantity) as quantity,
        min(t.period) as first_month, max(t.period) as last_month
    from usage_totals as t
    where t.price_id = '00000000-0000-0000-0000-000000000000' and t.meter = k.meter and t.kind = k.key and t.measurements <> 0
) as w
where (k.meter, k.key) > (:after_meter::text, :after_key::text)
    and (:meter::text is null or k.meter = :meter::text) and (:key::text is null or k.key = :key::text)
    and (not :unpriced::boolean or w.customers > 0)
order by k.meter, k.key
limit :limit

-- name: put
insert into resource_kinds (meter, key, name, created_at)
select key, :kind, :name, :now from meters where key = :meter
on conflict (meter, key) do update set name = excluded.name
returning meter

-- name: names
select k.meter, k.key, k.name
from unnest(:meters::text[], :keys::text[]) as wanted (meter, key)
join resource_kinds as k on k.meter = wanted.meter and k.key = wanted.key
where k.name is not null
