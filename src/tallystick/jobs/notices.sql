-- name: is_there
select exists (select from procrastinate_jobs where task_name = :name and status in ('todo', 'doing'))
