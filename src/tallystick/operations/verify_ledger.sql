-- What ``verify.sql`` says of queries and parameters holds here as well. ``ledger_accounts`` is the table or, where the ledger is not in this
-- database (:elsewhere), the balances of that ledger under the same name.

-- name: elsewhere
-- The accounts with the sums and flags that the ledger gave for them; one that it does not know has no sums.
select a.customer_id, a.id, a.ledger, a.code, coalesce(found.flags, a.flags) as flags, found.debits_pending, found.debits_posted,
    found.credits_pending, found.credits_posted
from ledger_accounts as a
left join unnest(
    :ids::uuid[], :flags::smallint[], :debits_pending::numeric[], :debits_posted::numeric[], :credits_pending::numeric[],
    :credits_posted::numeric[]
) as found (id, flags, debits_pending, debits_posted, credits_pending, credits_posted) on found.id = a.id
where :books::uuid[] is null or a.customer_id = any (:books::uuid[])

-- name: account_ids
select customer_id, id from ledger_accounts where :books::uuid[] is null or customer_id = any (:books::uuid[])

-- name: transfers
select case
    when d.id is null
        then concat('transfer ', t.id, ': its customer has no account ', t.debit_account_id, ' in its asset to debit')
    when c.id is null
        then concat('transfer ', t.id, ': its customer has no account ', t.credit_account_id, ' in its asset to credit')
    when t.amount < 0 or t.amount <> trunc(t.amount)
        then concat('transfer ', t.id, ': expected an amount of whole microunits, found ', trim_scale(t.amount * 0.000001))
    when t.debit_account_id = t.credit_account_id
        then concat('transfer ', t.id, ': debits and credits the same account ', t.debit_account_id)
    end as difference
from ledger_transfers as t
left join ledger_accounts as d on d.customer_id = t.customer_id and d.id = t.debit_account_id and d.ledger = t.ledger
left join ledger_accounts as c on c.customer_id = t.customer_id and c.id = t.credit_account_id and c.ledger = t.ledger
where :books::uuid[] is null or t.customer_id = any (:books::uuid[])

-- name: assets
select case
    when sum(a.debits_posted) <> sum(a.credits_posted)
        then concat(
            'asset ', (select code from assets where ledger = a.ledger), ': debits ', trim_scale(sum(a.debits_posted) * 0.000001),
            ', credits ', trim_scale(sum(a.credits_posted) * 0.000001)
        )
    when sum(a.debits_pending) <> sum(a.credits_pending)
        then concat(
            'asset ', (select code from assets where ledger = a.ledger), ': pending debits ',
            trim_scale(sum(a.debits_pending) * 0.000001), ', pending credits ', trim_scale(sum(a.credits_pending) * 0.000001)
        )
    end as difference
from ledger_accounts as a
where :books::uuid[] is null or a.customer_id = any (:books::uuid[])
group by a.ledger

-- name: sequence
select case when sequence <> previous + 1
    then concat(
        'transfers: expected sequence number ', previous + 1, ' after ', previous, ', found ', sequence, ' of transfer ', id
    ) end as difference
from (
    select id, sequence, lag(sequence, 1, 0::bigint) over (order by sequence) as previous from ledger_transfers
) as ordered

-- name: plan
-- ``ledger_hash`` is planned anew for every batch otherwise, which takes longer than to compute it.
select set_config('plan_cache_mode', :mode, true)

-- name: batches
-- Each batch's hash covers the hash before it and its transfers as they stand now. It is computed over the hash that is stored for the batch
-- before: so one damaged batch does not hide, or blame, all that follow.
select case
    when first_sequence <> previous_last + 1
        then concat(
            'batch ', first_sequence, '..', last_sequence, ': expected it to begin at ', previous_last + 1, ', after the batch before it'
        )
    when hash is distinct from ledger_hash(previous_hash, first_sequence, last_sequence)
        then concat('batch ', first_sequence, '..', last_sequence, ': its hash is not that of its transfers: ', (
            select case
                when count(t.id) < last_sequence - first_sequence + 1
                    then concat('expected ', last_sequence - first_sequence + 1, ', found ', count(t.id))
                when count(distinct t.created_at) > 1
                    then concat('not all of them are of ', mode() within group (order by t.created_at), ', but ', (
                        select concat(odd.id, ' of ', odd.created_at)
                        from ledger_transfers as odd
                        where odd.sequence between first_sequence and last_sequence
                            and odd.created_at <> mode() within group (order by t.created_at)
                        order by odd.sequence
                        limit 1
                    ))
                when count(t.id) = 1 then concat('transfer ', min(t.id::text))
                else concat(
                    'one of ', count(t.id), ', from ', min(t.id::text) filter (where t.sequence = first_sequence), ' to ',
                    min(t.id::text) filter (where t.sequence = last_sequence)
                )
            end
            from ledger_transfers as t
            where t.sequence between first_sequence and last_sequence
        ))
    end as difference
