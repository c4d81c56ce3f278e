-- A query with a column named ``difference`` examines rows: it says in words what is wrong with one, and null if nothing is.
-- :books are the customers whose ledger is examined, :metered those whose measurements are; null examines the whole store.
-- Amounts are microunits: times 0.000001 they are units of their asset.

-- name: snapshot!
set transaction isolation level repeatable read, read only

-- name: read_to_the_end
-- A cursor is otherwise planned for its first rows.
select set_config('cursor_tuple_fraction', '1', true)

-- name: scope
-- One transfer may move the charges of everybody its payer pays for, or paid for once, so these are proven together.
with recursive related as (
    select id from customers where key = :key
    union
    select next.id
    from related as r
    cross join lateral (
        select payer_id as id from customers where id = r.id and payer_id is not null
        union all
        select id from customers where payer_id = r.id
        union all
        select payer_id from former_payers where customer_id = r.id
        union all
        select customer_id from former_payers where payer_id = r.id
    ) as next
)
select array_agg(id) from related

-- name: totals
-- Every usage total beside the sums of its measurements; one of the two may be missing. ``unmoved`` is what their charges did not move
-- themselves, ``posted`` what postings moved, up to ``posted_quantity``; ``noted`` says that more is to be posted. ``linked`` says whether its charges form one chain
-- from 0 to the total: then the totals before them, as a multiset, are the totals after them with 0 put in and the last one taken out.
-- Multisets are compared by the sums of their 64-bit hashes.
with by_series as (
    select m.customer_id, m.period, m.price_id, m.series_id, count(*) as measurements, sum(m.quantity) as quantity, sum(m.amount) as amount,
        sum(m.amount) filter (where m.transfer_id is null) as unmoved,
        sum(hash_numeric_extended(m.total_after, 0)) - sum(hash_numeric_extended(m.total_after - m.quantity, 0)) as links
    from measurements as m
    where :metered::uuid[] is null or m.customer_id = any (:metered::uuid[])
    group by m.customer_id, m.period, m.price_id, m.series_id
),
measured as (
    select g.customer_id, g.period, coalesce(g.price_id, :nil) as price_id, s.meter, s.kind, sum(g.measurements) as measurements,
        sum(g.quantity) as quantity, sum(g.amount) as amount, sum(g.unmoved) as unmoved, sum(g.links) as links
    from by_series as g
    left join series as s on s.customer_id = g.customer_id and s.id = g.series_id
    group by g.customer_id, g.period, g.price_id, s.meter, s.kind
),
counted as (
    select * from usage_totals where :metered::uuid[] is null or customer_id = any (:metered::uuid[])
),
posted as (
    select customer_id, period, price_id, meter, kind, sum(amount) as posted,
        (array_agg(quantity_after order by number desc))[1] as posted_quantity
    from posting_lines
    where :metered::uuid[] is null or customer_id = any (:metered::uuid[])
    group by customer_id, period, price_id, meter, kind
)
select customer_id, (select key from customers where id = customer_id), period, price_id, meter, kind, t.quantity, t.measurements,
    coalesce(m.quantity, 0), coalesce(m.measurements, 0)::bigint, coalesce(m.amount, 0),
    coalesce(m.links = hash_numeric_extended(t.quantity, 0)::numeric - hash_numeric_extended(0, 0), true),
    coalesce(m.unmoved, 0), coalesce(p.posted, 0), coalesce(p.posted_quantity, 0), u.customer_id is not null
from counted as t
full join measured as m using (customer_id, period, price_id, meter, kind)
full join posted as p using (customer_id, period, price_id, meter, kind)
left join unposted_usage as u using (customer_id, period)

-- name: unlinked
-- A charge of one usage total that starts where no other one ended.
with chain as (
    select m.id, m.total_after, m.total_after - m.quantity as total_before
    from measurements as m
    join series as s on s.customer_id = m.customer_id and s.id = m.series_id
    where m.customer_id = :customer_id and m.period = :period and m.price_id = :price_id and s.meter = :meter and s.kind = :kind
        and m.quantity <> 0
)
select c.id, c.total_before
from chain as c
where c.total_before <> 0 and not exists (select from chain as other where other.total_after = c.total_before)
order by c.total_before, c.id
limit 1

-- name: charges
select price_id::text, quantity, total_after, amount
from measurements
where price_id is not null and (:metered::uuid[] is null or customer_id = any (:metered::uuid[]))

-- name: charge_like
-- A charge by its figures: ids are not read for the millions that are right.
select customer_id, id
from measurements
where price_id = :price_id and quantity = :quantity and total_after = :total_after and amount = :amount
    and (:metered::uuid[] is null or customer_id = any (:metered::uuid[]))
order by customer_id, id
limit 1

-- name: remarks
select case when quantity <> value and remark is null
    then concat(
        'measurement ', customer_id, '.', id, ': quantity ', trim_scale(quantity), ' of value ', trim_scale(value), ', found no remark why'
    ) end as difference
from measurements
where :metered::uuid[] is null or customer_id = any (:metered::uuid[])

-- name: waiting
-- Whatever is unpriced must have no price in force, one that is still being settled, or a dynamic one without the unit price it needs.
select case when p.settled_at is not null and (p.model ->> 'type' <> 'dynamic' or m.unit_price is not null)
    then concat('measurement ', m.customer_id, '.', m.id, ': price ', p.id, ' is in force, found it uncharged')
    end as difference
from measurements as m
left join series as s on s.customer_id = m.customer_id and s.id = m.series_id
left join lateral (
    select id, settled_at, model
    from prices
    where meter = s.meter and kind = s.kind and effective_from <= m.at and (customer_id is null or customer_id = m.customer_id)
    order by customer_id nulls last, effective_from desc
    limit 1
) as p on true
where m.price_id is null and (:metered::uuid[] is null or m.customer_id = any (:metered::uuid[]))
