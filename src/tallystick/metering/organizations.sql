-- name: page
-- Customers whose apps and services a Cloud Foundry platform has shown, in the order of their keys. One without a name is called what its
-- resources' paths call it: they lie below its slug, and "`" follows "_".
select c.key, coalesce(c.name, nullif(substring(r.path from '^apps\.usage\.cforg_(\w*)'), '')), payer.key, c.created_at
from customers as c
left join customers as payer on payer.id = c.payer_id
left join lateral (
    select path from resources
    where customer_id = c.id and path >= 'apps.usage.cforg_' and path < 'apps.usage.cforg`'
    order by path
    limit 1
) as r on true
where c.deleted_at is null and c.key > :after and (:key::text is null or c.key = :key::text)
    and (:mapped::boolean is null or (c.payer_id is not null) = :mapped::boolean)
    and exists (
        select from series as s
        where s.customer_id = c.id and s.source in ('reading:cloud-foundry', 'reading:cloud-foundry-app')
    )
order by c.key
limit :limit
