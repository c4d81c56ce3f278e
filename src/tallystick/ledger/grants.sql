-- Rows of grants change only while their transaction holds the ledger's lock, so under it they may be read and written without another.

-- name: schedule!
insert into grants (
    customer_id, id, credit_policy, ledger, amount, category, priority, effective_at, expires_at, rank_expiry, source, reason, state, due_at,
    created_at
)
select customer_id, id, credit_policy, ledger, amount, category, priority, effective_at, expires_at, expires_at, source, reason,
    'scheduled', effective_at, created_at
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :policies::text[], :ledgers::integer[], :amounts::numeric[], :categories::text[],
    :priorities::smallint[], :effective_ats::timestamptz[], :expires_ats::timestamptz[], :sources::text[], :reasons::text[],
    :created_ats::timestamptz[]
) as new (
    customer_id, id, credit_policy, ledger, amount, category, priority, effective_at, expires_at, source, reason, created_at
)
on conflict do nothing

-- name: came_in
-- They are granted, and said why. A transfer from an attempt that was lost may be older than a checkpoint that does not know of it.
with came as (
    update grants as g
    set state = 'granted', due_at = g.expires_at
    from unnest(:customer_ids::uuid[], :ids::uuid[]) as new (customer_id, id)
    where g.customer_id = new.customer_id and g.id = new.id and g.state = 'scheduled'
    returning g.customer_id, g.id, g.ledger, g.reason
),
forgotten as (
    delete from grant_checkpoints as p
    using came as c, ledger_transfers as t
    where p.customer_id = c.customer_id and p.ledger = c.ledger and t.customer_id = c.customer_id and t.id = c.id
        and t.sequence <= p.sequence
),
described as (
    insert into wallet_operations (customer_id, transfer_id, type, description)
    select customer_id, id, 'grant', reason from came
    on conflict do nothing
)
select customer_id, id from came

-- name: closed!
update grants as g
set state = new.state, closed_after = coalesce(g.closed_after, :head), attempts = new.attempts, due_at = new.due_at
from unnest(:customer_ids::uuid[], :ids::uuid[], :states::text[], :attempts::integer[], :due_ats::timestamptz[])
    as new (customer_id, id, state, attempts, due_at)
where g.customer_id = new.customer_id and g.id = new.id

-- name: postpone!
update grants as g
set due_at = :due_at
from unnest(:customer_ids::uuid[], :ids::uuid[]) as new (customer_id, id)
where g.customer_id = new.customer_id and g.id = new.id

-- name: end!
-- Another end, for grants that have not ended.
update grants as g
set expires_at = new.expires_at, due_at = case g.state when 'granted' then new.expires_at else g.due_at end
from unnest(:customer_ids::uuid[], :ids::uuid[], :expires_ats::timestamptz[]) as new (customer_id, id, expires_at)
where g.customer_id = new.customer_id and g.id = new.id and g.state in ('scheduled', 'granted')

-- name: due
select customer_id, id from grants where due_at <= :now order by due_at, customer_id, id limit :limit

-- name: next_due
select min(due_at) from grants where due_at > :after

-- name: named
select g.customer_id, g.credit_policy, g.id, g.ledger, g.amount::text, g.category, g.priority, g.effective_at, g.expires_at, g.source, g.reason,
    g.state, g.created_at, g.attempts, g.due_at
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join grants as g on g.customer_id = wanted.customer_id and g.id = wanted.id

-- name: page
select g.customer_id, g.credit_policy, g.id, g.ledger, g.amount::text, g.category, g.priority, g.effective_at, g.expires_at, g.source, g.reason,
    g.state, g.created_at, g.attempts, g.due_at
from grants as g
where g.customer_id = :customer_id and (g.created_at, g.id) < (:before_at::timestamptz, :before_id::uuid)
    and (:state::text is null or g.state = :state)
order by g.created_at desc, g.id desc
limit :limit
