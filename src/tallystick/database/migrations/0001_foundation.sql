-- The books and everything they are made from.
--
-- Every table that grows with usage has a primary key that starts with customer_id, so it can be distributed by customer;
-- the small ones (assets, meters, resource_kinds, prices) are catalogue data that every node may hold whole. Quantities and money are
-- exact numerics: money counts microunits (10^-6 of its asset), quantities count the meter's unit.

CREATE TABLE assets (
    code   text PRIMARY KEY,
    ledger integer NOT NULL UNIQUE,  -- ISO 4217 number of a currency, 1 for credits: the ledger field of accounts and transfers
    name   text NOT NULL
);
INSERT INTO assets (code, ledger, name)
VALUES ('CREDIT', 1, 'Credit'), ('USD', 840, 'US dollar'), ('EUR', 978, 'Euro');

CREATE TABLE customers (
    id            uuid PRIMARY KEY,
    key           text NOT NULL UNIQUE,
    name          text,
    email         text,
    parent_id     uuid REFERENCES customers,
    payer_id      uuid REFERENCES customers,  -- null: the customer pays for itself
    credit_policy text NOT NULL DEFAULT 'postpaid' CHECK (credit_policy IN ('postpaid', 'prepaid')),
    created_at    timestamptz NOT NULL
);
CREATE UNIQUE INDEX customers_email ON customers (lower(email));

CREATE TABLE meters (
    key         text PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('delta', 'counter', 'gauge')),
    aggregation text NOT NULL CHECK (aggregation IN ('sum', 'max', 'unique', 'latest')),
    on_drop     text NOT NULL CHECK (on_drop IN ('rebase', 'from_zero')),
    unit        text NOT NULL,
    name        text NOT NULL,
    description text NOT NULL,
    created_at  timestamptz NOT NULL
);

CREATE TABLE resource_kinds (
    meter      text NOT NULL REFERENCES meters,
    key        text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (meter, key)
);

CREATE TABLE prices (
    id             uuid PRIMARY KEY,
    meter          text NOT NULL,
    kind           text NOT NULL,
    customer_id    uuid REFERENCES customers,  -- null: for every customer without a price of its own
    effective_from timestamptz NOT NULL,       -- ends where the next one of the same meter, kind and customer starts
    asset          text NOT NULL REFERENCES assets,
    quantum        numeric NOT NULL CHECK (quantum > 0),
    model          jsonb NOT NULL,
    created_at     timestamptz NOT NULL,
    settled_at     timestamptz,                -- null: usage that had waited for it may still have to be charged
    FOREIGN KEY (meter, kind) REFERENCES resource_kinds (meter, key),
    UNIQUE NULLS NOT DISTINCT (meter, kind, customer_id, effective_from)
);

-- Raised by whoever changes what intake keeps in memory: meters, prices, who pays and under which policy.
CREATE TABLE catalogue (
    version bigint NOT NULL
);
INSERT INTO catalogue VALUES (1);

-- What is the same for all measurements of one stream. The id is derived from the other columns, so it need never be looked up.
CREATE TABLE series (
    customer_id uuid NOT NULL,
    id          uuid NOT NULL,
    source      text NOT NULL,
    meter       text NOT NULL,
    kind        text NOT NULL,
    resource    text NOT NULL,
    agent       text NOT NULL,
    PRIMARY KEY (customer_id, id)
);

-- Where a counter, a maximum or a latest value stands; a row under a scope derived from what it is the state of.
CREATE TABLE meter_states (
    customer_id uuid NOT NULL,
    scope       uuid NOT NULL,
    value       numeric NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (customer_id, scope)
) WITH (fillfactor = 70);

