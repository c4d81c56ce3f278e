-- Events that the broker has not confirmed yet. Each is written in the transaction that caused it, and removed once it is confirmed.

CREATE SEQUENCE outbox_positions;
CREATE TABLE outbox_events (
    customer_id uuid NOT NULL,
    id          uuid NOT NULL,
    xact        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    position    bigint NOT NULL DEFAULT nextval('outbox_positions'),  -- after xact: whoever has a position is seen to be running
    type        text NOT NULL,
    at          timestamptz NOT NULL,
    subject     text NOT NULL,  -- the customer's key, region and standing when it happened
    region      text NOT NULL,
    vip         boolean NOT NULL,
    data        jsonb NOT NULL,
    PRIMARY KEY (customer_id, id)
);
CREATE INDEX outbox_events_position ON outbox_events (position);
