-- name: serialise
select pg_advisory_xact_lock(7413, 1)

-- name: named
select id, key, name from customers where key = :key

-- name: above
-- Whoever stands above a customer, from its parent up.
with recursive above as (
    select p.id, p.key, p.name, p.parent_id, 1 as steps
    from customers as c
    join customers as p on p.id = c.parent_id
    where c.id = :id
    union all
    select p.id, p.key, p.name, p.parent_id, a.steps + 1
    from above as a
    join customers as p on p.id = a.parent_id
    where a.steps < :max_levels
)
select id, key, name from above order by steps

-- name: below
-- Whoever stands below a customer, in the order of keys, each with the keys on the way down to it.
with recursive below as (
    select c.key, c.name, array[c.key] as keys, c.id
    from customers as c
    where c.parent_id = :id
    union all
    select c.key, c.name, b.keys || c.key, c.id
    from below as b
    join customers as c on c.parent_id = b.id
    where cardinality(b.keys) < :max_levels
)
select key, name, keys from below where key > :after order by key limit :limit

-- name: height
-- How many levels there are below a customer.
with recursive below as (
    select c.id, 1 as steps from customers as c where c.parent_id = :id
    union all
    select c.id, b.steps + 1 from below as b join customers as c on c.parent_id = b.id where b.steps < :max_levels
)
select coalesce(max(steps), 0) from below

-- name: branch
-- The ids of a customer and of all below it.
with recursive branch as (
    select c.id, 1 as steps from customers as c where c.id = :id
    union all
    select c.id, b.steps + 1 from branch as b join customers as c on c.parent_id = b.id where b.steps < :max_levels
)
select id from branch limit :limit

-- name: move!
update customers set parent_id = :parent_id where id = :id
