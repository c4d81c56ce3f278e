-- name: pays_for_others
select true from customers where payer_id = :id limit 1

-- name: paid_for
-- Whoever this customer pays for, itself among them if it pays for itself.
select id from customers where coalesce(payer_id, id) = :id

-- name: set_payer!
update customers set payer_id = :payer_id where id = :id

-- name: note_former!
insert into former_payers (customer_id, payer_id, until) values (:id, :payer_id, :now)
on conflict (customer_id, payer_id) do update set until = excluded.until

-- name: set_posting_policy!
update customers set posting_policy = :posting_policy where id = :id

-- name: describe!
insert into wallet_operations (customer_id, transfer_id, type, description)
select owner_id, transfer_id, 'takeover', description
from unnest(:owner_ids::uuid[], :transfer_ids::uuid[], :descriptions::text[]) as new (owner_id, transfer_id, description)
