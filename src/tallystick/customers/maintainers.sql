-- name: of_customer
select email from customer_maintainers where customer_id = :customer_id order by email

-- name: keep_only!
delete from customer_maintainers where customer_id = :customer_id and not email = any (:emails::text[])

-- name: add!
insert into customer_maintainers (customer_id, email) select :customer_id, unnest(:emails::text[]) on conflict do nothing
