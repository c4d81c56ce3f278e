-- name: subjects
select id, key, region, vip from customers where id = any (:ids::uuid[])

-- name: grants
select c.id, c.key, c.region, c.vip, g.id, a.code, g.amount::text, g.category, g.priority, g.source, g.reason, g.expires_at
from unnest(:customer_ids::uuid[], :ids::uuid[]) with ordinality as wanted (customer_id, id, line)
join grants as g on g.customer_id = wanted.customer_id and g.id = wanted.id
join customers as c on c.id = g.customer_id
join assets as a on a.ledger = g.ledger
order by wanted.line

-- name: postings
select c.id, c.key, c.region, c.vip, p.id, a.code, p.amount::text, p.period, p.number
from unnest(:customer_ids::uuid[], :ids::uuid[]) with ordinality as wanted (customer_id, id, line)
join postings as p on p.customer_id = wanted.customer_id and p.id = wanted.id
join customers as c on c.id = p.customer_id
join assets as a on a.ledger = p.ledger
order by wanted.line
