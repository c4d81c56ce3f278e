-- name: is_promised
select exists (select from ledger_outbox)

-- name: size
select (select count(*) from ledger_accounts), (select count(*) from ledger_transfers), (select count(*) from ledger_failures)

-- name: accounts
-- As they were opened: what closing transfers have done to them is done again when those are posted again.
select a.customer_id, a.id, a.ledger, a.code, case when c.closed then a.flags & ~ :closed::smallint else a.flags end, a.flags,
    a.debits_pending::text, a.debits_posted::text, a.credits_pending::text, a.credits_posted::text
from ledger_accounts as a
cross join lateral (
    select exists (
        select from ledger_transfers as t
        where t.customer_id = a.customer_id
            and (
                t.flags & :closes_debit::smallint <> 0 and t.debit_account_id = a.id
                or t.flags & :closes_credit::smallint <> 0 and t.credit_account_id = a.id
            )
    ) as closed
) as c
where (a.customer_id, a.id) > (:after_customer_id::uuid, :after_id::uuid)
order by a.customer_id, a.id
limit :limit

-- name: known
select id from ledger_accounts where id = any (:ids::uuid[])

-- name: transfers
select customer_id, id, debit_account_id, credit_account_id, amount::text, ledger, code, flags, cause_id, pending_id
from ledger_transfers
where sequence > :after
order by sequence
limit :limit

-- name: transfer_at
select id from ledger_transfers where sequence = :sequence

-- name: failures
select customer_id, id
from ledger_failures
where (customer_id, id) > (:after_customer_id::uuid, :after_id::uuid)
order by customer_id, id
limit :limit
