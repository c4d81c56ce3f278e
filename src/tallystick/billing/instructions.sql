-- name: describe!
insert into wallet_operations (customer_id, transfer_id, type, description)
select *
from unnest(:payers::uuid[], :transfer_ids::uuid[], :types::text[], :descriptions::text[])
on conflict do nothing

-- name: note_grants
-- Whatever comes in is a grant (ledger/grants.py). A transfer from an attempt that was lost may be older than a checkpoint that does not know
-- of its grant.
with came as (
    insert into grants (
        customer_id, id, credit_policy, ledger, amount, category, priority, effective_at, source, reason, state, created_at
    )
    select t.customer_id, t.id, p.credit_policy, t.ledger, t.amount, case new.type when 'grant' then 'promotional' else 'paid' end,
        :priority, t.created_at, '', new.description, 'granted', t.created_at
    from unnest(:payers::uuid[], :transfer_ids::uuid[], :types::text[], :descriptions::text[])
        as new (payer_id, transfer_id, type, description)
    join customers as p on p.id = new.payer_id
    join ledger_transfers as t on t.customer_id = p.id and t.id = new.transfer_id and t.amount > 0
    on conflict do nothing
    returning customer_id, id, ledger
),
forgotten as (
    delete from grant_checkpoints as p
    using came as c, ledger_transfers as t
    where p.customer_id = c.customer_id and p.ledger = c.ledger and t.customer_id = c.customer_id and t.id = c.id
        and t.sequence <= p.sequence
)
select customer_id, id from came
