-- Readings: each sweep of a source that is pulled, and what became of it.

CREATE TABLE readings (
    id             uuid PRIMARY KEY,      -- a periodic one's is derived from its source and interval
    source         text NOT NULL,
    interval_start timestamptz,           -- null: a manual one, which takes nobody's interval
    at             timestamptz NOT NULL,  -- the instant of its measurements
    state          text NOT NULL CHECK (state IN ('running', 'complete', 'partial', 'failed')),
    attempts       integer NOT NULL,
    ended_at       timestamptz,           -- of the attempt whose outcome this is; null: the first one has not ended
    counts         jsonb NOT NULL,        -- by meter
    failures       jsonb NOT NULL,
    faults         jsonb NOT NULL,
    UNIQUE (source, interval_start),
    CHECK ((state = 'running') = (ended_at IS NULL))
);
CREATE INDEX readings_at ON readings (at, id);
CREATE INDEX readings_of_source ON readings (source, at, id);

-- How long a gauge's value stands for, and what becomes of intervals in between for which none came.
ALTER TABLE meters
    ADD COLUMN on_gap           text NOT NULL DEFAULT 'free' CHECK (on_gap IN ('free', 'held', 'interpolated')),
    ADD COLUMN max_gap_hours    integer NOT NULL DEFAULT 24 CHECK (max_gap_hours > 0),
    ADD COLUMN interval_minutes integer NOT NULL DEFAULT 60 CHECK (interval_minutes > 0);

-- What a gauge whose gaps are filled stands at in each interval of a scope: the value that counts for it, or an estimate.
CREATE TABLE gauge_levels (
    customer_id uuid NOT NULL,
    scope       uuid NOT NULL,
    slot        bigint NOT NULL,  -- number of the interval
    value       numeric NOT NULL,
    at          timestamptz,      -- when the value was measured; null: it is an estimate
    PRIMARY KEY (customer_id, scope, slot)
) WITH (fillfactor = 90);
