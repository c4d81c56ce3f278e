-- name: subject
select id, key, region, vip from customers where id = :id

-- name: subjects
select id, key, region, vip from customers where id = any (:ids::uuid[])

-- name: leaving
-- Those of them that are still there, or all; nobody changes them before they are gone.
select id, key, region, vip
from customers
where (:ids::uuid[] is null or id = any (:ids::uuid[])) and deleted_at is null
order by id
for no key update
