-- name: begin
insert into readings (id, source, interval_start, at, state, attempts, counts, failures, faults)
values (:id, :source, :interval_start, :at, 'running', 1, '{}', '[]', '[]')
on conflict (id) do update set attempts = readings.attempts + (readings.state <> 'complete')::integer
returning id, source, interval_start, at, state, attempts, ended_at, counts::text, failures::text, faults::text

-- name: get
select id, source, interval_start, at, state, attempts, ended_at, counts::text, failures::text, faults::text
from readings where id = :id

-- name: lock
select id, source, interval_start, at, state, attempts, ended_at, counts::text, failures::text, faults::text
from readings where id = :id
for update

-- name: end!
update readings
set state = :state, ended_at = :ended_at, counts = :counts::jsonb, failures = :failures::jsonb, faults = :faults::jsonb
where id = :id

-- name: not_there
-- Those who do not stand where they are said to stand, unless a person put them elsewhere; and those who are called something else.
select said.place
from unnest(:customers::text[], :meters::text[], :resources::text[], :paths::text[], :names::text[]) with ordinality
    as said (customer, meter, resource, path, name, place)
join customers as c on c.key = said.customer
left join resources as r on r.customer_id = c.id and r.meter = said.meter and r.key = said.resource
where r.path is distinct from said.path and not coalesce(r.pinned, false) or r.name is distinct from coalesce(said.name, r.name)

-- name: page
select id, source, interval_start, at, state, attempts, ended_at, counts::text, failures::text, faults::text
from readings
where (at, id) < (:before_at::timestamptz, :before_id::uuid)
    and (:source::text is null or source = :source::text) and (:state::text is null or state = :state::text)
order by at desc, id desc
limit :limit
