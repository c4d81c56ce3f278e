-- name: page
select m.customer_id, m.id, m.at, m.recorded_at, s.meter, s.kind, s.resource, s.agent, m.value, m.quantity, m.remark, m.price_id,
    p.asset, m.amount, m.transfer_id
from measurements as m
join series as s on s.customer_id = m.customer_id and s.id = m.series_id
left join prices as p on p.id = m.price_id
where m.customer_id = :customer_id and (m.at, m.id) < (:before_at::timestamptz, :before_id::uuid)
    and m.at >= :since::timestamptz and m.at < :until::timestamptz
order by m.at desc, m.id desc
limit :limit

-- name: usage
select t.period, t.meter, t.kind, mt.name, mt.unit, t.price_id, p.asset, p.quantum, p.model, t.quantity, t.measurements
from usage_totals as t
join meters as mt on mt.key = t.meter
left join prices as p on p.id = t.price_id
where t.customer_id = :customer_id and t.period >= :first::date and t.period <= :last::date and t.measurements <> 0
order by t.period, t.meter, t.kind, p.effective_from, t.price_id

-- name: payers
-- Who pays for a customer, and who paid before.
select coalesce(payer_id, id) from customers where id = :customer_id
union
select payer_id from former_payers where customer_id = :customer_id

-- name: history
-- After each charge, newest measurement first: the credits left in the wallet of whoever paid, which is the wallet's balance once the
-- charge's transfer was posted plus what that transfer charged for later measurements; and the credits the customer had used by then.
with wallet as (
    select coalesce(t.cause_id, t.id) as id, t.sequence,
        sum(case when t.credit_account_id = any (:wallets::uuid[]) then t.amount else 0 end
            - case when t.debit_account_id = any (:wallets::uuid[]) then t.amount else 0 end)
            over (partition by t.customer_id order by t.sequence) as left_after
    from ledger_transfers as t
    where t.customer_id = any (:payer_ids::uuid[]) and t.ledger = :ledger
),
settled as (
    select distinct on (id) id, sequence, left_after from wallet order by id, sequence desc
),
charged as (
    select m.at, m.id, s.meter, m.amount,
        w.left_after + sum(m.amount) over (partition by m.transfer_id)
            - sum(m.amount) over (partition by m.transfer_id order by m.at, m.id) as left_after,
        sum(m.amount) over (order by w.sequence, m.at, m.id) as used_after
    from measurements as m
    join series as s on s.customer_id = m.customer_id and s.id = m.series_id
    join settled as w on w.id = m.transfer_id
    where m.customer_id = :customer_id and m.amount <> 0
)
select c.at, c.left_after, c.used_after, coalesce(nullif(mt.name, ''), mt.key)
from charged as c
join meters as mt on mt.key = c.meter
where c.at >= :since::timestamptz and c.at <= :until::timestamptz
order by c.at desc, c.id desc
limit :limit

-- name: any_charge
select true from measurements where customer_id = :customer_id and amount <> 0 limit 1
