-- name: all
select code, ledger, name, scale, symbol from assets

-- name: get
select code, ledger, name, scale, symbol from assets where code = :code

-- name: page
select code, ledger, name, scale, symbol from assets where code > :after order by code limit :limit

-- name: held
-- Those in which a customer has accounts. Both engines note here which accounts there are.
select code, ledger, name, scale, symbol
from assets
where ledger in (select ledger from ledger_accounts where customer_id = :customer_id)

-- name: lock!
-- One at a time gives out ledger numbers; whoever reads assets, or refers to one, need not wait.
lock table assets in share row exclusive mode

-- name: change
update assets set name = :name, symbol = :symbol where code = :code returning code, ledger, name, scale, symbol

-- name: create
-- Its number follows the highest so far; nothing is created if that is above the last one there may be.
insert into assets (code, ledger, name, scale, symbol)
select :code, greatest(max(ledger), :reserved::integer) + 1, :name, :scale::smallint, :symbol
from assets
having greatest(max(ledger), :reserved::integer) < :last::integer
returning code, ledger, name, scale, symbol
