-- name: lead
-- One process at a time delivers; the others need not queue for the ledger meanwhile.
select pg_try_advisory_xact_lock(7411, 4)

-- name: accounts
select a.id, a.customer_id, a.ledger, a.code, a.flags
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_accounts as a on a.customer_id = wanted.customer_id and a.id = wanted.id

-- name: put
with call as materialized (
    select nextval('ledger_outbox_positions') as position
),
written as (
    insert into ledger_outbox (
        customer_id, id, position, line, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, pending_id,
        debit_code, debit_flags, credit_code, credit_flags, intent, created_at
    )
    select new.customer_id, new.id, call.position, new.line, new.debit_account_id, new.credit_account_id, new.amount, new.ledger, new.code,
        new.flags, new.cause_id, new.pending_id, new.debit_code, new.debit_flags, new.credit_code, new.credit_flags, :intent, :now
    from call, unnest(
        :customer_ids::uuid[], :ids::uuid[], :debits::uuid[], :credits::uuid[], :amounts::numeric[], :ledgers::integer[],
        :codes::smallint[], :flags::smallint[], :causes::uuid[], :pending_ids::uuid[], :debit_codes::smallint[],
        :debit_flags::smallint[], :credit_codes::smallint[], :credit_flags::smallint[]
    ) with ordinality as new (
        customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, pending_id, debit_code, debit_flags,
        credit_code, credit_flags, line
    )
    on conflict (customer_id, id) where not intent do nothing
)
select position from call

-- name: wake
select pg_notify('ledger_outbox', '')

-- name: take
-- Whoever posts is alone, so an intent that he sees was left behind. What his own transaction promises has not been committed yet.
select position, line, customer_id, id, debit_account_id, credit_account_id, amount::text, ledger, code, flags, cause_id, pending_id,
    debit_code, debit_flags, credit_code, credit_flags, intent
from ledger_outbox
where refused is null and xact is distinct from pg_current_xact_id_if_assigned()
order by position, line
limit :limit
for update

-- name: take_of
-- The same, of what must come before something else in the books of these customers.
select position, line, customer_id, id, debit_account_id, credit_account_id, amount::text, ledger, code, flags, cause_id, pending_id,
    debit_code, debit_flags, credit_code, credit_flags, intent
from ledger_outbox
where refused is null and xact is distinct from pg_current_xact_id_if_assigned()
    and (intent or customer_id = any (:customer_ids::uuid[]))
order by position, line
limit :limit
for update

-- name: last_promise
select max(position) from ledger_outbox where not intent and refused is null and customer_id = any (:customer_ids::uuid[])

-- name: is_owed
select exists (
    select from ledger_outbox
    where not intent and refused is null and customer_id = any (:customer_ids::uuid[]) and position <= :position
)

-- name: is_waiting
select exists (select from ledger_outbox where refused is null)

-- name: finish!
delete from ledger_outbox as o
using unnest(:customer_ids::uuid[], :ids::uuid[], :positions::bigint[], :lines::integer[]) as done (customer_id, id, position, line)
where o.customer_id = done.customer_id and o.id = done.id and o.position = done.position and o.line = done.line

-- name: refuse!
update ledger_outbox as o
set refused = wrong.reason
from unnest(:customer_ids::uuid[], :ids::uuid[], :positions::bigint[], :lines::integer[], :reasons::text[])
    as wrong (customer_id, id, position, line, reason)
where o.customer_id = wrong.customer_id and o.id = wrong.id and o.position = wrong.position and o.line = wrong.line

-- name: refuse_intents!
update ledger_outbox as o
set refused = wrong.reason
from unnest(:customer_ids::uuid[], :ids::uuid[], :reasons::text[]) as wrong (customer_id, id, reason)
where o.customer_id = wrong.customer_id and o.id = wrong.id and o.intent and o.position = :position

-- name: unanswered
-- Why intents were refused whose callers died before they could say so.
select o.id, o.refused
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_outbox as o on o.customer_id = wanted.customer_id and o.id = wanted.id
where o.intent and o.refused is not null and o.position < :position

-- name: answer!
-- The caller's transaction says what became of his intents, and of those that he left behind when he tried before.
delete from ledger_outbox as o
using unnest(:customer_ids::uuid[], :ids::uuid[]) as done (customer_id, id)
where o.customer_id = done.customer_id and o.id = done.id and o.intent

-- name: forget!
-- Refused intents whose callers have not come back: what can still come is a repetition, and it is told that it failed.
with forgotten as (
    delete from ledger_outbox where refused is not null and intent and created_at < :before returning customer_id, id, refused
)
insert into ledger_failures (customer_id, id, status, created_at)
select distinct on (customer_id, id) customer_id, id, refused, :now
from forgotten
where refused = any (:transient::text[])
order by customer_id, id
on conflict do nothing

-- name: posted
select t.id
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join ledger_transfers as t on t.customer_id = wanted.customer_id and t.id = wanted.id

-- name: lag
select
    count(*) filter (where refused is null),
    min(created_at) filter (where refused is null),
    count(*) filter (where refused is not null and not intent)
from ledger_outbox
