-- name: home
select name from ledger_home

-- name: settle_in!
insert into ledger_home (name) values (:name) on conflict (only_one) do update set name = :name

-- name: lived_in
select exists (select from ledger_transfers) or exists (select from ledger_outbox)

-- name: lock
select pg_advisory_xact_lock(7411, 1)
