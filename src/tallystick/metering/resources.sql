-- name: serialise
select pg_advisory_xact_lock(7414, stripe) from unnest(:stripes::integer[]) as stripe

-- name: meters
select key from meters where key = any (:keys::text[])

-- name: put!
insert into resources as r (customer_id, meter, key, path, name, pinned, created_at, placed_at)
select customer_id, meter, key, path, name, :pinned::boolean, :now::timestamptz, :now::timestamptz
from unnest(:customer_ids::uuid[], :meters::text[], :keys::text[], :paths::text[], :names::text[])
    as new (customer_id, meter, key, path, name)
order by customer_id, meter, key
on conflict (customer_id, meter, key) do update set path = excluded.path, pinned = excluded.pinned, placed_at = excluded.placed_at
where (r.path, r.pinned) is distinct from (excluded.path, excluded.pinned) and (not r.pinned or not :from_source::boolean)

-- name: rename!
-- Also of those that stay where a person placed them.
update resources as r set name = new.name
from unnest(:customer_ids::uuid[], :meters::text[], :keys::text[], :names::text[]) as new (customer_id, meter, key, name)
where r.customer_id = new.customer_id and r.meter = new.meter and r.key = new.key and r.name is distinct from coalesce(new.name, r.name)

-- name: named
select meter, key, path, slug, pinned, created_at, placed_at, name from resources
where customer_id = :customer_id and meter = :meter and key = :key

-- name: page
select meter, key, path, slug, pinned, created_at, placed_at, name from resources
where customer_id = :customer_id and path >= :first::text and path < :last::text
    and (path, meter, key) > (:after_path::text, :after_meter::text, :after_key::text)
    and (:above::text[] is null or path = any (:above::text[]))
    and (:slug::text is null or slug = :slug::text)
    and (:expression::text is null or (path || '.') ~ :expression::text)
    and (:meter::text is null or meter = :meter::text)
order by path, meter, key
limit :limit

-- name: extent
-- What stands at a path and below it: how many resources, and the length of the longest path.
select count(*), coalesce(max(length(path)), 0) from resources
where customer_id = :customer_id and path >= :path::text and path < :path::text || '/'

-- name: move!
update resources set path = :target::text || substr(path, length(:path::text) + 1), pinned = true, placed_at = :now::timestamptz
where customer_id = :customer_id and path >= :path::text and path < :path::text || '/'

-- name: forget!
delete from resources where customer_id = :customer_id and meter = :meter and key = :key
