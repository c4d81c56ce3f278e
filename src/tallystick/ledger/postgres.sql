-- name: lock
select pg_advisory_xact_lock(7411, 1)

-- name: create_accounts!
insert into ledger_accounts (customer_id, id, ledger, code, flags, created_at)
select customer_id, id, ledger, code, flags, :now
from unnest(:customer_ids::uuid[], :ids::uuid[], :ledgers::integer[], :codes::smallint[], :flags::smallint[])
    as new (customer_id, id, ledger, code, flags)
order by customer_id, id
on conflict do nothing

-- name: accounts
select a.customer_id, a.id, a.ledger, a.code, a.flags, a.debits_posted::text, a.credits_posted::text
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_accounts as a on a.customer_id = wanted.customer_id and a.id = wanted.id

-- name: transfers
select t.customer_id, t.id, t.debit_account_id, t.credit_account_id, t.amount::text, t.ledger, t.code, t.flags, t.cause_id
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_transfers as t on t.customer_id = wanted.customer_id and t.id = wanted.id

-- name: last_sequence
select coalesce(max(sequence), 0) from ledger_transfers

-- name: insert_transfers!
insert into ledger_transfers
    (customer_id, id, sequence, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, created_at)
select customer_id, id, :sequence + row_number, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, :now
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :debits::uuid[], :credits::uuid[], :amounts::numeric[],
    :ledgers::integer[], :codes::smallint[], :flags::smallint[], :causes::uuid[]
) with ordinality as new (customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, row_number)

-- name: update_accounts!
update ledger_accounts as a
set debits_posted = new.debits_posted, credits_posted = new.credits_posted
from unnest(:customer_ids::uuid[], :ids::uuid[], :debits_posted::numeric[], :credits_posted::numeric[])
    as new (customer_id, id, debits_posted, credits_posted)
where a.customer_id = new.customer_id and a.id = new.id