from (
    select first_sequence, last_sequence, hash, lag(hash) over numbered as previous_hash,
        lag(last_sequence, 1, 0::bigint) over numbered as previous_last
    from ledger_batches
    window numbered as (order by last_sequence)
) as chain

-- name: unsealed
select concat('transfer ', id, ': found no batch with its sequence number ', sequence) as difference
from ledger_transfers
where sequence > (select coalesce(max(last_sequence), 0) from ledger_batches)

-- name: resolutions
-- Whatever posts or voids, beside what it resolves: earlier, pending, of the same accounts, and resolved by nothing else.
select case
    when p.id is null
        then concat('transfer ', r.id, ': found no transfer ', r.pending_id, ' for it to resolve')
    when r.flags & :resolves = :resolves or r.flags & :pending <> 0
        then concat('transfer ', r.id, ': expected it to post or to void, found flags ', r.flags)
    when p.flags & :pending = 0
        then concat('transfer ', r.id, ': expected it to resolve a pending transfer, found ', p.id, ' with flags ', p.flags)
    when (r.debit_account_id, r.credit_account_id, r.ledger, r.code) <> (p.debit_account_id, p.credit_account_id, p.ledger, p.code)
        then concat('transfer ', r.id, ': expected the accounts, asset and code of ', p.id, ', which it resolves')
    when r.amount > p.amount or r.flags & :voids <> 0 and r.amount <> p.amount
        then concat(
            'transfer ', r.id, ': resolves ', trim_scale(r.amount * 0.000001), ' of ', p.id, ', found ', trim_scale(p.amount * 0.000001),
            ' pending'
        )
    when r.sequence < p.sequence
        then concat('transfer ', r.id, ': resolves ', p.id, ', which came after it')
    when r.times > 1
        then concat('transfer ', p.id, ': expected it to be resolved once, found ', r.times, ' times, by ', r.first, ' and ', r.last)
    end as difference
from (
    select *, count(*) over same as times, min(id::text) over same as first, max(id::text) over same as last
    from ledger_transfers
    where pending_id is not null and (:books::uuid[] is null or customer_id = any (:books::uuid[]))
    window same as (partition by customer_id, pending_id)
) as r
left join ledger_transfers as p on p.customer_id = r.customer_id and p.id = r.pending_id

-- name: failures
-- What was refused for good is not in the books, under no customer.
select case
    when t.id is not null
        then concat('transfer ', f.id, ': was refused for good (', f.status, '), found it in the books with sequence number ', t.sequence)
    when f.status <> all (:transient::text[])
        then concat('transfer ', f.id, ': found it refused for good for a reason that is none: ', f.status)
    end as difference
from ledger_failures as f
left join ledger_transfers as t on t.id = f.id
where :books::uuid[] is null or f.customer_id = any (:books::uuid[])

-- name: numbered_failures
select case when number <> previous + 1
    then concat('refused transfers: expected number ', previous + 1, ' after ', previous, ', found ', number, ' of transfer ', id)
    end as difference
from (select id, number, lag(number, 1, 0::bigint) over (order by number) as previous from ledger_failures) as ordered

