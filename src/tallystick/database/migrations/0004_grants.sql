-- Grants: what came into a wallet, in what order it is used up, and when it ends. How much of a grant is left is not stored: it follows from
-- the wallet's transfers (ledger/burndown.py).

CREATE TABLE grants (
    customer_id   uuid NOT NULL,        -- whose wallet it is: the payer's
    id            uuid NOT NULL,        -- also the id of the transfer by which it comes in
    credit_policy text NOT NULL,        -- the payer's, then
    ledger        integer NOT NULL,
    amount        numeric NOT NULL CHECK (amount > 0),
    category      text NOT NULL CHECK (category IN ('paid', 'promotional')),
    priority      smallint NOT NULL CHECK (priority BETWEEN 0 AND 1000),  -- the lowest is used first
    effective_at  timestamptz NOT NULL,
    expires_at    timestamptz CHECK (expires_at >= effective_at),
    rank_expiry   timestamptz,          -- the expiry it was granted with: an end moved later must not reorder what was used before
    source        text NOT NULL,
    reason        text,
    state         text NOT NULL CHECK (state IN ('scheduled', 'granted', 'expired', 'voided')),
    closed_after  bigint,               -- the last transfer in the books when it expired or was voided
    attempts      integer NOT NULL DEFAULT 0,  -- how often it was tried to take away what was left
    due_at        timestamptz,          -- when there is something to do about it; null: never again
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (customer_id, id)
);
CREATE INDEX grants_due ON grants (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX grants_newest ON grants (customer_id, created_at, id);

-- How far a wallet's grants were followed, and how much of each was left at the last event until then, so that nobody has to begin at its
-- beginning. It follows from the transfers, and could be written again if it were lost.
CREATE TABLE grant_checkpoints (
    customer_id       uuid NOT NULL,
    ledger            integer NOT NULL,
    sequence          bigint NOT NULL,
    remaining         jsonb NOT NULL,   -- microunits left, as text, by grant; a grant of before that is not named has nothing left
    unattributed      numeric NOT NULL, -- left of money that came in without a grant; negative: owed
    unattributed_used numeric NOT NULL, -- used of money that came in without a grant
    moved_out         numeric NOT NULL, -- used since the last event, net, and not yet attributed
    income            numeric NOT NULL, -- came in since then without a grant
    PRIMARY KEY (customer_id, ledger)
);

-- What came in before there were grants.
INSERT INTO grants (
    customer_id, id, credit_policy, ledger, amount, category, priority, effective_at, source, reason, state, created_at
)
SELECT t.customer_id, t.id, c.credit_policy, t.ledger, t.amount, CASE t.code WHEN 1 THEN 'promotional' ELSE 'paid' END, 100, t.created_at,
    '', o.description, 'granted', t.created_at
FROM ledger_transfers AS t
JOIN customers AS c ON c.id = t.customer_id
LEFT JOIN wallet_operations AS o ON o.customer_id = t.customer_id AND o.transfer_id = t.id
WHERE t.code IN (1, 2) AND t.flags & 14 = 0 AND t.amount > 0;

-- Named grants: changing one changes what agreements that start later grant.
CREATE TABLE tiers (
    name       text PRIMARY KEY,
    asset      text NOT NULL REFERENCES assets,
    credits    numeric NOT NULL CHECK (credits > 0),
    category   text NOT NULL CHECK (category IN ('paid', 'promotional')),
    priority   smallint NOT NULL CHECK (priority BETWEEN 0 AND 1000),
    created_at timestamptz NOT NULL
);

-- Periods of performance: the tier is granted at the start, and what is left of it expires at the end.
CREATE TABLE agreements (
    customer_id uuid NOT NULL,          -- for whom it was made
    id          uuid NOT NULL,
    tier        text NOT NULL REFERENCES tiers,
    starts_at   timestamptz NOT NULL,
    ends_at     timestamptz NOT NULL CHECK (ends_at >= starts_at),  -- the same: ended before it started
    payer_id    uuid,                   -- in whose wallet its grant is; null until it has started
    grant_id    uuid,
    due_at      timestamptz,            -- when it is to start; null once it has started or been ended before
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (customer_id, id),
    CHECK ((payer_id IS NULL) = (grant_id IS NULL))
);
CREATE INDEX agreements_due ON agreements (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX agreements_newest ON agreements (customer_id, created_at, id);
