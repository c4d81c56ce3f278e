-- name: usage
-- What was used in each of these periods, by where its resource stands. The heading says how a row is to be understood: "selected" is
-- usage at the path ``name``, which fits the expression; "elsewhere" is all at paths that do not; "unplaced" is usage of the meter ``name``
-- whose resource has no path. Measurements are added up by series before anything is looked up for them.
with period as (
    select p.place, p.since, p.until, p.first, p.last
    from unnest(:sinces::timestamptz[], :untils::timestamptz[], :firsts::date[], :lasts::date[])
        with ordinality as p (since, until, first, last, place)
),
used as (
    select p.place, m.customer_id, m.series_id, m.price_id, sum(m.amount) as amount, count(*) as measurements
    from period as p
    join measurements as m
        on m.customer_id = any (:customer_ids::uuid[]) and m.at >= p.since and m.at < p.until and m.period between p.first and p.last
    group by p.place, m.customer_id, m.series_id, m.price_id
),
placed as materialized (
    select u.place, u.amount, u.measurements, u.price_id, s.meter, r.path,
        case when r.path is null then 'unplaced' when (r.path || '.') ~ :expression::text then 'selected' else 'elsewhere' end as heading
    from used as u
    join series as s on s.customer_id = u.customer_id and s.id = u.series_id
    left join resources as r on r.customer_id = s.customer_id and r.meter = s.meter and r.key = s.resource
)
select p.place::integer - 1, p.heading, case p.heading when 'selected' then p.path when 'unplaced' then p.meter end as name, prices.asset,
    coalesce(sum(p.amount), 0), sum(p.measurements)::bigint, coalesce(sum(p.measurements) filter (where p.price_id is null), 0)::bigint
from placed as p
left join prices on prices.id = p.price_id
group by 1, 2, 3, 4
order by 1, 2, 3, 4
limit :limit
