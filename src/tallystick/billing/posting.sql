-- name: lock
-- One at a time: supplements are numbered.
select pg_advisory_xact_lock(7416, 1)

-- name: take
-- The months of the first payers that have some to be posted, each whole. Locked in the order of those who raise totals, so that nobody waits
-- in a circle.
with first as (
    select payer_id, period from unposted_usage where period < :before::date order by payer_id, period limit :limit
),
locked as (
    select u.customer_id, u.period
    from unposted_usage as u
    join (select distinct payer_id, period from first) as f on f.payer_id = u.payer_id and f.period = u.period
    order by u.customer_id, u.period
    for update of u
)
delete from unposted_usage as u
using locked as l
where u.customer_id = l.customer_id and u.period = l.period
returning u.payer_id, u.customer_id, u.period

-- name: take_of_customers
delete from unposted_usage where customer_id = any (:customer_ids::uuid[]) returning payer_id, customer_id, period

-- name: take_of_ending
-- The months, of payers whose grants end now, that began before that end. The grants are those that are to be ended next.
with ending as (
    select customer_id, state, expires_at from grants where due_at <= :now order by due_at, customer_id, id limit :limit
),
locked as (
    select u.customer_id, u.period
    from unposted_usage as u
    where exists (
        select from ending as e
        where e.customer_id = u.payer_id and e.state = 'granted' and u.period::timestamp at time zone :zone < e.expires_at
    )
    order by u.customer_id, u.period
    for update of u
)
delete from unposted_usage as u
using locked as l
where u.customer_id = l.customer_id and u.period = l.period
returning u.payer_id, u.customer_id, u.period

-- name: numbers
-- How many postings there are of these payers' months.
select p.customer_id::text, p.period::text, p.ledger, count(*)
from (select distinct * from unnest(:payer_ids::uuid[], :periods::date[]) as m (payer_id, period)) as wanted
join postings as p on p.customer_id = wanted.payer_id and p.period = wanted.period
group by p.customer_id, p.period, p.ledger

-- name: outstanding
-- The usage totals of these months that have gone on since they were posted.
select u.payer_id::text, u.customer_id::text, u.period::text, t.price_id::text, t.meter, t.kind, t.quantity, t.posted, t.lines
from unnest(:payer_ids::uuid[], :customer_ids::uuid[], :periods::date[]) as u (payer_id, customer_id, period)
join posted_totals as t on t.customer_id = u.customer_id and t.period = u.period
where t.quantity <> t.posted

-- name: copy_lines!
copy posting_lines (
    customer_id, period, price_id, meter, kind, number, posting_id, quantity_before, quantity_after, amount
) from stdin

-- name: keep!
insert into postings (customer_id, id, ledger, period, number, amount, created_at)
select payer_id, id, ledger, period, number, amount, :now
from unnest(:payer_ids::uuid[], :ids::uuid[], :ledgers::integer[], :periods::date[], :numbers::integer[], :amounts::numeric[])
    as new (payer_id, id, ledger, period, number, amount)

-- name: describe!
insert into wallet_operations (customer_id, transfer_id, type, description)
select payer_id, id, 'posting', description
from unnest(:payer_ids::uuid[], :ids::uuid[], :descriptions::text[]) as new (payer_id, id, description)

-- name: begin_lines!
-- So far the charges of these customers were posted by themselves.
insert into posting_lines (customer_id, period, price_id, meter, kind, number, quantity_before, quantity_after, amount)
select customer_id, period, price_id, meter, kind, lines + 1, posted, quantity, 0
from posted_totals
where customer_id = any (:customer_ids::uuid[]) and quantity <> posted

-- name: progress
-- By month: how many customers wait to be posted, and what was posted.
with waiting as (
    select period, count(*) as customers from unposted_usage group by period
),
posted as (
    select period, count(distinct customer_id) as payers, count(*) filter (where number > 0) as supplements, max(created_at) as last_at
    from postings
    group by period
)
select period, coalesce(w.customers, 0), coalesce(p.payers, 0), coalesce(p.supplements, 0), p.last_at
from waiting as w
full join posted as p using (period)
where period < :before::date
order by period desc
limit :limit

-- name: waiting
select count(*) from unposted_usage where period < :before::date

-- name: page
select p.id, p.ledger, a.code, p.period, p.number, p.amount::text, o.description, p.created_at
from postings as p
join assets as a on a.ledger = p.ledger
left join wallet_operations as o on o.customer_id = p.customer_id and o.transfer_id = p.id
where p.customer_id = :payer_id
    and (:before_period::date is null or (p.period, p.number, p.ledger) < (:before_period::date, :before_number::integer, :before_ledger::integer))
order by p.period desc, p.number desc, p.ledger desc
limit :limit

-- name: posting
select p.id, p.ledger, a.code, p.period, p.number, p.amount::text, o.description, p.created_at
from postings as p
join assets as a on a.ledger = p.ledger
left join wallet_operations as o on o.customer_id = p.customer_id and o.transfer_id = p.id
where p.customer_id = :payer_id and p.id = :id

-- name: lines
-- Of a posting, by those whom its payer pays for, or paid for then.
with paid_for as (
    select id, key from customers where id = :payer_id or payer_id = :payer_id
    union
    select c.id, c.key from former_payers as f join customers as c on c.id = f.customer_id where f.payer_id = :payer_id
)
select c.key, l.price_id, l.meter, l.kind, l.quantity_before, l.quantity_after, l.amount::text
from paid_for as c
join posting_lines as l on l.customer_id = c.id and l.period = :period and l.posting_id = :id
where (c.key, l.price_id::text, l.meter, l.kind) > (:after_key::text, :after_price::text, :after_meter::text, :after_kind::text)
order by c.key, l.price_id::text, l.meter, l.kind
limit :limit
