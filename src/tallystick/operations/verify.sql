-- A query with a column named ``difference`` examines rows: it says in words what is wrong with one, and null if nothing is.
-- :books are the customers whose ledger is examined, :metered those whose measurements are; null examines the whole store.
-- Amounts are microunits: times 0.000001 they are units of their asset.

-- name: snapshot!
set transaction isolation level repeatable read, read only

-- name: read_to_the_end
-- A cursor is otherwise planned for its first rows.
select set_config('cursor_tuple_fraction', '1', true)

-- name: scope
-- One transfer may move the charges of everybody its payer pays for, so these are proven together.
with subject as (
    select array[id, coalesce(payer_id, id)] as books from customers where key = :key
)
select s.books, array(select c.id from customers as c where coalesce(c.payer_id, c.id) = any (s.books) or c.id = any (s.books))
from subject as s

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

-- name: sequence
select case when sequence <> previous + 1
    then concat('transfers: expected sequence number ', previous + 1, ' after ', previous, ', found ', sequence)
    end as difference
from (
    select sequence, lag(sequence, 1, 0::bigint) over (order by sequence) as previous from ledger_transfers
) as ordered

-- name: assets
select case when sum(a.debits_posted) <> sum(a.credits_posted)
    then concat(
        'asset ', (select code from assets where ledger = a.ledger), ': debits ', trim_scale(sum(a.debits_posted) * 0.000001),
        ', credits ', trim_scale(sum(a.credits_posted) * 0.000001)
    ) end as difference
from ledger_accounts as a
where :books::uuid[] is null or a.customer_id = any (:books::uuid[])
group by a.ledger

-- name: accounts
with posted as (
    select customer_id, account_id, sum(debit) as debits, sum(credit) as credits
    from (
        select customer_id, debit_account_id as account_id, amount as debit, 0 as credit from ledger_transfers
        where :books::uuid[] is null or customer_id = any (:books::uuid[])
        union all
        select customer_id, credit_account_id, 0, amount from ledger_transfers
        where :books::uuid[] is null or customer_id = any (:books::uuid[])
    ) as sides
    group by customer_id, account_id
)
select case
    when a.debits_posted <> coalesce(p.debits, 0)
        then concat(
            'account ', a.id, ': its transfers debit ', trim_scale(coalesce(p.debits, 0) * 0.000001), ', found ',
            trim_scale(a.debits_posted * 0.000001)
        )
    when a.credits_posted <> coalesce(p.credits, 0)
        then concat(
            'account ', a.id, ': its transfers credit ', trim_scale(coalesce(p.credits, 0) * 0.000001), ', found ',
            trim_scale(a.credits_posted * 0.000001)
        )
    end as difference
from ledger_accounts as a
left join posted as p on p.customer_id = a.customer_id and p.account_id = a.id
where :books::uuid[] is null or a.customer_id = any (:books::uuid[])

-- name: limits
select case
    when a.debits_posted > a.credits_posted and (a.flags & :debits_limited <> 0 or a.code = :wallet and c.credit_policy = 'prepaid')
        then concat(
            'account ', a.id, ' of ', c.key, ': expected no balance below 0, found ',
            trim_scale((a.credits_posted - a.debits_posted) * 0.000001)
        )
    when a.credits_posted > a.debits_posted and a.flags & :credits_limited <> 0
        then concat(
            'account ', a.id, ' of ', c.key, ': expected no balance above 0, found ',
            trim_scale((a.credits_posted - a.debits_posted) * 0.000001)
        )
    end as difference
from ledger_accounts as a
left join customers as c on c.id = a.customer_id
where :books::uuid[] is null or a.customer_id = any (:books::uuid[])

