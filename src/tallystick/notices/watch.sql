-- name: rules
-- All that may be about these customers, in the order of definition.
select r.id, r.number, r.customer_id, c.key, r.kind, r.ledger, a.code, r.threshold, r.recipients, r.copies, r.subject, r.body,
    r.placeholders, r.created_at
from notice_rules as r
left join customers as c on c.id = r.customer_id
left join assets as a on a.ledger = r.ledger
where (r.customer_id is null or r.customer_id = any (:customer_ids::uuid[])) and r.kind = any (:kinds::text[])
order by r.number

-- name: remembered
select m.customer_id, m.ledger, m.told, m.seen, m.came_in::text, m.granted::text
from unnest(:customer_ids::uuid[], :ledgers::integer[]) as w (customer_id, ledger)
join notice_wallets as m on m.customer_id = w.customer_id and m.ledger = w.ledger

-- name: opened
select customer_id, ledger, created_at
from ledger_accounts
where (customer_id, id) in (select * from unnest(:customer_ids::uuid[], :ids::uuid[]))

-- name: ended
-- What came in by grants that have ended, less what voiding gave back (8): of this the account of what was granted knows. A grant ends when
-- its time is up, even if what is left of it is taken away a moment later.
select w.customer_id, w.ledger, sum(g.amount - coalesce(returned.amount, 0))::text
from unnest(:customer_ids::uuid[], :ledgers::integer[]) as w (customer_id, ledger)
join grants as g on g.customer_id = w.customer_id and g.ledger = w.ledger
cross join lateral (
    select sum(t.amount) as amount
    from ledger_transfers as t
    where t.customer_id = g.customer_id and t.cause_id = g.id and t.code <> 5 and t.code = 8
) as returned
where (g.expires_at is not null or g.state = 'voided')
    and (g.state in ('expired', 'voided') or (g.state = 'granted' and g.expires_at <= :now))
    and exists (select from ledger_transfers as t where t.customer_id = g.customer_id and t.id = g.id)
group by w.customer_id, w.ledger

-- name: covering
-- What the newest grants that have not ended add up to: as many of them as it takes to cover an amount, or all that are looked at.
select w.customer_id, w.ledger, coalesce(min(g.total) filter (where g.total >= w.needed), max(g.total))::text
from unnest(:customer_ids::uuid[], :ledgers::integer[], :needed::numeric[]) as w (customer_id, ledger, needed)
cross join lateral (
    select sum(newest.amount) over (order by newest.created_at desc, newest.id desc) as total
    from (
        select amount, created_at, id
        from grants
        where customer_id = w.customer_id and ledger = w.ledger and state = 'granted' and (expires_at is null or expires_at > :now)
        order by created_at desc, id desc
        limit :limit
    ) as newest
) as g
group by w.customer_id, w.ledger

-- name: remember!
insert into notice_wallets as m (customer_id, ledger, told, seen, came_in, granted)
select customer_id, ledger, string_to_array(told, ',')::uuid[], seen, came_in, granted
from unnest(
    :customer_ids::uuid[], :ledgers::integer[], :told::text[], :seen::bigint[], :came_in::numeric[], :granted::numeric[]
) as new (customer_id, ledger, told, seen, came_in, granted)
on conflict (customer_id, ledger) do update
set told = excluded.told, seen = excluded.seen, came_in = excluded.came_in, granted = excluded.granted

-- name: set_alarms!
update ledger_accounts as a
set alarm_at = new.alarm_at
from unnest(:customer_ids::uuid[], :ids::uuid[], :alarms::numeric[]) as new (customer_id, id, alarm_at)
where a.customer_id = new.customer_id and a.id = new.id and a.alarm_at is distinct from new.alarm_at

-- name: raise_new
-- Those that are new: what was raised before is not raised again.
insert into notices (
    customer_id, id, rule_id, kind, ledger, threshold, balance, granted, spent, usual, ends_at, raised_at, state, due_at
)
select customer_id, id, rule_id, kind, ledger, threshold, balance, granted, spent, usual, ends_at, raised_at, :state,
    case :state when 'waiting' then raised_at end
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :rule_ids::uuid[], :kinds::text[], :ledgers::integer[], :thresholds::numeric[],
    :balances::numeric[], :granted::numeric[], :spent::numeric[], :usual::numeric[], :ends_at::timestamptz[], :raised_at::timestamptz[]
) as new (customer_id, id, rule_id, kind, ledger, threshold, balance, granted, spent, usual, ends_at, raised_at)
on conflict (customer_id, id) do nothing
returning id

-- name: subjects
select c.id, c.key, c.region, c.vip
from customers as c
where c.id = any (:customer_ids::uuid[])

-- name: assets
select ledger, code from assets where ledger = any (:ledgers::integer[])

-- name: wallets
-- Wallets in the order of their accounts; the codes are those of wallets.
select customer_id, id, ledger
from ledger_accounts
where code = 1 and (customer_id, id) > (:after_customer::uuid, :after_id::uuid)
order by customer_id, id
limit :limit

-- name: wallets_of
select customer_id, ledger from ledger_accounts where code = 1 and customer_id = :customer_id

-- name: progress
select sequence from notice_progress

-- name: set_progress!
insert into notice_progress (sequence) values (:sequence)
on conflict (only_one) do update set sequence = excluded.sequence

-- name: moved
-- Whose wallets moved by the next transfers after :since, and up to which of them.
select distinct customer_id, ledger, max(sequence) over ()
from (
    select customer_id, ledger, sequence from ledger_transfers where sequence > :since order by sequence limit :limit
) as next