CREATE TABLE measurements (
    customer_id uuid NOT NULL,
    id          uuid NOT NULL,
    series_id   uuid NOT NULL,
    at          timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    period      date NOT NULL,         -- first day of the business month it is charged in
    sender_id   text NOT NULL,
    value       numeric NOT NULL,
    unit_price  numeric,
    quantity    numeric NOT NULL,
    remark      text,                  -- why the quantity is not simply the value
    price_id    uuid,                  -- null: waits for a price
    total_after numeric,               -- the usage total once this quantity was added
    amount      numeric,               -- F(total_after) - F(total_after - quantity), in microunits
    transfer_id uuid,                  -- the transfer that moved the amount; null while there is nothing to move
    PRIMARY KEY (customer_id, id),
    CHECK ((price_id IS NULL) = (amount IS NULL) AND (price_id IS NULL) = (total_after IS NULL))
);
CREATE INDEX measurements_at ON measurements (customer_id, at);
CREATE INDEX measurements_unpriced ON measurements (customer_id, series_id) WHERE price_id IS NULL;

-- The running quantity of a customer, price and period. The nil price holds what waits for one. The amount is not stored: it is F(quantity).
CREATE TABLE usage_totals (
    customer_id  uuid NOT NULL,
    period       date NOT NULL,
    price_id     uuid NOT NULL,
    meter        text NOT NULL,
    kind         text NOT NULL,
    quantity     numeric NOT NULL,
    measurements bigint NOT NULL,
    PRIMARY KEY (customer_id, period, price_id, meter, kind)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX usage_totals_unpriced ON usage_totals (meter, kind) WHERE price_id = '00000000-0000-0000-0000-000000000000';

CREATE TABLE ledger_accounts (
    customer_id    uuid NOT NULL,
    id             uuid NOT NULL,
    ledger         integer NOT NULL,
    code           smallint NOT NULL,
    flags          smallint NOT NULL,
    debits_posted  numeric NOT NULL DEFAULT 0 CHECK (debits_posted >= 0),
    credits_posted numeric NOT NULL DEFAULT 0 CHECK (credits_posted >= 0),
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (customer_id, id),
    CONSTRAINT debits_must_not_exceed_credits CHECK (flags & 2 = 0 OR debits_posted <= credits_posted),
    CONSTRAINT credits_must_not_exceed_debits CHECK (flags & 4 = 0 OR credits_posted <= debits_posted)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE ledger_transfers (
    customer_id       uuid NOT NULL,
    id                uuid NOT NULL,
    sequence          bigint NOT NULL UNIQUE,  -- without gaps, in the order of commits
    debit_account_id  uuid NOT NULL,
    credit_account_id uuid NOT NULL,
    amount            numeric NOT NULL CHECK (amount >= 0),
    ledger            integer NOT NULL,
    code              smallint NOT NULL,
    flags             smallint NOT NULL,
    cause_id          uuid,                    -- the transfer whose effect this one completes
    created_at        timestamptz NOT NULL,
    PRIMARY KEY (customer_id, id),
    CHECK (debit_account_id <> credit_account_id)
);

-- What people said when they moved money by hand: top-ups, grants, bills.
CREATE TABLE wallet_operations (
    customer_id uuid NOT NULL,
    transfer_id uuid NOT NULL,
    type        text NOT NULL,
    description text,
    PRIMARY KEY (customer_id, transfer_id)
);

-- The answer given under an Idempotency-Key, for good.
CREATE TABLE idempotency_keys (
    key         text PRIMARY KEY,
    fingerprint bytea NOT NULL,
    answer      jsonb NOT NULL,
    created_at  timestamptz NOT NULL
);

-- Input nobody could read, as it came. The id is derived from source and bytes: sending it again adds nothing.
CREATE TABLE quarantine (
    id           uuid PRIMARY KEY,
    source       text NOT NULL,
    code         text NOT NULL,
    detail       text NOT NULL,
    raw          bytea NOT NULL,
    repaired     bytea,
    received_at  timestamptz NOT NULL,
    replayed_at  timestamptz
);
CREATE INDEX quarantine_received ON quarantine (received_at, id);
