-- Holds: credits that are reserved until somebody settles or releases them, or their time is up.

CREATE TABLE holds (
    customer_id    uuid NOT NULL,                       -- who is measured
    id             uuid NOT NULL,                       -- that of the pending transfer, in the books of the payer
    payer_id       uuid NOT NULL,                       -- who pays, and under which policy, as it was when the hold was placed
    credit_policy  text NOT NULL,
    ledger         integer NOT NULL,
    amount         numeric NOT NULL CHECK (amount > 0),
    description    text,
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL CHECK (expires_at > created_at),
    state          text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'released', 'expired')),
    settled_amount numeric NOT NULL DEFAULT 0 CHECK (settled_amount BETWEEN 0 AND amount),  -- what was taken of the hold
    excess         numeric NOT NULL DEFAULT 0 CHECK (excess >= 0),                          -- what was charged besides
    closed_at      timestamptz,
    PRIMARY KEY (customer_id, id),
    CHECK ((state = 'open') = (closed_at IS NULL)),
    CHECK ((state = 'settled') = (settled_amount > 0)),
    CHECK (excess = 0 OR settled_amount = amount)
);
CREATE INDEX holds_newest ON holds (customer_id, state, created_at, id);
CREATE INDEX holds_due ON holds (expires_at, id) WHERE state = 'open';

-- A ledger elsewhere may have reserved credits for somebody who died before the hold was written down. To find those, transfers are looked
-- through once, up to the sequence number kept here.
CREATE INDEX holds_id ON holds (id);
CREATE INDEX ledger_transfers_holds ON ledger_transfers (sequence) WHERE code = 6 AND flags = 2;
CREATE TABLE holds_checked (
    sequence bigint NOT NULL
);
INSERT INTO holds_checked VALUES (0);
