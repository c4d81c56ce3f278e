-- Webhooks: who wants to be told over HTTP, and what each of them is told. One that a broker is told is told apart from this.

CREATE TABLE webhook_endpoints (
    id               uuid PRIMARY KEY,
    customer_id      uuid REFERENCES customers,  -- null: hears of all customers
    url              text NOT NULL,
    description      text,
    types            text[] NOT NULL,  -- of events: `account.created`, `account.*` or `*`
    secret           text NOT NULL,  -- signs what is sent, so a hash of it would not do
    former_secret    text,  -- signs as well, until then
    former_until     timestamptz,
    failing_since    timestamptz,  -- null: it took what it was sent last
    disabled_at      timestamptz,  -- null: it is told
    disabled_because text,
    created_at       timestamptz NOT NULL,
    CHECK ((former_secret IS NULL) = (former_until IS NULL)),
    CHECK ((disabled_at IS NULL) = (disabled_because IS NULL))
);
CREATE INDEX webhook_endpoints_of_customer ON webhook_endpoints (customer_id, id);

-- An event on its way to an endpoint. ``due_at`` is when it is tried next; who tries it puts it off until nobody can be at it any more.
CREATE TABLE webhook_deliveries (
    customer_id uuid NOT NULL,  -- whom the event is about
    endpoint_id uuid NOT NULL,
    event_id    uuid NOT NULL,
    type        text NOT NULL,
    body        text NOT NULL,
    told_at     timestamptz NOT NULL DEFAULT now(),
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempts    integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT '-infinity',
    tried_at    timestamptz,  -- of the last attempt: when, the answer's status, how long it took, what was wrong
    status      integer,
    duration_ms integer,
    error       text,
    PRIMARY KEY (customer_id, endpoint_id, event_id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, due_at) WHERE state = 'waiting';
CREATE INDEX webhook_deliveries_told ON webhook_deliveries (endpoint_id, told_at, event_id);
CREATE INDEX webhook_deliveries_old ON webhook_deliveries (told_at);
