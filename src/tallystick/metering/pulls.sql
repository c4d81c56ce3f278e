-- name: begin
-- Where a source stands, which begins at ``since`` if it is new. With another step its instants are others: what was told under the step
-- before must not be asked for again under them.
insert into pulls as p (source, since, until, step_seconds, moved_at)
values (:source, :since, :since, :step_seconds, :now)
on conflict (source) do update set
    since = case when p.step_seconds = excluded.step_seconds then p.since else p.until end, step_seconds = excluded.step_seconds
returning source, since, until, step_seconds, moved_at

-- name: move!
update pulls set until = :until, moved_at = :now where source = :source and until < :until

-- name: all
select source, since, until, step_seconds, moved_at from pulls order by source limit :limit
