-- Who pays, by time; and usage that is posted once a month instead of at once.

ALTER TABLE customers
    ADD COLUMN posting_policy text NOT NULL DEFAULT 'immediate' CHECK (posting_policy IN ('immediate', 'monthly')),
    ADD CONSTRAINT prepaid_is_posted_at_once CHECK (posting_policy = 'immediate' OR credit_policy = 'postpaid');
CREATE INDEX customers_payer ON customers (payer_id) WHERE payer_id IS NOT NULL;

-- Whoever paid for a customer before: what it was charged then stands in their books.
CREATE TABLE former_payers (
    customer_id uuid NOT NULL,
    payer_id    uuid NOT NULL,
    until       timestamptz NOT NULL,
    PRIMARY KEY (customer_id, payer_id)
);
CREATE INDEX former_payers_payer ON former_payers (payer_id);

-- Months of customers whose usage totals have changed since they were posted: what is still to be done. Written by whoever raises a total
-- whose payer is posted monthly, in the same transaction.
CREATE TABLE unposted_usage (
    customer_id uuid NOT NULL,
    period      date NOT NULL,
    payer_id    uuid NOT NULL,
    PRIMARY KEY (customer_id, period)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX unposted_usage_payer ON unposted_usage (payer_id, period);

-- A payer's month in one asset, and its supplements: those with a number above 0. The id is that of the transfer; 0 moves nothing.
CREATE TABLE postings (
    customer_id uuid NOT NULL,  -- the payer
    id          uuid NOT NULL,
    ledger      integer NOT NULL,
    period      date NOT NULL,
    number      integer NOT NULL CHECK (number >= 0),
    amount      numeric NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (customer_id, id),
    UNIQUE (customer_id, period, ledger, number)
);

-- What a posting is made of: how far it took each usage total. The lines of one total, by number, lead from 0 to where it is posted.
CREATE TABLE posting_lines (
    customer_id     uuid NOT NULL,  -- who was metered
    period          date NOT NULL,
    price_id        uuid NOT NULL,
    meter           text NOT NULL,
    kind            text NOT NULL,
    number          integer NOT NULL CHECK (number > 0),
    posting_id      uuid,           -- null: so far the charges themselves were posted, each at once
    quantity_before numeric NOT NULL,
    quantity_after  numeric NOT NULL,
    amount          numeric NOT NULL,  -- F(quantity_after) - F(quantity_before), or 0 without a posting
    PRIMARY KEY (customer_id, period, price_id, meter, kind, number),
    CHECK (posting_id IS NOT NULL OR amount = 0)
);

-- Priced usage totals, and how far they are posted.
CREATE VIEW posted_totals AS
SELECT t.customer_id, t.period, t.price_id, t.meter, t.kind, t.quantity, coalesce(l.quantity_after, 0) AS posted, coalesce(l.number, 0) AS lines
FROM usage_totals AS t
LEFT JOIN LATERAL (
    SELECT quantity_after, number FROM posting_lines
    WHERE customer_id = t.customer_id AND period = t.period AND price_id = t.price_id AND meter = t.meter AND kind = t.kind
    ORDER BY number DESC
    LIMIT 1
) AS l ON true
WHERE t.price_id <> '00000000-0000-0000-0000-000000000000';
