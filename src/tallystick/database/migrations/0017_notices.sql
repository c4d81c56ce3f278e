-- Notices: rules that say when somebody is to hear of a wallet, what was raised, and how far it has been sent.

-- The sum (credits minus debits) at or below which whoever watches the ledger is to look at the wallet; null: never. Of a new account, and
-- of those from before this, nobody knows yet.
ALTER TABLE ledger_accounts ADD COLUMN alarm_at numeric DEFAULT 'Infinity';

-- Grants that may have ended, by wallet: what was granted and has not ended is what shares are shares of.
CREATE INDEX grants_ending ON grants (customer_id, ledger) WHERE expires_at IS NOT NULL OR state = 'voided';

-- Who looks after a customer, besides whoever has its own e-mail.
CREATE TABLE customer_maintainers (
    customer_id uuid NOT NULL,
    email       text NOT NULL,
    PRIMARY KEY (customer_id, email)
);

CREATE TABLE notice_rules (
    id           uuid PRIMARY KEY,
    number       bigint GENERATED ALWAYS AS IDENTITY UNIQUE,  -- in the order of definition: a wallet knows up to which one it was looked at
    customer_id  uuid,            -- null: for all
    kind         text NOT NULL CHECK (kind IN ('share', 'balance', 'forecast', 'unusual')),
    ledger       integer,         -- null: in every asset
    threshold    numeric NOT NULL, -- a share, microunits, days, or a factor
    recipients   text[] NOT NULL, -- addresses, 'maintainers' and 'governance'
    copies       text[] NOT NULL,
    subject      text,            -- a template of one's own; null: the one that is shipped
    body         text,
    placeholders jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (customer_id, kind, ledger, threshold),
    CHECK ((subject IS NULL) = (body IS NULL)),
    CHECK (kind <> 'balance' OR ledger IS NOT NULL)
);
CREATE INDEX notice_rules_spending ON notice_rules (id) WHERE kind IN ('forecast', 'unusual');
INSERT INTO notice_rules (id, kind, threshold, recipients, copies, created_at)
SELECT gen_random_uuid(), 'share', share, '{maintainers}', '{governance}', now()
FROM unnest('{0.5, 0.2, 0}'::numeric[]) WITH ORDINALITY AS standard (share, number)
ORDER BY number;

-- What is remembered of a wallet that rules apply to. Rows change only while their transaction holds the ledger's lock.
CREATE TABLE notice_wallets (
    customer_id uuid NOT NULL,
    ledger      integer NOT NULL,
    told        uuid[] NOT NULL,  -- rules that are not to be told before money comes in
    seen        bigint NOT NULL,  -- the last rule that was known when it was looked at
    came_in     numeric NOT NULL, -- all that had come in by then
    granted     numeric NOT NULL, -- what shares are shares of
    PRIMARY KEY (customer_id, ledger)
);

-- What had been used of a wallet, ever, when it was first looked at on a business day: forecasts need it for a week.
CREATE TABLE notice_days (
    customer_id uuid NOT NULL,
    ledger      integer NOT NULL,
    day         date NOT NULL,
    at          timestamptz NOT NULL,
    used        numeric NOT NULL,
    PRIMARY KEY (customer_id, ledger, day)
);

CREATE TABLE notices (
    customer_id uuid NOT NULL,
    id          uuid NOT NULL,
    rule_id     uuid NOT NULL,       -- which may be gone since
    kind        text NOT NULL,
    ledger      integer NOT NULL,
    threshold   numeric NOT NULL,
    balance     numeric NOT NULL,    -- how the wallet stood when it was raised
    granted     numeric NOT NULL,
    spent       numeric,             -- of a forecast, in the last days; of unusual spending, today
    usual       numeric,             -- of unusual spending: on a day
    ends_at     timestamptz,         -- of a forecast: when nothing is left
    raised_at   timestamptz NOT NULL,
    state       text NOT NULL CHECK (state IN ('waiting', 'sent', 'failed', 'unaddressed', 'unsent')),
    attempts    integer NOT NULL DEFAULT 0,
    due_at      timestamptz CHECK ((state = 'waiting') = (due_at IS NOT NULL)),
    error       text,                -- why the last attempt failed
    sent_at     timestamptz,
    PRIMARY KEY (customer_id, id)
);
CREATE INDEX notices_id ON notices (id);
CREATE INDEX notices_due ON notices (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX notices_newest ON notices (raised_at, id);
CREATE INDEX notices_of_state ON notices (state, raised_at, id);

-- How far the transfers were followed where balances are kept elsewhere, and the hour in which spending was looked at last.
CREATE TABLE notice_progress (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    sequence    bigint NOT NULL DEFAULT 0,
    spending_at timestamptz
);
