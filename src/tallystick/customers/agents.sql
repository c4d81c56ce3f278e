-- name: insert!
-- Nothing if the e-mail is taken, or the customer is gone.
insert into agents (id, customer_id, email, name, created_at)
select :id, c.id, :email, :name, :now from customers as c where c.id = :customer_id and c.deleted_at is null
on conflict do nothing

-- name: email_taken
select true from agents where lower(email) = lower(:email)

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
