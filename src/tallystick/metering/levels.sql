-- name: levels
select distinct l.customer_id::text, l.scope, l.slot, l.value, l.at
from unnest(:customer_ids::uuid[], :scopes::uuid[], :firsts::bigint[], :lasts::bigint[]) as wanted (customer_id, scope, first, last)
join gauge_levels as l
    on l.customer_id = wanted.customer_id and l.scope = wanted.scope and l.slot between wanted.first and wanted.last

-- name: covered
-- When a source's meter was read, whatever was found.
select wanted.source, wanted.meter, r.at
from unnest(:sources::text[], :meters::text[], :firsts::timestamptz[], :lasts::timestamptz[]) as wanted (source, meter, first, last)
join readings as r on r.source = wanted.source and r.at between wanted.first and wanted.last
where r.interval_start is not null
    and (r.state = 'complete' or r.state = 'partial' and jsonb_exists(r.counts, wanted.meter)
        and not r.failures @> jsonb_build_array(jsonb_build_object('part', wanted.meter)))

-- name: save_levels!
insert into gauge_levels (customer_id, scope, slot, value, at)
select customer_id, scope, slot, value, at
from unnest(:customer_ids::uuid[], :scopes::uuid[], :slots::bigint[], :values::numeric[], :ats::timestamptz[])
    as new (customer_id, scope, slot, value, at)
order by customer_id, scope, slot
on conflict (customer_id, scope, slot) do update set value = excluded.value, at = excluded.at
