-- What ``verify.sql`` says of queries and parameters holds here as well. What stands beside the ledger is compared with its transfers. Each
-- query begins at the rows that are proven, and finds their transfers through an index: where there are few, little is read.

-- name: exchanges
-- Every exchange beside the transfer that takes, the one that gives, and what the amount comes to at the rate: rounded half to even to a
-- whole microunit.
select concat('exchange ', e.id, ': ') || case
    when taken.id is null
        then 'found no transfer that takes what is given'
    when (taken.amount, taken.ledger, taken.code, taken.flags & :moves_nothing) <> (e.amount, e.from_ledger, :exchange, 0)
        then concat(
            'expected ', trim_scale(e.amount * 0.000001), ' ', source.code, ' to be taken, found ', trim_scale(taken.amount * 0.000001), ' ',
            (select code from assets where ledger = taken.ledger), ' by a transfer of code ', taken.code
        )
    when (taken.debit, taken.credit) is distinct from (:wallet, :exchanged)
        then concat('expected transfer ', taken.id, ' to take from the wallet for exchange, found it between other accounts')
    when given.id is null
        then 'found no transfer that gives what is received'
    when given.times > 1
        then concat('expected one transfer that gives what is received, found ', given.times, ', among them ', given.id)
    when (given.amount, given.ledger, given.flags & :moves_nothing) <> (e.received, e.to_ledger, 0)
        then concat(
            'expected ', trim_scale(e.received * 0.000001), ' ', target.code, ' to be received, found ',
            trim_scale(given.amount * 0.000001), ' ', (select code from assets where ledger = given.ledger)
        )
    when (given.debit, given.credit) is distinct from (:exchanged, :wallet)
        then concat('expected transfer ', given.id, ' to give to the wallet what was exchanged, found it between other accounts')
    when e.received <> due.whole + case when due.rest > 0.5 or due.rest = 0.5 and mod(due.whole, 2) = 1 then 1 else 0 end
        then concat(
            trim_scale(e.amount * 0.000001), ' ', source.code, ' at a rate of ', trim_scale(e.rate), ' is ',
            trim_scale(e.amount * e.rate * 0.000001), ' ', target.code, ', found ', trim_scale(e.received * 0.000001)
        )
    end as difference
from exchanges as e
left join assets as source on source.ledger = e.from_ledger
left join assets as target on target.ledger = e.to_ledger
cross join lateral (select floor(e.amount * e.rate) as whole, e.amount * e.rate - floor(e.amount * e.rate) as rest) as due
left join lateral (
    select t.id, t.amount, t.ledger, t.code, t.flags, d.code as debit, c.code as credit
    from ledger_transfers as t
    left join ledger_accounts as d on d.customer_id = t.customer_id and d.id = t.debit_account_id
    left join ledger_accounts as c on c.customer_id = t.customer_id and c.id = t.credit_account_id
    where t.customer_id = e.customer_id and t.id = e.id
) as taken on true
left join lateral (
    select t.id, t.amount, t.ledger, t.flags, d.code as debit, c.code as credit, count(*) over () as times
    from ledger_transfers as t
    left join ledger_accounts as d on d.customer_id = t.customer_id and d.id = t.debit_account_id
    left join ledger_accounts as c on c.customer_id = t.customer_id and c.id = t.credit_account_id
    where t.customer_id = e.customer_id and t.cause_id = e.id and t.code <> 5 and t.code = :exchange
    order by t.id
    limit 1
) as given on true
where :books::uuid[] is null or e.customer_id = any (:books::uuid[])

-- name: unexchanged
-- What an exchange gives is of one that was written down. Where the ledger is elsewhere, its caller may have died before that. Repayments (5)
-- are not in the index by which these are found.
select concat(
    'transfer ', t.id, ': gives ', trim_scale(t.amount * 0.000001), ' in exchange, found no exchange ', t.cause_id, ' that it is of'
) as difference
from ledger_transfers as t
where t.cause_id is not null and t.code <> 5 and t.code = :exchange and not :elsewhere
    and not exists (select from exchanges as e where e.customer_id = t.customer_id and e.id = t.cause_id)
    and (:books::uuid[] is null or t.customer_id = any (:books::uuid[]))

