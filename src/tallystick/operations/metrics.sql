-- name: quarantined
select count(*) from (select from quarantine where replayed_at is null limit :limit) as waiting
