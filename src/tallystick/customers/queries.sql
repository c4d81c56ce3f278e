-- name: insert
-- Those whose key and e-mail nobody has, in an order in which transactions that create the same ones do not wait in circles.
insert into customers (id, key, name, email, parent_id, payer_id, credit_policy, posting_policy, region, vip, created_at)
select id, key, name, email, :parent_id::uuid, :payer_id::uuid, credit_policy, posting_policy, region, vip, :now
from unnest(
    :ids::uuid[], :keys::text[], :names::text[], :emails::text[], :credit_policies::text[], :posting_policies::text[],
    :regions::text[], :vips::boolean[]
) as new (id, key, name, email, credit_policy, posting_policy, region, vip)
order by lower(email) nulls first, key
on conflict do nothing
returning id

-- name: name_nameless!
with nameless as (
    select c.id, new.name
    from unnest(:keys::text[], :names::text[]) as new (key, name)
    join customers as c on c.key = new.key
    where coalesce(c.name, '') = ''
    order by c.id
    for no key update of c
)
update customers as c set name = nameless.name from nameless where c.id = nameless.id

-- name: identify
select c.key, c.id, payer.id, payer.credit_policy, payer.posting_policy
from customers as c
join customers as payer on payer.id = coalesce(c.payer_id, c.id)
where c.key = any (:keys::text[])

-- name: by_key
select c.id, c.key, c.name, c.email, parent.key, payer.key, c.credit_policy, c.posting_policy, c.region, c.vip, c.created_at
from customers as c
left join customers as parent on parent.id = c.parent_id
left join customers as payer on payer.id = c.payer_id
where c.key = :key and c.deleted_at is null

-- name: by_id
select c.id, c.key, c.name, c.email, parent.key, payer.key, c.credit_policy, c.posting_policy, c.region, c.vip, c.created_at
from customers as c
left join customers as parent on parent.id = c.parent_id
left join customers as payer on payer.id = c.payer_id
where c.id = :id and c.deleted_at is null

-- name: by_ids
select c.id, c.key, c.name, c.email, parent.key, payer.key, c.credit_policy, c.posting_policy, c.region, c.vip, c.created_at
from customers as c
left join customers as parent on parent.id = c.parent_id
left join customers as payer on payer.id = c.payer_id
where c.id = any (:ids::uuid[]) and c.deleted_at is null

-- name: page
select c.id, c.key, c.name, c.email, parent.key, payer.key, c.credit_policy, c.posting_policy, c.region, c.vip, c.created_at
from customers as c
left join customers as parent on parent.id = c.parent_id
left join customers as payer on payer.id = c.payer_id
where c.key > :after
    and (:name::text is null or coalesce(c.name, c.key) ~* :name::text)
    and (:id::uuid is null or c.id = :id::uuid)
    and c.deleted_at is null
order by c.key
limit :limit

-- name: begin_search
-- The expression is looked at by itself: where there is nobody, nothing would match it.
select set_config('statement_timeout', :milliseconds::text, true), '' ~* :name::text

-- name: newest
select c.id, c.key, c.name, c.email, parent.key, payer.key, c.credit_policy, c.posting_policy, c.region, c.vip, c.created_at
from customers as c
left join customers as parent on parent.id = c.parent_id
left join customers as payer on payer.id = c.payer_id
where c.deleted_at is null
order by c.created_at desc, c.id desc
offset :skip limit :limit

-- name: by_name
select c.id, c.key, c.name, c.email, parent.key, payer.key, c.credit_policy, c.posting_policy, c.region, c.vip, c.created_at
from customers as c
left join customers as parent on parent.id = c.parent_id
left join customers as payer on payer.id = c.payer_id
where c.deleted_at is null
order by coalesce(c.name, c.key), c.id
offset :skip limit :limit

-- name: count
select count(*) from customers where deleted_at is null

-- name: lock
select id from customers where key = :key and deleted_at is null for no key update

-- name: change!
-- Nothing if the e-mail is another customer's.
update customers
set name = coalesce(:name, name), email = coalesce(:email, email), region = coalesce(:region, region), vip = coalesce(:vip, vip)
where id = :id

-- name: delete
-- What is personal goes; a key may be a name or an address, unless it is the id itself.
with gone as (
    update customers set key = id::text, name = null, email = null, deleted_at = :now
    where (:ids::uuid[] is null or id = any (:ids::uuid[])) and deleted_at is null
    returning id, region, vip
),
unwatched as (
    delete from customer_maintainers where customer_id in (select id from gone)
),
unruled as (
    delete from notice_rules where customer_id in (select id from gone)
)
select id, region, vip from gone

-- name: email_taken
select true from customers where lower(email) = lower(:email)