-- name: totals
-- Every usage total beside the sums of its measurements; one of the two may be missing. ``linked`` says whether its charges form one chain
-- from 0 to the total: then the totals before them, as a multiset, are the totals after them with 0 put in and the last one taken out.
-- Multisets are compared by the sums of their 64-bit hashes.
with by_series as (
    select m.customer_id, m.period, m.price_id, m.series_id, count(*) as measurements, sum(m.quantity) as quantity, sum(m.amount) as amount,
        sum(hash_numeric_extended(m.total_after, 0)) - sum(hash_numeric_extended(m.total_after - m.quantity, 0)) as links
    from measurements as m
    where :metered::uuid[] is null or m.customer_id = any (:metered::uuid[])
    group by m.customer_id, m.period, m.price_id, m.series_id
),
measured as (
    select g.customer_id, g.period, coalesce(g.price_id, :nil) as price_id, s.meter, s.kind, sum(g.measurements) as measurements,
        sum(g.quantity) as quantity, sum(g.amount) as amount, sum(g.links) as links
    from by_series as g
    left join series as s on s.customer_id = g.customer_id and s.id = g.series_id
    group by g.customer_id, g.period, g.price_id, s.meter, s.kind
),
counted as (
    select * from usage_totals where :metered::uuid[] is null or customer_id = any (:metered::uuid[])
)
select customer_id, (select key from customers where id = customer_id), period, price_id, meter, kind, t.quantity, t.measurements,
    coalesce(m.quantity, 0), coalesce(m.measurements, 0)::bigint, coalesce(m.amount, 0),
    coalesce(m.links = hash_numeric_extended(t.quantity, 0)::numeric - hash_numeric_extended(0, 0), true)
from counted as t
full join measured as m using (customer_id, period, price_id, meter, kind)

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

-- name: movements
-- What the charges that name a usage transfer sum to, against what it moved to ``used``, with the part that went to arrears. Money given
-- back counts negative. Both must stand in the books of whoever pays for the measured customer, in the asset of the price.
with charged as (
    select m.transfer_id as movement_id, coalesce(c.payer_id, c.id) as payer_id, a.ledger, m.amount
    from measurements as m
    left join customers as c on c.id = m.customer_id
    left join prices as p on p.id = m.price_id
    left join assets as a on a.code = p.asset
    where m.amount <> 0 and m.transfer_id is not null and (:metered::uuid[] is null or m.customer_id = any (:metered::uuid[]))
),
moved as (
    select coalesce(t.cause_id, t.id) as movement_id, t.customer_id as payer_id, t.ledger,
        case used.id when t.credit_account_id then t.amount when t.debit_account_id then -t.amount else 0 end as amount
    from ledger_transfers as t
    left join ledger_accounts as used on used.customer_id = t.customer_id and used.ledger = t.ledger and used.code = :used
    where t.code = :usage and (:books::uuid[] is null or t.customer_id = any (:books::uuid[]))
)
select case
    when sum(transfers) = 0
        then concat(
            'transfer ', movement_id, ': expected ', trim_scale(sum(charged) * 0.000001), ' in the books of ',
            (select key from customers where id = payer_id), ' for its charges, found no such transfer'
        )
    when sum(charges) = 0
        then concat(
            'transfer ', movement_id, ': moved ', trim_scale(sum(moved) * 0.000001), ' in the books of ',
            (select key from customers where id = payer_id), ', found no charge for it'
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
select concat(
    'charge ', customer_id, '.', id, ': ', trim_scale(coalesce(amount, 0) * 0.000001), ' was charged, found ',
    coalesce('transfer ' || transfer_id, 'no transfer')
) as difference
from measurements
where (coalesce(amount, 0) <> 0) <> (transfer_id is not null)
    and (:metered::uuid[] is null or customer_id = any (:metered::uuid[]))

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

-- name: grants
select case when granted <> used + expired + remaining
    then concat(
        customer, ' in ', asset, ': granted ', trim_scale(granted * 0.000001), ', found used ', trim_scale(used * 0.000001),
        ' + expired ', trim_scale(expired * 0.000001), ' + left ', trim_scale(remaining * 0.000001)
    ) end as difference
from (
    select coalesce(c.key, a.customer_id::text) as customer, x.code as asset,
        coalesce(sum(a.debits_posted - a.credits_posted) filter (where a.code = :granted), 0) as granted,
        coalesce(sum(a.credits_posted - a.debits_posted) filter (where a.code = :used), 0) as used,
        coalesce(sum(a.credits_posted - a.debits_posted) filter (where a.code = :expired), 0) as expired,
        coalesce(sum(a.credits_posted - a.debits_posted) filter (where a.code in (:wallet, :arrears)), 0) as remaining
    from ledger_accounts as a
    left join customers as c on c.id = a.customer_id
    left join assets as x on x.ledger = a.ledger
    where :books::uuid[] is null or a.customer_id = any (:books::uuid[])
    group by a.customer_id, c.key, x.code
) as standing
