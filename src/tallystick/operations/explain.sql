-- name: charge
select c.key, coalesce(c.payer_id, c.id), s.source, m.sender_id, s.meter, mt.unit, s.kind, s.resource, s.agent, m.at, m.recorded_at, m.value,
    m.unit_price, m.quantity, m.remark, m.period, m.total_after - m.quantity, m.total_after, m.amount, m.transfer_id
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
-- The transfer of a charge, and the repayment after it unless it moved nothing. What a repayment that still waits will move is not known yet.
with moved as (
    select t.id, t.customer_id, t.ledger, t.debit_account_id, t.credit_account_id, t.amount, t.created_at, false as waiting, t.sequence
    from ledger_transfers as t
    where t.customer_id = :payer_id and (t.id = :id or t.id = :repayment_id and t.amount > 0)
    union all
    select o.id, o.customer_id, o.ledger, o.debit_account_id, o.credit_account_id, o.amount, o.created_at, true, null
    from ledger_outbox as o
    where o.customer_id = :payer_id and o.id = :id
)
select m.id, c.key, debit.code, credit.code, m.amount, a.code, m.created_at, m.waiting
from moved as m
join customers as c on c.id = m.customer_id
join assets as a on a.ledger = m.ledger
join ledger_accounts as debit on debit.customer_id = m.customer_id and debit.id = m.debit_account_id
join ledger_accounts as credit on credit.customer_id = m.customer_id and credit.id = m.credit_account_id
order by m.sequence
