-- name: filled_series
select s.customer_id, s.id, s.source, s.meter, s.kind, s.resource, s.agent, m.interval_minutes, m.gaps_filled_since
from series as s
join meters as m on m.key = s.meter
where m.on_gap <> 'free' and (:metered::uuid[] is null or s.customer_id = any (:metered::uuid[]))

-- name: levels
-- Every interval that has a level, or measurements of a series that has levels. Left out are intervals in which something was measured before
-- the meter's gaps came to be filled, and the sums of those that a dynamic price has turned into money.
with filled as (
    select customer_id, series_id, scope, minutes, since
    from unnest(
        :level_customers::uuid[], :level_series::uuid[], :level_scopes::uuid[], :level_minutes::integer[], :level_sinces::timestamptz[]
    ) as f (customer_id, series_id, scope, minutes, since)
),
measured as (
    select f.*, m.at, m.recorded_at, m.value, m.quantity, coalesce(starts_with(m.remark, 'estimated ('), false) as estimated,
        m.price_id = any (:dynamic::uuid[]) as in_money,
        div(extract(epoch from m.at - :earliest::timestamptz), 60 * f.minutes)::bigint as slot
    from filled as f
    join measurements as m on m.customer_id = f.customer_id and m.series_id = f.series_id
),
level as (
    select * from gauge_levels where :metered::uuid[] is null or customer_id = any (:metered::uuid[])
),
interval as (
    select coalesce(m.customer_id, l.customer_id) as customer_id, coalesce(m.scope, l.scope) as scope, coalesce(m.slot, l.slot) as slot,
        m.series_id, m.minutes, l.value, l.at, l.customer_id is not null as has_level,
        sum(m.quantity) as quantity, count(m.at) as measurements, bool_or(m.in_money) as in_money,
        max(m.at) filter (where not m.estimated) as latest,
        bool_or(m.at = l.at and m.value = l.value and not m.estimated) as has_value,
        bool_or(m.recorded_at <= m.since) as is_older
    from measured as m
    full join level as l on l.customer_id = m.customer_id and l.scope = m.scope and l.slot = m.slot
    group by 1, 2, 3, 4, 5, 6, 7, 8
),
named as (
    select i.*, concat(
        'level of ', coalesce(c.key, i.customer_id::text), coalesce(
            ', meter ' || quote_literal(s.meter) || ', kind ' || quote_literal(s.kind) || ', resource ' || quote_literal(s.resource) || ', from '
            || to_char((:earliest::timestamptz + make_interval(mins => i.minutes) * i.slot) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI"Z"'),
            concat(' in scope ', i.scope, ', interval ', i.slot)
        )
    ) as name
    from interval as i
    left join customers as c on c.id = i.customer_id
    left join series as s on s.customer_id = i.customer_id and s.id = i.series_id
)
select case
    when measurements = 0 then concat(name, ': stands at ', trim_scale(value), ', found no measurement in it')
    when is_older then null
    when not has_level then concat(name, ': ', measurements, ' measurements, found no level')
    when latest is distinct from at
        then concat(name, ': its latest value is of ', coalesce(latest::text, 'nobody'), ', found ', coalesce(at::text, 'an estimate'))
    when at is not null and not has_value
        then concat(name, ': stands at ', trim_scale(value), ' since ', at, ', found no measurement of that value')
    when not coalesce(in_money, false) and quantity * 60 <> value * minutes
        then concat(name, ': stands at ', trim_scale(value), ', found measurements that come to ', trim_scale(quantity * 60 / minutes))
    end as difference
from named