-- name: accounts
-- The sums of every account beside those of its transfers. A pending one reserves its amount; a post and a void take that away again, at the
-- accounts of what they resolve; a post moves its own amount. Whatever closes an account does so until it is voided. What still waits to be
-- carried out elsewhere may or may not be in the sums there.
with sides as (
    select customer_id, debit_account_id as account_id, case when flags & :moves_nothing = 0 then amount else 0 end as debits_posted,
        0::numeric as credits_posted, case when flags & :pending <> 0 then amount else 0 end as debits_pending,
        0::numeric as credits_pending, (flags & :closes_debit <> 0)::integer as closing
    from ledger_transfers
    where :books::uuid[] is null or customer_id = any (:books::uuid[])
    union all
    select customer_id, credit_account_id, 0, case when flags & :moves_nothing = 0 then amount else 0 end,
        0, case when flags & :pending <> 0 then amount else 0 end, (flags & :closes_credit <> 0)::integer
    from ledger_transfers
    where :books::uuid[] is null or customer_id = any (:books::uuid[])
    union all
    select p.customer_id, p.debit_account_id, 0, 0, -p.amount, 0, -(r.flags & :voids <> 0 and p.flags & :closes_debit <> 0)::integer
    from ledger_transfers as r
    join ledger_transfers as p on p.customer_id = r.customer_id and p.id = r.pending_id
    where r.pending_id is not null and (:books::uuid[] is null or r.customer_id = any (:books::uuid[]))
    union all
    select p.customer_id, p.credit_account_id, 0, 0, 0, -p.amount, -(r.flags & :voids <> 0 and p.flags & :closes_credit <> 0)::integer
    from ledger_transfers as r
    join ledger_transfers as p on p.customer_id = r.customer_id and p.id = r.pending_id
    where r.pending_id is not null and (:books::uuid[] is null or r.customer_id = any (:books::uuid[]))
),
moved as (
    select customer_id, account_id, sum(debits_posted) as debits_posted, sum(credits_posted) as credits_posted,
        sum(debits_pending) as debits_pending, sum(credits_pending) as credits_pending, sum(closing) as closing
    from sides
    group by customer_id, account_id
),
underway as (
    select customer_id, debit_account_id as account_id from ledger_outbox where :elsewhere and refused is null
    union
    select customer_id, credit_account_id from ledger_outbox where :elsewhere and refused is null
)
select case
    when u.account_id is not null then null
    -- Another ledger knows an account from the first transfer that touches it.
    when a.debits_posted is null and m.account_id is not null
        then concat('account ', a.id, ': the ledger does not know it')
    when a.debits_posted <> coalesce(m.debits_posted, 0)
        then concat(
            'account ', a.id, ': its transfers debit ', trim_scale(coalesce(m.debits_posted, 0) * 0.000001), ', found ',
            trim_scale(a.debits_posted * 0.000001)
        )
    when a.credits_posted <> coalesce(m.credits_posted, 0)
        then concat(
            'account ', a.id, ': its transfers credit ', trim_scale(coalesce(m.credits_posted, 0) * 0.000001), ', found ',
            trim_scale(a.credits_posted * 0.000001)
        )
    when a.debits_pending <> coalesce(m.debits_pending, 0)
        then concat(
            'account ', a.id, ': its pending transfers debit ', trim_scale(coalesce(m.debits_pending, 0) * 0.000001), ', found ',
            trim_scale(a.debits_pending * 0.000001)
        )
    when a.credits_pending <> coalesce(m.credits_pending, 0)
        then concat(
            'account ', a.id, ': its pending transfers credit ', trim_scale(coalesce(m.credits_pending, 0) * 0.000001), ', found ',
            trim_scale(a.credits_pending * 0.000001)
        )
    when (a.flags & :closed <> 0) <> (coalesce(m.closing, 0) > 0)
        then concat(
            'account ', a.id, ': ', coalesce(m.closing, 0), ' transfers close it, found it ',
            case when a.flags & :closed <> 0 then 'closed' else 'open' end
        )
    end as difference
from ledger_accounts as a
left join moved as m on m.customer_id = a.customer_id and m.account_id = a.id
left join underway as u on u.customer_id = a.customer_id and u.account_id = a.id
where :books::uuid[] is null or a.customer_id = any (:books::uuid[])

