-- name: insert!
-- Those whose e-mail nobody has and whose customer is there, in an order in which transactions that create the same ones do not wait in circles.
insert into agents (id, customer_id, email, name, created_at)
select new.id, c.id, new.email, new.name, :now
from unnest(:ids::uuid[], :customer_ids::uuid[], :emails::text[], :names::text[]) as new (id, customer_id, email, name)
join customers as c on c.id = new.customer_id and c.deleted_at is null
order by lower(new.email)
on conflict do nothing

-- name: by_ids
select id, customer_id, email, name, blocked_at, created_at from agents where id = any (:ids::uuid[])

-- name: has_customer
select true from customers where id = :customer_id and deleted_at is null

-- name: get
select id, customer_id, email, name, blocked_at, created_at from agents where id = :id

-- name: by_email
select id, customer_id, email, name, blocked_at, created_at from agents where lower(email) = lower(:email)

-- name: page
select id, customer_id, email, name, blocked_at, created_at
from agents
where :customer_id::uuid is null or customer_id = :customer_id
order by name, id
offset :skip limit :limit

-- name: of_customer
select id, customer_id, email, name, blocked_at, created_at
from agents
where customer_id = :customer_id and (name, id) > (:after_name, :after_id)
order by name, id
limit :limit

-- name: count
select count(*) from agents where :customer_id::uuid is null or customer_id = :customer_id

-- name: change
-- Nothing if the e-mail is another agent's.
update agents set email = :email, name = :name where id = :id
returning id, customer_id, email, name, blocked_at, created_at

-- name: block
update agents set blocked_at = coalesce(blocked_at, :now) where id = :id
returning id, customer_id, email, name, blocked_at, created_at

-- name: unblock
update agents set blocked_at = null where id = :id
returning id, customer_id, email, name, blocked_at, created_at

-- name: delete
delete from agents where id = :id returning id, customer_id, email, name, blocked_at, created_at

-- name: delete_of_customers
delete from agents where :customer_ids::uuid[] is null or customer_id = any (:customer_ids::uuid[])
returning id, customer_id, email, name, blocked_at, created_at

-- name: blocked
select id::text, lower(email) from agents where blocked_at is not null

-- name: is_blocked
select true from agents where blocked_at is not null and (lower(email) = :name or id::text = :name)
