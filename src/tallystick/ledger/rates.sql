-- name: add!
insert into display_rates (asset, shown_in, effective_from, rate, created_at)
values (:asset, :shown_in, :effective_from, :rate, :now)
on conflict do nothing

-- name: starting
select asset, shown_in, rate, effective_from, created_at
from display_rates
where asset = :asset and shown_in = :shown_in and effective_from = :effective_from

-- name: page
select asset, shown_in, rate, effective_from, created_at
from display_rates
where asset = :asset and (:shown_in::text is null or shown_in = :shown_in)
    and (shown_in, effective_from) > (:after_shown_in, :after_effective_from::timestamptz)
order by shown_in, effective_from
limit :limit

-- name: in_force
select distinct on (asset) asset, shown_in, rate, effective_from, created_at
from display_rates
where asset = any (:assets::text[]) and shown_in = :shown_in and effective_from <= :instant
order by asset, effective_from desc