-- name: limits
-- What is pending counts as gone on its side, and as not yet come on the other.
select case
    when a.debits_posted + a.debits_pending > a.credits_posted
            and (a.flags & :debits_limited <> 0 or a.code = :wallet and c.credit_policy = 'prepaid')
        then concat(
            'account ', a.id, ' of ', c.key, ': expected no balance below 0, found ',
            trim_scale((a.credits_posted - a.debits_posted - a.debits_pending) * 0.000001)
        )
    when a.credits_posted + a.credits_pending > a.debits_posted and a.flags & :credits_limited <> 0
        then concat(
            'account ', a.id, ' of ', c.key, ': expected no balance above 0, found ',
            trim_scale((a.credits_posted + a.credits_pending - a.debits_posted) * 0.000001)
        )
    end as difference
from ledger_accounts as a
left join customers as c on c.id = a.customer_id
where :books::uuid[] is null or a.customer_id = any (:books::uuid[])

-- name: movements
-- What the charges that name a usage transfer sum to, or the posting of that name, against what it moved to ``used``, or will: one that waits
-- for a ledger elsewhere is on its way. Money given back counts negative. Both must stand in the books of whoever pays for the measured
-- customer, or paid for it before, in the asset of the price.
with usage as (
    select customer_id, id, ledger, debit_account_id, credit_account_id, amount from ledger_transfers
    where code = :usage and (:books::uuid[] is null or customer_id = any (:books::uuid[]))
    union all
    select customer_id, id, ledger, debit_account_id, credit_account_id, amount from ledger_outbox
    where code = :usage and not intent and refused is null and (:books::uuid[] is null or customer_id = any (:books::uuid[]))
),
paid_before as (
    select f.customer_id, f.payer_id, t.id from former_payers as f join usage as t on t.customer_id = f.payer_id
),
charged as (
    select m.transfer_id as movement_id, coalesce(f.payer_id, c.payer_id, c.id) as payer_id, a.ledger, m.amount
    from measurements as m
    left join customers as c on c.id = m.customer_id
    left join paid_before as f on f.customer_id = m.customer_id and f.id = m.transfer_id
    left join prices as p on p.id = m.price_id
    left join assets as a on a.code = p.asset
    where m.amount <> 0 and m.transfer_id is not null and (:metered::uuid[] is null or m.customer_id = any (:metered::uuid[]))
    union all
    select id, customer_id, ledger, amount from postings
    where amount <> 0 and (:books::uuid[] is null or customer_id = any (:books::uuid[]))
),
moved as (
    select t.id as movement_id, t.customer_id as payer_id, t.ledger,
        case used.id when t.credit_account_id then t.amount when t.debit_account_id then -t.amount else 0 end as amount
    from usage as t
    left join ledger_accounts as used on used.customer_id = t.customer_id and used.ledger = t.ledger and used.code = :used
)
select case
    when sum(transfers) = 0
        then concat(
            'transfer ', movement_id, ': expected ', trim_scale(sum(charged) * 0.000001), ' in the books of ',
            (select key from customers where id = sides.payer_id), ' for its charges, found no such transfer'
        )
    when sum(transfers) > 1
        then concat('transfer ', movement_id, ': found it in the books and still waiting to be posted')
    when sum(charges) = 0
        then concat(
            'transfer ', movement_id, ': moved ', trim_scale(sum(moved) * 0.000001), ' in the books of ',
            (select key from customers where id = sides.payer_id), ', found no charge for it'
        )
    when sum(charged) <> sum(moved)
        then concat(
            'transfer ', movement_id, ': its charges sum to ', trim_scale(sum(charged) * 0.000001), ', found ',
            trim_scale(sum(moved) * 0.000001)
        )
    end as difference
from (
    select movement_id, payer_id, ledger, amount as charged, 0 as moved, 1 as charges, 0 as transfers from charged
    union all
    select movement_id, payer_id, ledger, 0, amount, 0, 1 from moved
) as sides
group by movement_id, payer_id, ledger

-- name: unposted
-- A charge that no transfer moved, unless its month is posted as a whole: then its total is proven (postings_accounted).
select concat(
    'charge ', customer_id, '.', id, ': ', trim_scale(coalesce(amount, 0) * 0.000001), ' was charged, found ',
    coalesce('transfer ' || transfer_id, 'no transfer')
) as difference
from measurements as m
where (coalesce(amount, 0) <> 0) <> (transfer_id is not null)
    and (:metered::uuid[] is null or customer_id = any (:metered::uuid[]))
    and (
        transfer_id is not null
        or not exists (select from unposted_usage as u where u.customer_id = m.customer_id and u.period = m.period)
        and not exists (select from posting_lines as l where l.customer_id = m.customer_id and l.period = m.period)
    )

