-- name: charge
select c.key, array(
        select coalesce(c.payer_id, c.id) union select payer_id from former_payers where customer_id = c.id
    ), s.source, m.sender_id, s.meter, mt.unit, s.kind, s.resource, s.agent, m.at, m.recorded_at, m.value,
    m.unit_price, m.quantity, m.remark, m.period, m.total_after - m.quantity, m.total_after, m.amount, m.transfer_id,
    exists (select from unposted_usage as u where u.customer_id = m.customer_id and u.period = m.period)
from measurements as m
join customers as c on c.id = m.customer_id
join series as s on s.customer_id = m.customer_id and s.id = m.series_id
join meters as mt on mt.key = s.meter
where m.customer_id = :customer_id and m.id = :id

-- name: price
select p.id, p.meter, p.kind, c.key, p.effective_from, p.asset, p.quantum, p.model
from prices as p
join measurements as m on m.price_id = p.id
left join customers as c on c.id = p.customer_id
where m.customer_id = :customer_id and m.id = :id

-- name: transfers
-- The transfer of a charge, or those by which its month was posted, and the repayment after it unless it moved nothing. They stand in the
-- books of whoever pays, or paid for the customer before. What a repayment that still waits will move is not known yet.
with moved as (
    select t.id, t.customer_id, t.ledger, t.debit_account_id, t.credit_account_id, t.amount, t.created_at, false as waiting, t.sequence
    from ledger_transfers as t
    where t.customer_id = any (:payer_ids::uuid[]) and (t.id = any (:ids::uuid[]) or t.id = any (:repayment_ids::uuid[]) and t.amount > 0)
    union all
    select o.id, o.customer_id, o.ledger, o.debit_account_id, o.credit_account_id, o.amount, o.created_at, true, null
    from ledger_outbox as o
    where o.customer_id = any (:payer_ids::uuid[]) and o.id = any (:ids::uuid[])
)
select m.id, c.key, debit.code, credit.code, m.amount, a.code, m.created_at, m.waiting
from moved as m
join customers as c on c.id = m.customer_id
join assets as a on a.ledger = m.ledger
join ledger_accounts as debit on debit.customer_id = m.customer_id and debit.id = m.debit_account_id
join ledger_accounts as credit on credit.customer_id = m.customer_id and credit.id = m.credit_account_id
order by m.sequence

-- name: postings
-- How the usage total of a charge was posted.
select l.quantity_before, l.quantity_after, l.amount, l.posting_id
from measurements as m
join series as s on s.customer_id = m.customer_id and s.id = m.series_id
join posting_lines as l on l.customer_id = m.customer_id and l.period = m.period and l.price_id = m.price_id
    and l.meter = s.meter and l.kind = s.kind
where m.customer_id = :customer_id and m.id = :id
order by l.number
