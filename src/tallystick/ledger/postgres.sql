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
select a.customer_id, a.id, a.ledger, a.code, a.flags, a.debits_pending::text, a.debits_posted::text, a.credits_pending::text,
    a.credits_posted::text
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_accounts as a on a.customer_id = wanted.customer_id and a.id = wanted.id

-- name: transfers
select t.customer_id, t.id, t.debit_account_id, t.credit_account_id, t.amount::text, t.ledger, t.code, t.flags, t.cause_id, t.pending_id
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_transfers as t on t.customer_id = wanted.customer_id and t.id = wanted.id

-- name: failed
select f.id
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_failures as f on f.customer_id = wanted.customer_id and f.id = wanted.id

-- name: resolutions
select t.pending_id, t.flags
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_transfers as t on t.customer_id = wanted.customer_id and t.pending_id = wanted.id

-- name: head
-- The last batch: its hash stands for everything that was ever posted.
select last_sequence, hash from ledger_batches order by last_sequence desc limit 1

-- name: insert_transfers!
insert into ledger_transfers (
    customer_id, id, sequence, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, pending_id, created_at
)
select customer_id, id, :first_sequence - 1 + row_number, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id,
    pending_id, :now
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :debits::uuid[], :credits::uuid[], :amounts::numeric[],
    :ledgers::integer[], :codes::smallint[], :flags::smallint[], :causes::uuid[], :pending_ids::uuid[]
) with ordinality as new (
    customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, pending_id, row_number
)

-- name: insert_batch!
insert into ledger_batches (last_sequence, first_sequence, hash) values (:last_sequence, :first_sequence, :hash)

-- name: insert_failures!
insert into ledger_failures (customer_id, id, status, created_at)
select customer_id, id, status, :now
from unnest(:customer_ids::uuid[], :ids::uuid[], :statuses::text[]) as new (customer_id, id, status)
on conflict do nothing

-- name: update_posted
-- Gives the places that somebody should look at: where a wallet (1) or arrears (2) have come to their alarm, or something came in or was
-- taken back, from what was granted (4) or exchanged (6).
with moved as (
    update ledger_accounts as a
    set debits_posted = new.debits_posted, credits_posted = new.credits_posted
    from unnest(:customer_ids::uuid[], :ids::uuid[], :debits_posted::numeric[], :credits_posted::numeric[])
        as new (customer_id, id, debits_posted, credits_posted)
    where a.customer_id = new.customer_id and a.id = new.id
    returning a.customer_id, a.ledger, a.code, a.credits_posted - a.debits_posted as sum, a.alarm_at
)
select distinct customer_id, ledger from moved where code in (4, 6) or (code in (1, 2) and sum <= alarm_at)

-- name: update_accounts
-- As before, where something is reserved too.
with moved as (
    update ledger_accounts as a
    set flags = new.flags, debits_pending = new.debits_pending, debits_posted = new.debits_posted,
        credits_pending = new.credits_pending, credits_posted = new.credits_posted
    from unnest(
        :customer_ids::uuid[], :ids::uuid[], :flags::smallint[], :debits_pending::numeric[], :debits_posted::numeric[],
        :credits_pending::numeric[], :credits_posted::numeric[]
    ) as new (customer_id, id, flags, debits_pending, debits_posted, credits_pending, credits_posted)
    where a.customer_id = new.customer_id and a.id = new.id
    returning a.customer_id, a.ledger, a.code, a.credits_posted - a.debits_posted as sum, a.alarm_at
)
select distinct customer_id, ledger from moved where code in (4, 6) or (code in (1, 2) and sum <= alarm_at)
