-- name: counted_series
select s.customer_id, s.id, s.meter, s.resource
from series as s
join meters as m on m.key = s.meter
where m.kind = 'counter' and (:metered::uuid[] is null or s.customer_id = any (:metered::uuid[]))

-- name: counters
-- Every counter that has a state or measurements. A series may have none: what was sent in it was known already, from another one.
with counted as (
    select customer_id, series_id, scope
    from unnest(:counter_customers::uuid[], :counter_series::uuid[], :counter_scopes::uuid[]) as c (customer_id, series_id, scope)
),
standing as (
    select c.customer_id, (array_agg(c.series_id))[1] as series_id, s.value, s.at, count(m.at) as measurements,
        bool_or(m.at = s.at and m.value = s.value) as has_value,
        max(m.at) filter (where m.quantity <> 0) as counted_at
    from counted as c
    left join measurements as m on m.customer_id = c.customer_id and m.series_id = c.series_id
    left join meter_states as s on s.customer_id = c.customer_id and s.scope = c.scope
    group by c.customer_id, c.scope, s.value, s.at
    having s.at is not null or count(m.at) > 0
),
named as (
    select standing.*, concat(
        'counter of ', coalesce(c.key, standing.customer_id::text), ', meter ', quote_literal(s.meter), ', resource ', quote_literal(s.resource)
    ) as name
    from standing
    left join customers as c on c.id = standing.customer_id
    left join series as s on s.customer_id = standing.customer_id and s.id = standing.series_id
)
select case
    when at is null then concat(name, ': ', measurements, ' measurements, found no state')
    when has_value is not true then concat(name, ': stands at ', trim_scale(value), ' since ', at, ', found no measurement of that value')
    when counted_at > at then concat(name, ': stands at ', trim_scale(value), ' since ', at, ', found that it was counted at ', counted_at)
    end as difference
from named
