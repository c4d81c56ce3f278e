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
select t.id, c.key, debit.code, credit.code, t.amount, a.code, t.created_at
from ledger_transfers as t
join customers as c on c.id = t.customer_id
join assets as a on a.ledger = t.ledger
join ledger_accounts as debit on debit.customer_id = t.customer_id and debit.id = t.debit_account_id
join ledger_accounts as credit on credit.customer_id = t.customer_id and credit.id = t.credit_account_id
where t.customer_id = :payer_id and t.id = any (:ids::uuid[])
order by t.sequence
