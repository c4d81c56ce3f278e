-- name: answered
select key, fingerprint, answer from idempotency_keys where key = any (:keys::text[])

-- name: keep_answers!
insert into idempotency_keys (key, fingerprint, answer, created_at)
select key, fingerprint, answer, :now
from unnest(:keys::text[], :fingerprints::bytea[], :answers::jsonb[]) as new (key, fingerprint, answer)