-- name: operations
-- Whatever somebody said of a movement is of one that is in the books, for that reason. A wallet that was opened empty has no movement,
-- and what is promised to a ledger elsewhere is on its way.
select concat('operation ', o.transfer_id, ' (', o.type, '): ') || case
    when t.id is null and exists (
            select from ledger_outbox as w
            where w.customer_id = o.customer_id and w.id = o.transfer_id and not w.intent and w.refused is null
        )
        then null
    when t.id is null and o.type <> 'open'
        then 'found no transfer that it is of'
    when t.id is null and exists (select from customers as c where c.id = o.customer_id)
        then null
    when t.id is null
        then concat('found no customer ', o.customer_id, ' whose wallet it opens')
    when t.code is distinct from case o.type
            when 'grant' then :grant::smallint
            when 'open' then :top_up::smallint
            when 'top_up' then :top_up::smallint
            when 'bill' then :bill::smallint
            when 'hold' then :hold::smallint
            when 'posting' then :usage::smallint
            when 'takeover' then :takeover::smallint
        end
        then concat('expected a transfer for that reason, found one of code ', t.code)
    end as difference
from wallet_operations as o
left join ledger_transfers as t on t.customer_id = o.customer_id and t.id = o.transfer_id
where :books::uuid[] is null or o.customer_id = any (:books::uuid[])

-- name: milestones
-- Every milestone beside what the wallet's transfers come to until then: added up from one milestone to the next, and those sums from the
-- first one on, so that a wrong milestone is not blamed on those that follow. Like transfers are added up before their accounts are looked
-- up, which takes a quarter of the time of the view by which readers do it. A pending transfer (flag 2) and a void (8) move nothing, and
-- only change what is held; a transaction is what moves the balance, which is wallet (1) minus arrears (2).
with steps as (
    select *, lag(sequence) over (partition by customer_id, ledger order by sequence) as previous
    from ledger_milestones
    where :books::uuid[] is null or customer_id = any (:books::uuid[])
),
stretches as (
    select s.customer_id, s.ledger, s.sequence, t.*, case when t.posts then t.amount else 0 end as posted
    from steps as s
    cross join lateral (
        select debit_account_id, credit_account_id, code, flags & 10 = 0 as posts, count(*) filter (where amount <> 0) as transfers,
            sum(amount) as amount, max(sequence) as reached, max(created_at) as latest_at,
            sum(case
                when flags & 2 <> 0 then amount
                when pending_id is not null
                    then -(select p.amount from ledger_transfers as p where p.customer_id = l.customer_id and p.id = l.pending_id)
            end) as held
        from ledger_transfers as l
        where customer_id = s.customer_id and ledger = s.ledger and sequence > coalesce(s.previous, 0) and sequence <= s.sequence
        group by debit_account_id, credit_account_id, code, flags & 10 = 0
    ) as t
),
sums as (
    select s.customer_id, s.ledger, s.sequence, max(reached) as reached, max(latest_at) as latest_at,
        sum(transfers) filter (where posts and (c.code in (1, 2)) <> (d.code in (1, 2))) as listed,
        bit_or(1::bigint << 2 * s.code + (c.code in (1, 2))::integer)
            filter (where posts and transfers > 0 and (c.code in (1, 2)) <> (d.code in (1, 2))) as kinds,
        sum(posted * ((c.code = 1)::integer - (d.code = 1)::integer)) as wallet,
        sum(posted * ((d.code = 2)::integer - (c.code = 2)::integer)) as arrears,
        sum(posted * ((c.code = 3)::integer - (d.code = 3)::integer)) as used,
        sum(posted * ((d.code = 4)::integer - (c.code = 4)::integer)) as granted,
        sum(posted * ((c.code = 5)::integer - (d.code = 5)::integer)) as expired,
        sum(posted * ((d.code = 6)::integer - (c.code = 6)::integer)) as exchanged,
        sum(held) filter (where d.code = 1) as held
    from stretches as s
    left join ledger_accounts as d on d.customer_id = s.customer_id and d.id = s.debit_account_id
    left join ledger_accounts as c on c.customer_id = s.customer_id and c.id = s.credit_account_id
    group by s.customer_id, s.ledger, s.sequence
),
expected as (
    select s.*, t.reached, coalesce(t.kinds, 0) as moved_kinds, coalesce(sum(t.listed) over until, 0) as moved_listed,
        greatest('-infinity', max(t.latest_at) over until) as moved_latest_at, coalesce(sum(t.wallet) over until, 0) as moved_wallet,
        coalesce(sum(t.arrears) over until, 0) as moved_arrears, coalesce(sum(t.used) over until, 0) as moved_used,
        coalesce(sum(t.granted) over until, 0) as moved_granted, coalesce(sum(t.expired) over until, 0) as moved_expired,
        coalesce(sum(t.exchanged) over until, 0) as moved_exchanged, coalesce(sum(t.held) over until, 0) as moved_held
    from steps as s
    left join sums as t on t.customer_id = s.customer_id and t.ledger = s.ledger and t.sequence = s.sequence
    window until as (partition by s.customer_id, s.ledger order by s.sequence)
)
select concat(
    'milestone ', e.sequence, ' of ', coalesce((select key from customers where id = e.customer_id), e.customer_id::text), ' in ',
    (select code from assets where ledger = e.ledger), ': '
) || case
    when previous is null and sequence <> 0
        then 'expected the wallet''s first one to be at 0'
    when sequence <> 0 and reached is distinct from sequence
        then 'found no transfer of the wallet with that sequence number'
    when listed <> moved_listed
        then concat('expected ', moved_listed, ' transactions until then, found ', listed)
    when latest_at <> moved_latest_at
        then concat('expected the latest transfer to be of ', moved_latest_at, ', found ', latest_at)
    when kinds <> moved_kinds
        then concat('expected the kinds ', moved_kinds, ' since the one before, found ', kinds)
    else (
        select concat('expected ', name, ' ', trim_scale(expected * 0.000001), ', found ', trim_scale(found * 0.000001))
        from (
            values ('wallet', moved_wallet, wallet), ('arrears', moved_arrears, arrears), ('used', moved_used, used),
                ('granted', moved_granted, granted), ('expired', moved_expired, expired), ('exchanged', moved_exchanged, exchanged),
                ('held', moved_held, held)
        ) as sums (name, expected, found)
        where expected <> found
        limit 1
    )
    end as difference
