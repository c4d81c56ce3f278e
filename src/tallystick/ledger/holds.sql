-- name: standing
-- Holds, each with what the books say became of it although its row does not know yet: its caller died after a ledger elsewhere had done it.
-- Code 6 is that of holds; what completes one is its excess.
select h.customer_id, h.id, h.payer_id, h.credit_policy, h.ledger, h.amount::text, h.description, h.created_at, h.expires_at, h.state,
    h.settled_amount::text, h.excess::text, h.closed_at, r.flags, r.amount::text, e.amount::text, r.created_at
from unnest(:customer_ids::uuid[], :ids::uuid[]) as wanted (customer_id, id)
join holds as h on h.customer_id = wanted.customer_id and h.id = wanted.id
left join ledger_transfers as r on h.state = 'open' and r.customer_id = h.payer_id and r.pending_id = h.id
left join ledger_transfers as e on r.id is not null and e.customer_id = h.payer_id and e.cause_id = h.id and e.code = 6

-- name: place!
insert into holds (
    customer_id, id, payer_id, credit_policy, ledger, amount, description, created_at, expires_at
)
select customer_id, id, payer_id, credit_policy, ledger, amount, description, created_at, expires_at
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :payer_ids::uuid[], :policies::text[], :ledgers::integer[], :amounts::numeric[],
    :descriptions::text[], :created::timestamptz[], :expire::timestamptz[]
) as new (customer_id, id, payer_id, credit_policy, ledger, amount, description, created_at, expires_at)
order by customer_id, id

-- name: close!
update holds as h
set state = new.state, settled_amount = new.settled_amount, excess = new.excess, closed_at = new.closed_at
from unnest(
    :customer_ids::uuid[], :ids::uuid[], :states::text[], :settled_amounts::numeric[], :excesses::numeric[], :closed::timestamptz[]
) as new (customer_id, id, state, settled_amount, excess, closed_at)
where h.customer_id = new.customer_id and h.id = new.id

-- name: describe!
insert into wallet_operations (customer_id, transfer_id, type, description)
select payer_id, transfer_id, 'hold', description
from unnest(:payer_ids::uuid[], :transfer_ids::uuid[], :descriptions::text[]) as new (payer_id, transfer_id, description)
on conflict do nothing

-- name: resolved
-- Which of these pending transfers are no longer pending.
select t.pending_id
from unnest(:payer_ids::uuid[], :ids::uuid[]) as wanted (payer_id, id)
join ledger_transfers as t on t.customer_id = wanted.payer_id and t.pending_id = wanted.id

-- name: due
select customer_id, id from holds where state = 'open' and expires_at <= :now order by expires_at, id limit :limit

-- name: next_due
select min(expires_at) from holds where state = 'open' and expires_at > :after

-- name: get
select customer_id, id, payer_id, credit_policy, ledger, amount::text, description, created_at, expires_at, state, settled_amount::text,
    excess::text, closed_at
from holds
where customer_id = :customer_id and id = :id

-- name: page
select h.customer_id, h.id, h.payer_id, h.credit_policy, h.ledger, h.amount::text, h.description, h.created_at, h.expires_at, h.state,
    h.settled_amount::text, h.excess::text, h.closed_at
from unnest(:states::text[]) as wanted (state)
cross join lateral (
    select *
    from holds
    where customer_id = :customer_id and state = wanted.state and (created_at, id) < (:before_at::timestamptz, :before_id::uuid)
    order by created_at desc, id desc
    limit :limit
) as h
order by h.created_at desc, h.id desc
limit :limit

-- name: unchecked
-- The next transfers that reserve something for a hold (code 6, pending), up to :before, and whether nobody was told of it: there is no hold,
-- and nothing has resolved it. The policy is the one that its wallet was opened with.
select t.sequence, t.customer_id, t.id, t.ledger, t.amount::text, case when a.flags & 2 <> 0 then 'prepaid' else 'postpaid' end, t.created_at,
    not exists (select from holds as h where h.id = t.id)
        and not exists (select from ledger_transfers as r where r.customer_id = t.customer_id and r.pending_id = t.id)
from ledger_transfers as t
join ledger_accounts as a on a.customer_id = t.customer_id and a.id = t.debit_account_id
where t.code = 6 and t.flags = 2 and t.sequence > (select sequence from holds_checked) and t.created_at <= :before
order by t.sequence
limit :limit

-- name: checked!
update holds_checked set sequence = :sequence where sequence < :sequence