-- name: stranded
-- What was promised to a ledger elsewhere and will never be carried out there. A refused intent, whose caller has not come back, never moved
-- anything.
select case
    when not :elsewhere then concat('transfer ', id, ': waits to be posted on another ledger, found none in use')
    when refused is not null then concat('transfer ', id, ': was promised, but the ledger refused it: ', refused)
    end as difference
from ledger_outbox
where not (intent and refused is not null) and (:books::uuid[] is null or customer_id = any (:books::uuid[]))

-- name: underway
select count(*) from ledger_outbox where refused is null and (:books::uuid[] is null or customer_id = any (:books::uuid[]))

-- name: grants
select case when granted + exchanged <> used + expired + remaining
    then concat(
        customer, ' in ', asset, ': granted ', trim_scale(granted * 0.000001), ' and got by exchange ', trim_scale(exchanged * 0.000001),
        ', found used ', trim_scale(used * 0.000001), ' + expired ', trim_scale(expired * 0.000001),
        ' + left ', trim_scale(remaining * 0.000001)
    ) end as difference
from (
    select coalesce(c.key, a.customer_id::text) as customer, x.code as asset,
        coalesce(sum(a.debits_posted - a.credits_posted) filter (where a.code = :granted), 0) as granted,
        coalesce(sum(a.debits_posted - a.credits_posted) filter (where a.code = :exchanged), 0) as exchanged,
        coalesce(sum(a.credits_posted - a.debits_posted) filter (where a.code = :used), 0) as used,
        coalesce(sum(a.credits_posted - a.debits_posted) filter (where a.code = :expired), 0) as expired,
        coalesce(sum(a.credits_posted - a.debits_posted) filter (where a.code in (:wallet, :arrears)), 0) as remaining
    from ledger_accounts as a
    left join customers as c on c.id = a.customer_id
    left join assets as x on x.ledger = a.ledger
    where :books::uuid[] is null or a.customer_id = any (:books::uuid[])
    group by a.customer_id, c.key, x.code
) as standing

-- name: arrears
-- A prepaid customer owes nothing while its wallet holds what is not reserved, unless the repayment still waits to be carried out.
select case when least(available, owed) > 0 and not exists (
        select from ledger_outbox as o where :elsewhere and o.customer_id = standing.customer_id and o.refused is null
    )
    then concat(
        customer, ' in ', asset, ': expected arrears to be repaid first, found ', trim_scale(owed * 0.000001), ' owed and ',
        trim_scale(available * 0.000001), ' in the wallet'
    ) end as difference
from (
    select a.customer_id, c.key as customer, x.code as asset,
        coalesce(sum(a.credits_posted - a.debits_posted - a.debits_pending) filter (where a.code = :wallet), 0) as available,
        coalesce(sum(a.debits_posted - a.credits_posted) filter (where a.code = :arrears), 0) as owed
    from ledger_accounts as a
    join customers as c on c.id = a.customer_id and c.credit_policy = 'prepaid'
    left join assets as x on x.ledger = a.ledger
    where :books::uuid[] is null or a.customer_id = any (:books::uuid[])
    group by a.customer_id, c.key, x.code
) as standing

-- name: given
-- Every grant beside the transfer by which it came in, and what was taken away of it when it expired or was voided. Where the ledger is
-- elsewhere, a transfer may stand before the grant's row knows.
select case
    when t.id is null and g.state in ('granted', 'expired')
        then concat('grant ', g.id, ': is ', g.state, ', found no transfer by which it came in')
    when t.id is not null and g.state = 'scheduled' and not :elsewhere
        then concat('grant ', g.id, ': is scheduled, found it in the books with sequence number ', t.sequence)
    when (t.amount, t.ledger) <> (g.amount, g.ledger)
        then concat(
            'grant ', g.id, ': expected ', trim_scale(g.amount * 0.000001), ' to have come in, found ', trim_scale(t.amount * 0.000001),
            ' in asset ', (select code from assets where ledger = t.ledger)
        )
    when t.id is not null and w.code is distinct from :wallet
        then concat('grant ', g.id, ': expected it to have come into a wallet, found account ', t.credit_account_id)
    when taken.amount > g.amount or taken.amount > 0 and g.state in ('scheduled', 'granted') and not :elsewhere
        then concat(
            'grant ', g.id, ': is ', g.state, ' with ', trim_scale(g.amount * 0.000001), ', found ', trim_scale(taken.amount * 0.000001),
            ' taken away'
        )
    end as difference
