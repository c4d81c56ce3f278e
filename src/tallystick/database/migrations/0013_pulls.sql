-- How far sources that are asked for periods have been asked, what sources call their resources, and since when gaps are filled.

-- Everything from ``since`` to before ``until`` is recorded; ``since`` is never asked behind.
CREATE TABLE pulls (
    source       text PRIMARY KEY,
    since        timestamptz NOT NULL,
    until        timestamptz NOT NULL,
    step_seconds integer NOT NULL CHECK (step_seconds > 0),
    moved_at     timestamptz NOT NULL,  -- when ``until`` was reached
    CHECK (since <= until)
);

ALTER TABLE resources ADD COLUMN name text;  -- what its source calls it, whatever its place is called

ALTER TABLE meters ADD COLUMN gaps_filled_since timestamptz;  -- null: since its first measurement, if they are filled
UPDATE meters SET gaps_filled_since = now() WHERE on_gap <> 'free';
