-- The ledger in full: reserved amounts, ids that stay failed, a chain of hashes over batches, and what is promised to a ledger elsewhere.

ALTER TABLE ledger_accounts
    ADD COLUMN debits_pending numeric NOT NULL DEFAULT 0 CHECK (debits_pending >= 0),
    ADD COLUMN credits_pending numeric NOT NULL DEFAULT 0 CHECK (credits_pending >= 0),
    DROP CONSTRAINT debits_must_not_exceed_credits,
    DROP CONSTRAINT credits_must_not_exceed_debits,
    ADD CONSTRAINT debits_must_not_exceed_credits CHECK (flags & 2 = 0 OR debits_pending + debits_posted <= credits_posted),
    ADD CONSTRAINT credits_must_not_exceed_debits CHECK (flags & 4 = 0 OR credits_pending + credits_posted <= debits_posted),
    ADD CONSTRAINT one_limit_at_most CHECK (flags & 6 <> 6);

ALTER TABLE ledger_transfers
    ADD COLUMN pending_id uuid,  -- the transfer that this one posts (flag 4) or voids (flag 8)
    ADD CONSTRAINT only_posts_and_voids_name_a_pending_transfer CHECK ((flags & 12 <> 0) = (pending_id IS NOT NULL));
CREATE UNIQUE INDEX ledger_transfers_pending ON ledger_transfers (customer_id, pending_id) WHERE pending_id IS NOT NULL;

-- Transfers that were refused for a reason that may pass. Their ids stay refused: who gave up must not find it done later.
CREATE TABLE ledger_failures (
    customer_id uuid NOT NULL,
    id          uuid NOT NULL,
    status      text NOT NULL,
    created_at  timestamptz NOT NULL,
    number      bigint NOT NULL UNIQUE,  -- without gaps, whoever writes them: one that is removed leaves a gap
    PRIMARY KEY (customer_id, id)
);
CREATE FUNCTION ledger_number_failure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7411, 1);
    NEW.number := coalesce((SELECT max(number) FROM ledger_failures), 0) + 1;
    RETURN NEW;
END
$$;
CREATE TRIGGER number BEFORE INSERT ON ledger_failures FOR EACH ROW EXECUTE FUNCTION ledger_number_failure();

-- Each hash covers the one before it and the batch's transfers in the order of their sequence: whatever is changed, removed or reordered
-- later, the chain no longer fits.
CREATE TABLE ledger_batches (
    last_sequence  bigint PRIMARY KEY,
    first_sequence bigint NOT NULL UNIQUE,
    hash           bytea NOT NULL,
    CHECK (first_sequence <= last_sequence)
);

-- The hash of a batch: over the hash before it and every column of its transfers, one column after the other, in text or bytes that no
-- setting changes. The ledger computes the same while it writes a batch (postgres.py).
CREATE FUNCTION ledger_hash(previous bytea, first bigint, last bigint) RETURNS bytea STABLE PARALLEL SAFE LANGUAGE sql AS $$
    SELECT sha256(
        coalesce(previous, '')
        || string_agg(uuid_send(customer_id), '' ORDER BY sequence)
        || string_agg(uuid_send(id), '' ORDER BY sequence)
        || string_agg(uuid_send(debit_account_id), '' ORDER BY sequence)
        || string_agg(uuid_send(credit_account_id), '' ORDER BY sequence)
        || string_agg(uuid_send(coalesce(cause_id, '00000000-0000-0000-0000-000000000000')), '' ORDER BY sequence)
        || string_agg(uuid_send(coalesce(pending_id, '00000000-0000-0000-0000-000000000000')), '' ORDER BY sequence)
        || convert_to(
            string_agg(trim_scale(amount)::text, ',' ORDER BY sequence)
            || ';' || string_agg(ledger::text, ',' ORDER BY sequence)
            || ';' || string_agg(code::text, ',' ORDER BY sequence)
            || ';' || string_agg(flags::text, ',' ORDER BY sequence)
            || ';' || string_agg(sequence::text, ',' ORDER BY sequence)
            || ';' || string_agg(trunc(extract(epoch FROM created_at) * 1000000)::text, ',' ORDER BY sequence),
            'UTF8'
        )
    )
    FROM ledger_transfers
    WHERE sequence BETWEEN first AND last
$$;

-- What was posted before there were batches.
DO $$
DECLARE
    first bigint := 1;
    last  bigint;
    hash  bytea := '';
BEGIN
    WHILE first <= (SELECT coalesce(max(sequence), 0) FROM ledger_transfers) LOOP
        SELECT max(sequence) INTO last FROM ledger_transfers WHERE sequence < first + 10000;
        hash := ledger_hash(hash, first, last);
        INSERT INTO ledger_batches (last_sequence, first_sequence, hash) VALUES (last, first, hash);
        first := last + 1;
    END LOOP;
END
$$;

-- Transfers that a ledger outside of this database (TigerBeetle) still has to carry out, under ids fixed here. A promise is carried out soon
-- after its transaction; an intent is carried out by its caller at once, and remains only if the caller died on the way. Rows of one call
-- share a position, so that calls that write at the same time do not mix their lines.
CREATE SEQUENCE ledger_outbox_positions;
CREATE TABLE ledger_outbox (
    customer_id       uuid NOT NULL,
    id                uuid NOT NULL,
    position          bigint NOT NULL DEFAULT nextval('ledger_outbox_positions'),
    line              integer NOT NULL DEFAULT 1,
    debit_account_id  uuid NOT NULL,
    credit_account_id uuid NOT NULL,
    amount            numeric NOT NULL CHECK (amount BETWEEN 0 AND 340282366920938463463374607431768211455),
    ledger            integer NOT NULL CHECK (ledger >= 0),
    code              smallint NOT NULL CHECK (code >= 0),
    flags             smallint NOT NULL CHECK (flags >= 0),
    cause_id          uuid,
    pending_id        uuid,
    debit_code        smallint,  -- what the accounts are opened with, if they are known
    debit_flags       smallint,
    credit_code       smallint,
    credit_flags      smallint,
    intent            boolean NOT NULL,
    refused           text,      -- why the ledger did not carry it out
    xact              xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at        timestamptz NOT NULL,
    PRIMARY KEY (customer_id, id, position, line)
);
CREATE UNIQUE INDEX ledger_outbox_promises ON ledger_outbox (customer_id, id) WHERE NOT intent;
CREATE INDEX ledger_outbox_waiting ON ledger_outbox (position, line) WHERE refused IS NULL;
CREATE INDEX ledger_outbox_intents ON ledger_outbox (position) WHERE intent;
CREATE INDEX ledger_outbox_refused ON ledger_outbox (created_at) WHERE refused IS NOT NULL;

-- Which ledger keeps the balances of these books: one row, or none if it is this database. Another ledger would begin at zero, or where the
-- books were when they left it.
CREATE TABLE ledger_home (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    name     text NOT NULL
);
