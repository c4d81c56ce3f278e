-- The history of wallets: what each transfer did to its customer's wallet, found fast at any depth and at any past instant.

-- One entry of 40 bytes for each transfer; nothing else finds a customer's transfers in their order.
CREATE INDEX ledger_transfers_history ON ledger_transfers (customer_id, ledger, sequence);

-- Without repayments (code 5): they are never listed, and with them this index would grow with usage.
CREATE INDEX ledger_transfers_cause ON ledger_transfers (customer_id, cause_id) WHERE cause_id IS NOT NULL AND code <> 5;

CREATE INDEX customers_newest ON customers (created_at, id);

-- What a transfer changes, in the signs of a balance: ``moved`` is wallet minus arrears, so a repayment moves nothing; ``held`` is what is
-- reserved. A pending transfer (flag 2) and a void (8) change nothing but that.
CREATE VIEW wallet_transfers AS
SELECT t.customer_id, t.ledger, t.sequence, t.id, t.code, t.cause_id, t.pending_id, t.created_at,
    posted * ((c.code = 1)::integer - (d.code = 1)::integer) AS wallet,
    posted * ((d.code = 2)::integer - (c.code = 2)::integer) AS arrears,
    posted * ((c.code = 3)::integer - (d.code = 3)::integer) AS used,
    posted * ((d.code = 4)::integer - (c.code = 4)::integer) AS granted,
    posted * ((c.code = 5)::integer - (d.code = 5)::integer) AS expired,
    posted * ((d.code = 6)::integer - (c.code = 6)::integer) AS exchanged,
    posted * ((c.code IN (1, 2))::integer - (d.code IN (1, 2))::integer) AS moved,
    CASE
        WHEN d.code <> 1 THEN 0
        WHEN t.flags & 2 <> 0 THEN t.amount
        WHEN t.pending_id IS NOT NULL
            THEN -(SELECT h.amount FROM ledger_transfers AS h WHERE h.customer_id = t.customer_id AND h.id = t.pending_id)
        ELSE 0
    END AS held
FROM ledger_transfers AS t
JOIN ledger_accounts AS d ON d.customer_id = t.customer_id AND d.id = t.debit_account_id
JOIN ledger_accounts AS c ON c.customer_id = t.customer_id AND c.id = t.credit_account_id
CROSS JOIN LATERAL (SELECT CASE WHEN t.flags & 10 = 0 THEN t.amount ELSE 0 END) AS what (posted);

-- A wallet's standing after the transfer ``sequence``, at the beginning (0) and after every few hundred transfers, so that no reader has to
-- add up from the beginning. Transfers never change, so neither do these; readers write them, and could write them again if they were lost.
CREATE TABLE ledger_milestones (
    customer_id uuid NOT NULL,
    ledger      integer NOT NULL,
    sequence    bigint NOT NULL,
    kinds       bigint NOT NULL,       -- of the transactions since the milestone before, one bit each: 2 * code, plus 1 if money came in
    listed      bigint NOT NULL,       -- transactions so far: transfers that moved something
    latest_at   timestamptz NOT NULL,  -- the latest date of a transfer so far
    wallet      numeric NOT NULL,
    arrears     numeric NOT NULL,
    used        numeric NOT NULL,
    granted     numeric NOT NULL,
    expired     numeric NOT NULL,
    exchanged   numeric NOT NULL,
    held        numeric NOT NULL,
    PRIMARY KEY (customer_id, ledger, sequence)
);

-- What lies between two milestones, or after the last one: the transfers after ``first`` up to ``last``, with what there was before them.
CREATE VIEW ledger_stretches AS
SELECT m.customer_id, m.ledger, m.sequence AS first, coalesce(next.sequence, 9223372036854775807) AS last, coalesce(next.kinds, -1) AS kinds,
    m.listed, m.wallet - m.arrears AS opening
FROM ledger_milestones AS m
LEFT JOIN LATERAL (
    SELECT n.sequence, n.kinds FROM ledger_milestones AS n
    WHERE n.customer_id = m.customer_id AND n.ledger = m.ledger AND n.sequence > m.sequence
    ORDER BY n.sequence LIMIT 1
) AS next ON true;
