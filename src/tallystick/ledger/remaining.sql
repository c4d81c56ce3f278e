-- name: head
select coalesce(max(last_sequence), 0) from ledger_batches

-- name: checkpoints
select p.customer_id, p.ledger, p.sequence, p.remaining, p.unattributed::text, p.unattributed_used::text, p.moved_out::text, p.income::text
from unnest(:customer_ids::uuid[], :ledgers::integer[]) as w (customer_id, ledger)
join grant_checkpoints as p on p.customer_id = w.customer_id and p.ledger = w.ledger

-- name: keep_checkpoints!
-- Who reads keeps only what is further than before. Who posts knows better: of what he closed after that very transfer, too.
insert into grant_checkpoints as p (customer_id, ledger, sequence, remaining, unattributed, unattributed_used, moved_out, income)
select customer_id, ledger, :sequence, remaining, unattributed, unattributed_used, moved_out, income
from unnest(
    :customer_ids::uuid[], :ledgers::integer[], :remaining::jsonb[], :unattributed::numeric[], :unattributed_used::numeric[],
    :moved_out::numeric[], :income::numeric[]
) as new (customer_id, ledger, remaining, unattributed, unattributed_used, moved_out, income)
order by customer_id, ledger
on conflict (customer_id, ledger) do update
set sequence = excluded.sequence, remaining = excluded.remaining, unattributed = excluded.unattributed,
    unattributed_used = excluded.unattributed_used, moved_out = excluded.moved_out, income = excluded.income
where excluded.sequence > p.sequence or :posts

-- name: granted
-- The grants that came into these wallets, or were closed, after :since, whatever their rows know of it yet.
select g.customer_id, g.ledger, g.id, g.amount::text, g.priority, g.rank_expiry, t.sequence, g.closed_after
from unnest(:customer_ids::uuid[], :ledgers::integer[]) as w (customer_id, ledger)
join grants as g on g.customer_id = w.customer_id and g.ledger = w.ledger
join ledger_transfers as t on t.customer_id = g.customer_id and t.id = g.id
where (t.sequence > :since or g.closed_after >= :since) and t.sequence <= :until

-- name: taken
-- What was taken away of grants after :since, even if their rows do not know yet: their caller died after a ledger elsewhere had done it. The
-- codes are those of expiry and voiding; repayments (5) are not in the index.
select g.customer_id, g.ledger, g.id, t.amount::text, t.sequence
from unnest(:customer_ids::uuid[], :ledgers::integer[]) as w (customer_id, ledger)
join grants as g on g.customer_id = w.customer_id and g.ledger = w.ledger
join ledger_transfers as t on t.customer_id = g.customer_id and t.cause_id = g.id and t.code <> 5 and t.code in (7, 8)
where t.sequence > :since and t.sequence <= :until and t.flags & :moves_nothing = 0

-- name: moved
-- What left these wallets, what came back, and what came in, in each interval (first, last], and in how many transfers. Grants, and what
-- was taken away of them, are among it.
select i.number, m.out::text, m.back::text, m.income::text, m.transfers
from unnest(:customer_ids::uuid[], :ledgers::integer[], :account_ids::uuid[], :firsts::bigint[], :lasts::bigint[])
    with ordinality as i (customer_id, ledger, account_id, first, last, number)
cross join lateral (
    select sum(t.amount) filter (where t.debit_account_id = i.account_id) as out,
        sum(t.amount) filter (where t.credit_account_id = i.account_id and t.code <> all (:incomes::smallint[])) as back,
        sum(t.amount) filter (where t.credit_account_id = i.account_id and t.code = any (:incomes::smallint[])) as income,
        count(*) as transfers
    from ledger_transfers as t
    where t.customer_id = i.customer_id and t.ledger = i.ledger and t.sequence > i.first and t.sequence <= i.last
        and t.flags & :moves_nothing = 0
) as m