from grants as g
left join ledger_transfers as t on t.customer_id = g.customer_id and t.id = g.id
left join ledger_accounts as w on w.customer_id = t.customer_id and w.id = t.credit_account_id
left join (
    select customer_id, cause_id, sum(amount) as amount from ledger_transfers
    where code = any (:taking::smallint[]) and flags & :moves_nothing = 0
    group by customer_id, cause_id
) as taken on taken.customer_id = g.customer_id and taken.cause_id = g.id
where :books::uuid[] is null or g.customer_id = any (:books::uuid[])

-- name: taken
-- What expired or was voided is of a grant.
select case when g.id is null
    then concat(
        'transfer ', t.id, ': takes away ', trim_scale(t.amount * 0.000001), ', found no grant ', coalesce(t.cause_id::text, 'named'),
        ' that it is of'
    ) end as difference
from ledger_transfers as t
left join grants as g on g.customer_id = t.customer_id and g.id = t.cause_id
where t.code = any (:taking::smallint[]) and (:books::uuid[] is null or t.customer_id = any (:books::uuid[]))

-- name: holds
-- Every hold beside the transfer that reserves it, the one that resolved that, and what was charged besides. Where the ledger is elsewhere,
-- one may be resolved before the hold's row knows.
select case
    when p.id is null
        then concat('hold ', h.id, ': found no transfer that reserves it')
    when p.flags & :pending = 0 or (p.amount, p.ledger, p.code) <> (h.amount, h.ledger, :hold)
        then concat(
            'hold ', h.id, ': expected ', trim_scale(h.amount * 0.000001), ' to be reserved, found a transfer of ',
            trim_scale(p.amount * 0.000001), ' with flags ', p.flags
        )
    when h.state = 'open' and r.id is null or h.state = 'open' and :elsewhere then null
    when h.state = 'open' or r.id is null
        then concat('hold ', h.id, ': is ', h.state, ', found it ', coalesce('resolved by transfer ' || r.id, 'still pending'))
    when r.flags & :voids <> 0 and h.state = 'settled' or r.flags & :voids = 0 and h.state <> 'settled'
        then concat(
            'hold ', h.id, ': is ', h.state, ', found it ', case when r.flags & :voids <> 0 then 'voided' else 'posted' end,
            ' by transfer ', r.id
        )
    when h.state = 'settled' and r.amount <> h.settled_amount
        then concat(
            'hold ', h.id, ': was settled with ', trim_scale(h.settled_amount * 0.000001), ', found ', trim_scale(r.amount * 0.000001)
        )
    when h.excess <> coalesce(e.amount, 0)
        then concat(
            'hold ', h.id, ': an excess of ', trim_scale(h.excess * 0.000001), ' was charged, found ',
            trim_scale(coalesce(e.amount, 0) * 0.000001)
        )
    end as difference
from holds as h
left join ledger_transfers as p on p.customer_id = h.payer_id and p.id = h.id
left join ledger_transfers as r on r.customer_id = h.payer_id and r.pending_id = h.id
left join (
    select customer_id, cause_id, sum(amount) as amount from ledger_transfers
    where code = :hold and pending_id is null and cause_id is not null
    group by customer_id, cause_id
) as e on e.customer_id = h.payer_id and e.cause_id = h.id
where :books::uuid[] is null or h.payer_id = any (:books::uuid[])

-- name: unheld
-- What reserves credits is a hold. Where the ledger is elsewhere, its caller may have died before it was written down.
select concat('transfer ', t.id, ': reserves ', trim_scale(t.amount * 0.000001), ', found no hold of it') as difference
from ledger_transfers as t
where t.code = :hold and t.flags & :pending <> 0 and not :elsewhere
    and not exists (select from holds as h where h.payer_id = t.customer_id and h.id = t.id)
    and (:books::uuid[] is null or t.customer_id = any (:books::uuid[]))
