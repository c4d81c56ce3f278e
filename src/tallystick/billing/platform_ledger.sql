-- name: grants
select id, source, reason from grants where customer_id = :customer_id and id = any (:ids::uuid[])

-- name: postings
select id, period from postings where customer_id = :customer_id and id = any (:ids::uuid[])
