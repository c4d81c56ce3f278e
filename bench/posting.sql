-- Books of :customers customers posted monthly, each with usage of 8 kinds in one month, :each measurements to a total, as intake writes them.

-- name: customers!
insert into customers (id, key, posting_policy, created_at)
select md5(:name::text || n)::uuid, :name::text || n, 'monthly', :at::timestamptz from generate_series(1, :customers::integer) as n

-- name: series!
insert into series (customer_id, id, source, meter, kind, resource, agent)
select md5(:name::text || n)::uuid, md5(:name::text || n || p.kind)::uuid, 'bench', p.meter, p.kind, 'app', ''
from generate_series(1, :customers::integer) as n
join prices as p on p.meter = 'cfapps'

-- name: measurements!
insert into measurements (
    customer_id, id, series_id, at, recorded_at, period, sender_id, value, quantity, price_id, total_after, amount
)
select md5(:name::text || n)::uuid, md5(:name::text || n || p.kind || i)::uuid, md5(:name::text || n || p.kind)::uuid,
    :at::timestamptz + i * interval '1 hour', :at::timestamptz, :period::date, 'app/' || i, 1, 1, p.id, i, :amount::bigint
from generate_series(1, :customers::integer) as n
join prices as p on p.meter = 'cfapps'
cross join generate_series(1, :each::integer) as i

-- name: totals!
insert into usage_totals (customer_id, period, price_id, meter, kind, quantity, measurements)
select md5(:name::text || n)::uuid, :period::date, p.id, p.meter, p.kind, :each::integer, :each::integer
from generate_series(1, :customers::integer) as n
join prices as p on p.meter = 'cfapps'

-- name: notes!
insert into unposted_usage (customer_id, period, payer_id)
select md5(:name::text || n)::uuid, :period::date, md5(:name::text || n)::uuid from generate_series(1, :customers::integer) as n

-- name: analyze!
vacuum (analyze) customers, series, usage_totals, unposted_usage

-- name: posted
select coalesce(sum(amount), 0)::bigint, count(*) from postings where period = :period::date

-- name: reference_schema!
-- The way of the platform's billing: a month is the sum of its measurements, each of which is priced by itself.
create schema reference;
create table reference.reading (id integer primary key, created_at timestamptz not null);
create table reference.resource (natural_id text primary key, kind text not null, customer_id uuid not null);
create table reference.price (id integer primary key, kind text not null, microcredits_per_unit bigint not null, unit bigint not null);
create table reference.measurement (
    reading_id integer not null, resource_natural_id text not null, value integer not null, amount_microcredits bigint, price_id integer
);
create table reference.transaction (
    id bigint generated always as identity primary key, customer_id uuid not null, occurred_at timestamptz not null, description text not null
);
create table reference.entry (
    transaction_id bigint not null, account_type integer not null, direction integer not null, amount_microcredits bigint not null,
    primary key (transaction_id, account_type)
);

-- name: reference_prices!
insert into reference.price
select row_number() over (order by kind), kind, :amount::bigint, 1 from prices where meter = 'cfapps'

-- name: reference_resources!
insert into reference.resource
select :name::text || n || '/' || p.kind, p.kind, md5(:name::text || n)::uuid
from generate_series(1, :customers::integer) as n
join prices as p on p.meter = 'cfapps'

-- name: reference_readings!
insert into reference.reading
select :first::integer + i, :at::timestamptz + i * interval '1 hour' from generate_series(1, :each::integer) as i

-- name: reference_measurements!
insert into reference.measurement (reading_id, resource_natural_id, value)
select :first::integer + i, r.natural_id, 1
from generate_series(1, :each::integer) as i
cross join reference.resource as r
where starts_with(r.natural_id, :name::text)

-- name: reference_analyze!
vacuum (analyze) reference.reading, reference.resource, reference.price, reference.measurement

-- name: reference_counted!
analyze reference.measurement

-- name: reference_price!
update reference.measurement as m
set amount_microcredits = p.microcredits_per_unit * m.value / p.unit, price_id = p.id
from reference.reading as rd, reference.resource as r, reference.price as p
where rd.id = m.reading_id and r.natural_id = m.resource_natural_id and p.kind = r.kind and m.amount_microcredits is null
    and rd.created_at >= :at::timestamptz and rd.created_at < :until::timestamptz

-- name: reference_post!
with totals as (
    select r.customer_id, sum(m.amount_microcredits) as amount
    from reference.reading as rd
    join reference.measurement as m on m.reading_id = rd.id
    join reference.resource as r on r.natural_id = m.resource_natural_id
    where rd.created_at >= :at::timestamptz and rd.created_at < :until::timestamptz and m.amount_microcredits is not null
    group by r.customer_id
),
posted as (
    insert into reference.transaction (customer_id, occurred_at, description)
    select customer_id, :until::timestamptz, 'Monthly usage' from totals where amount <> 0
    returning id, customer_id
)
insert into reference.entry
select p.id, e.account_type, e.direction, t.amount
from posted as p
join totals as t on t.customer_id = p.customer_id
cross join (values (201, -1), (401, 1)) as e (account_type, direction)

-- name: reference_posted
select coalesce(sum(e.amount_microcredits), 0)::bigint, count(*)
from reference.entry as e
join reference.transaction as t on t.id = e.transaction_id
where e.account_type = 401 and t.occurred_at = :until::timestamptz
