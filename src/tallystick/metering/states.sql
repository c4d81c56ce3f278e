-- name: states
select wanted.number, s.value, s.at
from unnest(:customer_ids::uuid[], :scopes::uuid[]) with ordinality as wanted (customer_id, scope, number)
join meter_states as s on s.customer_id = wanted.customer_id and s.scope = wanted.scope

-- name: begin!
insert into meter_states (customer_id, scope, value, at)
select customer_id, scope, value, at
from unnest(:customer_ids::uuid[], :scopes::uuid[], :values::numeric[], :ats::timestamptz[]) as new (customer_id, scope, value, at)

-- name: move!
-- An update by join, as an insert on conflict locks each row before it changes it, and logs that as well.
update meter_states as s
set value = new.value, at = new.at
from unnest(
    :customer_ids::uuid[], :scopes::uuid[], :values::numeric[], :ats::timestamptz[], :values_before::numeric[], :ats_before::timestamptz[]
) as new (customer_id, scope, value, at, value_before, at_before)
where s.customer_id = new.customer_id and s.scope = new.scope and s.value = new.value_before and s.at = new.at_before

-- name: count_standing
select count(*)
from unnest(:customer_ids::uuid[], :scopes::uuid[], :values_before::numeric[], :ats_before::timestamptz[])
    as known (customer_id, scope, value, at)
join meter_states as s on s.customer_id = known.customer_id and s.scope = known.scope and s.value = known.value and s.at = known.at
