-- name: begin_day!
-- What had been used when a wallet was first looked at on a day.
insert into notice_days (customer_id, ledger, day, at, used)
select customer_id, ledger, :day::date, :now::timestamptz, used
from unnest(:customer_ids::uuid[], :ledgers::integer[], :used::numeric[]) as new (customer_id, ledger, used)
on conflict do nothing

-- name: forget_days!
delete from notice_days as d
using unnest(:customer_ids::uuid[], :ledgers::integer[]) as w (customer_id, ledger)
where d.customer_id = w.customer_id and d.ledger = w.ledger and d.day < :first_day::date

-- name: days
-- The first day that is known of each wallet, and what had been used when today began.
select d.customer_id, d.ledger, (array_agg(d.day order by d.day))[1], (array_agg(d.at order by d.day))[1],
    (array_agg(d.used order by d.day))[1]::text, (array_agg(d.used order by d.day desc))[1]::text
from unnest(:customer_ids::uuid[], :ledgers::integer[]) as w (customer_id, ledger)
join notice_days as d on d.customer_id = w.customer_id and d.ledger = w.ledger
where d.day between :first_day::date and :day::date
group by d.customer_id, d.ledger

-- name: any_rule
select exists (select from notice_rules where kind in ('forecast', 'unusual'))

-- name: begin_hour
-- Whether nobody has begun this hour yet.
insert into notice_progress as p (spending_at) values (:hour)
on conflict (only_one) do update set spending_at = excluded.spending_at where p.spending_at is null or p.spending_at < excluded.spending_at
returning true
