-- name: customer_id
select id from customers where key = :key and deleted_at is null

-- name: count_rules
select count(*) from notice_rules where customer_id is not distinct from :customer_id::uuid

-- name: define
-- Nothing if there is such a rule already.
insert into notice_rules (
    id, customer_id, kind, ledger, threshold, recipients, copies, subject, body, placeholders, created_at
)
values (
    :id, :customer_id, :kind, :ledger, :threshold, :recipients::text[], :copies::text[], :subject, :body, :placeholders::jsonb, :now
)
on conflict do nothing
returning id

-- name: rule
select r.id, r.number, r.customer_id, c.key, r.kind, r.ledger, a.code, r.threshold, r.recipients, r.copies, r.subject, r.body,
    r.placeholders, r.created_at
from notice_rules as r
left join customers as c on c.id = r.customer_id
left join assets as a on a.ledger = r.ledger
where r.id = :id

-- name: rules
select r.id, r.number, r.customer_id, c.key, r.kind, r.ledger, a.code, r.threshold, r.recipients, r.copies, r.subject, r.body,
    r.placeholders, r.created_at
from notice_rules as r
left join customers as c on c.id = r.customer_id
left join assets as a on a.ledger = r.ledger
where r.number > :after and (:customer_id::uuid is null or r.customer_id = :customer_id::uuid)
order by r.number
limit :limit

-- name: remove
delete from notice_rules where id = :id returning id

-- name: page
select n.customer_id, n.id, n.rule_id, n.kind, n.ledger, n.threshold, n.balance::text, n.granted::text, n.raised_at, n.spent::text,
    n.usual::text, n.ends_at, c.key, a.code, n.state, n.attempts, n.due_at, n.error, n.sent_at
from notices as n
join customers as c on c.id = n.customer_id
join assets as a on a.ledger = n.ledger
where (n.raised_at, n.id) < (:before_at::timestamptz, :before_id::uuid)
    and (:state::text is null or n.state = :state::text)
    and (:customer_id::uuid is null or n.customer_id = :customer_id::uuid)
order by n.raised_at desc, n.id desc
limit :limit

-- name: get
select n.customer_id, n.id, n.rule_id, n.kind, n.ledger, n.threshold, n.balance::text, n.granted::text, n.raised_at, n.spent::text,
    n.usual::text, n.ends_at, c.key, a.code, n.state, n.attempts, n.due_at, n.error, n.sent_at
from notices as n
join customers as c on c.id = n.customer_id
join assets as a on a.ledger = n.ledger
where n.id = :id

-- name: again
update notices set state = 'waiting', due_at = :now, attempts = 0 where id = :id and state <> 'waiting' returning id

-- name: any_due
select exists (select from notices where due_at <= :now)

-- name: next_due
select min(due_at) from notices where due_at > :after

-- name: take_turns
-- Whoever claims waits for whoever is just claiming, so that no two want the same rows.
select pg_advisory_xact_lock(7419, 1)

-- name: claim
-- The first that are due. Nobody else gets them while whoever has them may still be at it.
with due as (
    select customer_id, id from notices where due_at <= :now order by due_at, id limit :limit
)
update notices as n
set due_at = :until
from due as d, customers as c, assets as a
where n.customer_id = d.customer_id and n.id = d.id and c.id = n.customer_id and a.ledger = n.ledger
returning n.customer_id, n.id, n.rule_id, n.kind, n.ledger, n.threshold, n.balance::text, n.granted::text, n.raised_at, n.spent::text,
    n.usual::text, n.ends_at, c.key, a.code, n.state, n.attempts, n.due_at, n.error, n.sent_at

-- name: finish!
update notices as n
set state = :state, due_at = null, attempts = attempts + 1, error = :error, sent_at = case :state when 'sent' then :now::timestamptz end
where customer_id = :customer_id and id = :id and state = 'waiting'

-- name: delay!
-- Tried again after a pause that doubles, up to the longest; given up after so many attempts.
update notices as n
set attempts = attempts + 1, error = :error,
    state = case when n.attempts + 1 >= :max_attempts then 'failed' else 'waiting' end,
    due_at = case when n.attempts + 1 < :max_attempts then
        :now::timestamptz + least(:first_pause::interval * power(2, least(n.attempts, 20)), :longest_pause::interval) end
from unnest(:customer_ids::uuid[], :ids::uuid[]) as late (customer_id, id)
where n.customer_id = late.customer_id and n.id = late.id and n.state = 'waiting'

-- name: delay_due!
-- As before, for all that are due: the server is away.
update notices as n
set attempts = attempts + 1, error = :error,
    state = case when n.attempts + 1 >= :max_attempts then 'failed' else 'waiting' end,
    due_at = case when n.attempts + 1 < :max_attempts then
        :now::timestamptz + least(:first_pause::interval * power(2, least(n.attempts, 20)), :longest_pause::interval) end
where n.due_at <= :now

-- name: addressee
select c.key, c.name,
    (
        select coalesce(array_agg(a.email order by a.rank, a.email), '{}')
        from (
            select c.email, 0 as rank where c.email is not null
            union all
            select m.email, 1 from customer_maintainers as m where m.customer_id = c.id
        ) as a
    )
from customers as c
where c.id = :id

-- name: counts
select state, count(*) from notices where state = any (:states::text[]) group by state
