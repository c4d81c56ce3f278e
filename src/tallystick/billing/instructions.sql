-- name: answered
select key, fingerprint, answer from idempotency_keys where key = any (:keys::text[])

-- name: keep_answers!
insert into idempotency_keys (key, fingerprint, answer, created_at)
select key, fingerprint, answer, :now
from unnest(:keys::text[], :fingerprints::bytea[], :answers::jsonb[]) as new (key, fingerprint, answer)

-- name: describe!
insert into wallet_operations (customer_id, transfer_id, type, description)
select coalesce(c.payer_id, c.id), new.transfer_id, new.type, new.description
from unnest(:customers::text[], :transfer_ids::uuid[], :types::text[], :descriptions::text[])
    as new (customer, transfer_id, type, description)
join customers as c on c.key = new.customer
on conflict do nothing