from expected as e

-- name: checkpoints
select p.customer_id, p.ledger, p.sequence, coalesce(c.key, p.customer_id::text), coalesce(a.code, p.ledger::text), p.remaining, p.unattributed,
    p.unattributed_used, p.moved_out, p.income
from grant_checkpoints as p
left join customers as c on c.id = p.customer_id
left join assets as a on a.ledger = p.ledger
where :books::uuid[] is null or p.customer_id = any (:books::uuid[])

-- name: count_checkpoints
select count(*), (select coalesce(max(sequence), 0) from ledger_transfers)
from grant_checkpoints
where :books::uuid[] is null or customer_id = any (:books::uuid[])

-- name: stories
-- What happened to the grants of these wallets until their checkpoints, in the order of the books, each with what moved in the wallet since
-- the event before: what left it, net, and what came in (grants among it). The last line of a wallet is its checkpoint, after which nothing
-- is told but what was closed there: at one place, a grant comes in or is taken away, then the checkpoint is reached, then grants are closed.
with points as (
    select * from unnest(:customer_ids::uuid[], :ledgers::integer[], :sequences::bigint[]) with ordinality
        as p (customer_id, ledger, reached, number)
),
events as (
    select p.number, t.sequence, 0 as place, 'came in' as event, g.id as grant_id, g.amount, g.priority, g.rank_expiry
    from points as p
    join grants as g on g.customer_id = p.customer_id and g.ledger = p.ledger
    join ledger_transfers as t on t.customer_id = g.customer_id and t.id = g.id and t.sequence <= p.reached
    union all
    select p.number, g.closed_after, case when g.closed_after = p.reached then 2 else 1 end, 'closed', g.id, null, null, null
    from points as p
    join grants as g on g.customer_id = p.customer_id and g.ledger = p.ledger and g.closed_after <= p.reached
    join ledger_transfers as t on t.customer_id = g.customer_id and t.id = g.id and t.sequence <= p.reached
    union all
    select p.number, t.sequence, 0, 'taken', g.id, t.amount, null, null
    from points as p
    join grants as g on g.customer_id = p.customer_id and g.ledger = p.ledger
    join ledger_transfers as t on t.customer_id = g.customer_id and t.cause_id = g.id and t.code <> 5
    where t.code = any (:taking::smallint[]) and t.flags & :moves_nothing = 0 and t.sequence <= p.reached
    union all
    select number, reached, 1, 'reached', null, null, null, null from points
),
intervals as (
    select *, lag(sequence, 1, 0::bigint) over (partition by number order by sequence, place) as previous from events
)
select i.number, i.sequence, i.event, i.grant_id, i.amount, i.priority, i.rank_expiry, m.out, m.income
from intervals as i
join points as p on p.number = i.number
left join ledger_accounts as a on a.customer_id = p.customer_id and a.ledger = p.ledger and a.code = :wallet
cross join lateral (
    select coalesce(sum(t.amount) filter (where t.debit_account_id = a.id), 0)
            - coalesce(sum(t.amount) filter (where t.credit_account_id = a.id and t.code <> all (:incomes::smallint[])), 0) as out,
        coalesce(sum(t.amount) filter (where t.credit_account_id = a.id and t.code = any (:incomes::smallint[])), 0) as income
    from ledger_transfers as t
    where t.customer_id = p.customer_id and t.ledger = p.ledger and t.sequence > i.previous and t.sequence <= i.sequence
        and t.flags & :moves_nothing = 0
) as m
order by i.number, i.sequence, i.place
