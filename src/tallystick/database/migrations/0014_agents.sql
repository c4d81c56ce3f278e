-- Accounts and their agents: where a customer is, whether it is looked after, and the seats and machines that use things for it.

ALTER TABLE customers
    ADD COLUMN region     text NOT NULL DEFAULT 'nam' CHECK (region IN ('emea', 'nam', 'apac')),
    ADD COLUMN vip        boolean NOT NULL DEFAULT false,
    ADD COLUMN deleted_at timestamptz;  -- what was personal is gone then; its ledger stays
CREATE INDEX customers_name ON customers (coalesce(name, key), id) WHERE deleted_at IS NULL;

CREATE TABLE agents (
    id          uuid PRIMARY KEY,
    customer_id uuid NOT NULL REFERENCES customers,
    email       text NOT NULL,
    name        text NOT NULL,
    blocked_at  timestamptz,  -- null: what it uses is charged
    created_at  timestamptz NOT NULL
);
CREATE UNIQUE INDEX agents_email ON agents (lower(email));
CREATE INDEX agents_of_customer ON agents (customer_id, name, id);
CREATE INDEX agents_name ON agents (name, id);
CREATE INDEX agents_blocked ON agents (id) WHERE blocked_at IS NOT NULL;
