-- name: lines
-- Every line of a posting beside the one before it of the same usage total.
select l.customer_id, l.period, l.price_id, l.meter, l.kind, l.number, l.posting_id, l.quantity_before, l.quantity_after, l.amount,
    coalesce(lag(l.quantity_after) over total, 0), row_number() over total
from posting_lines as l
where :metered::uuid[] is null or l.customer_id = any (:metered::uuid[])
window total as (partition by l.customer_id, l.period, l.price_id, l.meter, l.kind order by l.number)

-- name: postings
-- Every posting beside the sum of its lines; whether its transfer moved that is proven with all usage. Lines without a posting are of nobody.
with summed as (
    select posting_id as id, sum(amount) as amount, count(*) as lines
    from posting_lines
    where posting_id is not null and (:metered::uuid[] is null or customer_id = any (:metered::uuid[]))
    group by posting_id
)
select case
    when s.id is null then concat('posting ', p.id, ': moved ', trim_scale(p.amount * 0.000001), ', found no line of it')
    when p.id is null then concat('posting ', s.id, ': ', s.lines, ' lines belong to it, found no such posting')
    when s.amount <> p.amount
        then concat(
            'posting ', p.id, ': its lines sum to ', trim_scale(s.amount * 0.000001), ', found ', trim_scale(p.amount * 0.000001)
        )
    end as difference
from (select * from postings where :books::uuid[] is null or customer_id = any (:books::uuid[])) as p
full join summed as s on s.id = p.id

-- name: noted
-- What is still to be posted is to be posted to whoever pays.
select case
    when c.id is null then concat('unposted usage of ', u.customer_id, ' in ', u.period, ': found no such customer')
    when u.payer_id <> payer.id
        then concat('unposted usage of ', c.key, ' in ', u.period, ': expected it to be for ', payer.key, ', found ', u.payer_id)
    when payer.posting_policy <> 'monthly'
        then concat('unposted usage of ', c.key, ' in ', u.period, ': expected nothing, since ', payer.key, ' is posted at once')
    end as difference
from unposted_usage as u
left join customers as c on c.id = u.customer_id
left join customers as payer on payer.id = coalesce(c.payer_id, c.id)
where :metered::uuid[] is null or u.customer_id = any (:metered::uuid[])

-- name: takeovers
-- What left the books of a customer stands in those of its payer, in the same asset; one of the two may be on its way to a ledger elsewhere.
with moved as (
    select customer_id, id, ledger, amount, cause_id, debit_account_id, credit_account_id from ledger_transfers
    where code = :takeover and (:books::uuid[] is null or customer_id = any (:books::uuid[]))
    union all
    select customer_id, id, ledger, amount, cause_id, debit_account_id, credit_account_id from ledger_outbox
    where code = :takeover and not intent and refused is null and (:books::uuid[] is null or customer_id = any (:books::uuid[]))
),
sided as (
    select m.*, used.id = m.debit_account_id as goes
    from moved as m
    left join ledger_accounts as used on used.customer_id = m.customer_id and used.ledger = m.ledger and used.code = :used
)
select case
    when o.id is null then concat('transfer ', i.id, ': took over ', trim_scale(i.amount * 0.000001), ', found nobody who owed it')
    when i.id is null then concat('transfer ', o.id, ': ', trim_scale(o.amount * 0.000001), ' was taken over, found nobody who did')
    when (o.amount, o.ledger) <> (i.amount, i.ledger)
        then concat(
            'transfer ', i.id, ': took over ', trim_scale(i.amount * 0.000001), ', found ', trim_scale(o.amount * 0.000001), ' that was owed'
        )
    end as difference
from (select * from sided where goes) as o
full join (select * from sided where not goes) as i on i.cause_id = o.id
