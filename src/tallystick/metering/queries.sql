-- name: meters
select key, kind, aggregation, on_drop, unit, name, description, on_gap, max_gap_hours, interval_minutes from meters

-- name: meter_page
select key, kind, aggregation, on_drop, unit, name, description, on_gap, max_gap_hours, interval_minutes
from meters
where key > :after
order by key
limit :limit

-- name: meter_in_use
select true from series as s join measurements as m on m.customer_id = s.customer_id and m.series_id = s.id where s.meter = :key limit 1

-- name: save_meter!
insert into meters as m (
    key, kind, aggregation, on_drop, unit, name, description, on_gap, max_gap_hours, interval_minutes, gaps_filled_since, created_at
)
values (
    :key, :kind, :aggregation, :on_drop, :unit, :name, :description, :on_gap, :max_gap_hours, :interval_minutes, :gaps_filled_since, :now
)
on conflict (key) do update set
    kind = excluded.kind, aggregation = excluded.aggregation, on_drop = excluded.on_drop,
    unit = excluded.unit, name = excluded.name, description = excluded.description,
    on_gap = excluded.on_gap, max_gap_hours = excluded.max_gap_hours, interval_minutes = excluded.interval_minutes,
    gaps_filled_since = coalesce(excluded.gaps_filled_since, m.gaps_filled_since)

-- name: ensure_meters!
insert into meters (key, kind, aggregation, on_drop, unit, name, description, created_at)
select key, 'delta', 'sum', 'rebase', '', key, '', :now from unnest(:keys::text[]) as key order by key
on conflict do nothing

-- name: ensure_kinds!
insert into resource_kinds (meter, key, created_at)
select meter, key, :now from unnest(:meters::text[], :keys::text[]) as new (meter, key) order by meter, key
on conflict do nothing

-- name: ensure_series!
insert into series (customer_id, id, source, meter, kind, resource, agent)
select customer_id, id, source, meter, kind, resource, agent
from unnest(:customer_ids::uuid[], :ids::uuid[], :sources::text[], :meters::text[], :kinds::text[], :resources::text[], :agents::text[])
    as new (customer_id, id, source, meter, kind, resource, agent)
order by customer_id, id
on conflict do nothing

-- name: lock_stripe
select pg_advisory_xact_lock(7412, stripe) from unnest(:stripes::integer[]) as stripe

-- name: known
select sent.place
from unnest(:customer_ids::uuid[], :ids::uuid[]) with ordinality as sent (customer_id, id, place)
join measurements as m on m.customer_id = sent.customer_id and m.id = sent.id

-- name: raise_totals
insert into usage_totals (customer_id, period, price_id, meter, kind, quantity, measurements)
select customer_id, period, price_id, meter, kind, quantity, measurements
from unnest(
    :customer_ids::uuid[], :periods::date[], :price_ids::uuid[], :meters::text[], :kinds::text[], :quantities::numeric[],
    :measurements::bigint[]
) as new (customer_id, period, price_id, meter, kind, quantity, measurements)
on conflict (customer_id, period, price_id, meter, kind) do update set
    quantity = usage_totals.quantity + excluded.quantity,
    measurements = usage_totals.measurements + excluded.measurements
returning customer_id::text, period::text, price_id::text, meter, kind, quantity, measurements

-- name: copy_measurements!
copy measurements (
    customer_id, series_id, id, at, recorded_at, period, sender_id, value, unit_price, quantity, remark,
    price_id, total_after, amount, transfer_id
) from stdin

-- name: note_unposted!
-- Also locks the rows until this transaction ends, so that nobody posts a month without what was added to it here.
insert into unposted_usage (customer_id, period, payer_id)
select customer_id, period, payer_id
from unnest(:customer_ids::uuid[], :periods::date[], :payer_ids::uuid[]) as new (customer_id, period, payer_id)
order by customer_id, period
on conflict (customer_id, period) do update set payer_id = excluded.payer_id

-- name: waiting_customers
select distinct customer_id from usage_totals
where price_id = '00000000-0000-0000-0000-000000000000' and meter = :meter and kind = :kind and measurements <> 0
    and customer_id > :after
order by customer_id
limit :limit

-- name: lock_settlement
select pg_advisory_xact_lock(7411, 3)

-- name: waiting
select m.customer_id, payer.id, payer.credit_policy, payer.posting_policy, m.id, m.at, m.period::text, m.quantity, m.unit_price, m.remark
from unnest(:customer_ids::uuid[]) as wanted (customer_id)
join series as s on s.customer_id = wanted.customer_id and s.meter = :meter and s.kind = :kind
join measurements as m on m.customer_id = s.customer_id and m.series_id = s.id and m.price_id is null
join customers as c on c.id = m.customer_id
join customers as payer on payer.id = coalesce(c.payer_id, c.id)
where (m.customer_id, m.at, m.id) > (:after_customer::uuid, :after_at::timestamptz, :after_id::uuid)
order by m.customer_id, m.at, m.id
limit :limit

-- name: charge_waiting!
update measurements as m
set quantity = new.quantity, remark = new.remark, price_id = new.price_id, total_after = new.total_after, amount = new.amount,
    transfer_id = new.transfer_id
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :quantities::numeric[], :remarks::text[], :price_ids::uuid[], :totals::numeric[],
    :amounts::numeric[], :transfer_ids::uuid[]
) as new (customer_id, id, quantity, remark, price_id, total_after, amount, transfer_id)
where m.customer_id = new.customer_id and m.id = new.id and m.price_id is null
