-- A stretch is what lies between two milestones (ledger_milestones), or after the last one. Sequences are in the order of commits, so
-- whatever a reader sees of a wallet has no gaps, and milestones hold for good.

-- name: ledgers
select distinct ledger from ledger_accounts where customer_id = :customer_id order by ledger

-- name: mark
-- Sets the milestones that are missing, as far as :rows transfers reach, and tells how many there were to set.
with last as (
    select * from ledger_milestones where customer_id = :customer_id and ledger = :ledger order by sequence desc limit 1
),
reach as (
    select max(sequence) as sequence
    from (
        select sequence from ledger_transfers
        where customer_id = :customer_id and ledger = :ledger and sequence > coalesce((select sequence from last), 0)
        order by sequence limit :rows
    ) as unmarked
),
fresh as (
    select *, (row_number() over (order by sequence) - 1) / :every as stretch
    from wallet_transfers
    where customer_id = :customer_id and ledger = :ledger and sequence > coalesce((select sequence from last), 0)
        and sequence <= (select sequence from reach)
),
sums as (
    select stretch, max(sequence) as sequence, count(*) filter (where moved <> 0) as listed, max(created_at) as latest_at,
        bit_or(case when moved <> 0 then 1::bigint << 2 * code + (moved > 0)::integer else 0 end) as kinds,
        sum(wallet) as wallet, sum(arrears) as arrears, sum(used) as used, sum(granted) as granted, sum(expired) as expired,
        sum(exchanged) as exchanged, sum(held) as held
    from fresh
    group by stretch
    having count(*) = :every
),
milestones as (
    select :customer_id::uuid, :ledger::integer, s.sequence, s.kinds, coalesce(l.listed, 0) + sum(s.listed) over so_far,
        greatest(l.latest_at, max(s.latest_at) over so_far),
        coalesce(l.wallet, 0) + sum(s.wallet) over so_far, coalesce(l.arrears, 0) + sum(s.arrears) over so_far,
        coalesce(l.used, 0) + sum(s.used) over so_far, coalesce(l.granted, 0) + sum(s.granted) over so_far,
        coalesce(l.expired, 0) + sum(s.expired) over so_far, coalesce(l.exchanged, 0) + sum(s.exchanged) over so_far,
        coalesce(l.held, 0) + sum(s.held) over so_far
    from sums as s
    left join last as l on true
    window so_far as (order by s.stretch)
),
inserted as (
    insert into ledger_milestones (
        customer_id, ledger, sequence, kinds, listed, latest_at, wallet, arrears, used, granted, expired, exchanged, held
    )
    select :customer_id::uuid, :ledger::integer, 0, 0, 0, '-infinity', 0, 0, 0, 0, 0, 0, 0 where not exists (select from last)
    union all
    select * from milestones
    on conflict do nothing
)
select count(*) from milestones

-- name: first_since
-- The first transfer dated at :instant or later; in the order of the books, should clocks have disagreed.
select sequence
from ledger_transfers
where customer_id = :customer_id and ledger = :ledger and created_at >= :instant
    and sequence > coalesce(
        (
            select sequence from ledger_milestones
            where customer_id = :customer_id and ledger = :ledger and latest_at < :instant
            order by sequence desc limit 1
        ), 0
    )
order by sequence
limit 1

-- name: numbered
-- The transaction with this number; the oldest is 1.
with stretch as (
    select first, last, listed from ledger_stretches
    where customer_id = :customer_id and ledger = :ledger and listed < :number
    order by first desc limit 1
)
select sequence
from wallet_transfers
where customer_id = :customer_id and ledger = :ledger and moved <> 0
    and sequence > (select first from stretch) and sequence <= (select last from stretch)
order by sequence
offset :number - (select listed from stretch) - 1
limit 1

-- name: standing
-- Before the transfer :before.
with last as (
    select * from ledger_milestones
    where customer_id = :customer_id and ledger = :ledger and sequence < :before
    order by sequence desc limit 1
)
select l.listed + count(*) filter (where w.moved <> 0), l.wallet + coalesce(sum(w.wallet), 0), l.arrears + coalesce(sum(w.arrears), 0),
    l.used + coalesce(sum(w.used), 0), l.granted + coalesce(sum(w.granted), 0), l.expired + coalesce(sum(w.expired), 0),
    l.exchanged + coalesce(sum(w.exchanged), 0), l.held + coalesce(sum(w.held), 0)
from last as l
left join wallet_transfers as w
    on w.customer_id = :customer_id and w.ledger = :ledger and w.sequence > l.sequence and w.sequence < :before
group by l.listed, l.wallet, l.arrears, l.used, l.granted, l.expired, l.exchanged, l.held

-- name: caused
-- The newest transfers that are, complete, post or void this one. Repayments are never listed.
select sequence
from ledger_transfers
where customer_id = :customer_id and (id = :cause or (cause_id = :cause and code <> 5) or pending_id = :cause)
order by sequence desc
limit :limit

-- name: stretches_down
-- Those between the transfers :after and :before that may hold something wanted, newest first, with the balance when they began.
select first, last, opening
from ledger_stretches
where customer_id = :customer_id and ledger = :ledger and first < :before - 1 and last > :after and kinds & :kinds <> 0
    and (:causes::bigint[] is null or exists (select from unnest(:causes::bigint[]) as c (sequence) where sequence > first and sequence <= last))
order by first desc
limit :limit

-- name: stretches_up
-- The same, oldest first.
select first, last, opening
from ledger_stretches
where customer_id = :customer_id and ledger = :ledger and first < :before - 1 and last > :after and kinds & :kinds <> 0
    and first >= (
        select max(sequence) from ledger_milestones where customer_id = :customer_id and ledger = :ledger and sequence <= :after
    )
    and (:causes::bigint[] is null or exists (select from unnest(:causes::bigint[]) as c (sequence) where sequence > first and sequence <= last))
order by first
limit :limit

-- name: transactions
-- What is wanted of the given stretches, newest first (:direction -1) or oldest first (1). What nobody described is described by the
-- transfer that it completes or the hold that it settles.
select w.sequence, w.id, w.created_at, w.code, w.moved, w.balance_after, coalesce(w.cause_id, w.pending_id),
    coalesce(o.description, cause.description)
from unnest(:starts::bigint[], :ends::bigint[], :openings::numeric[]) as s (first, last, opening)
cross join lateral (
    select t.*, s.opening + sum(t.moved) over (order by t.sequence) as balance_after
    from wallet_transfers as t
    where t.customer_id = :customer_id and t.ledger = :ledger and t.sequence > s.first and t.sequence <= s.last
) as w
left join wallet_operations as o on o.customer_id = :customer_id and o.transfer_id = w.id
left join wallet_operations as cause on cause.customer_id = :customer_id and cause.transfer_id = coalesce(w.cause_id, w.pending_id)
where w.moved <> 0 and w.sequence > :after and w.sequence < :before
    and :kinds::bigint & (1::bigint << 2 * w.code + (w.moved > 0)::integer) <> 0
    and (:causes::bigint[] is null or w.sequence = any (:causes::bigint[]))
order by w.sequence * :direction
limit :limit

-- name: opened
select customer_id from wallet_operations where customer_id = any (:customers::uuid[]) and type = 'open'
