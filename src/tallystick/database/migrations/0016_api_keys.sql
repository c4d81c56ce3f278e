-- Keys with which customers, their agents and operators call; and who sent what is in quarantine.

CREATE TABLE api_keys (
    id                  uuid PRIMARY KEY,
    prefix              text NOT NULL UNIQUE,  -- by which a key is found
    digest              bytea NOT NULL CHECK (octet_length(digest) = 32),  -- SHA-256 of the whole key, which is not kept
    name                text NOT NULL,
    customer_id         uuid REFERENCES customers,  -- null: an operator's
    agent_id            uuid,  -- no reference: a key outlives its agent, to be refused with the reason
    scopes              text[] NOT NULL CHECK (cardinality(scopes) > 0),
    requests_per_minute integer CHECK (requests_per_minute > 0),
    lives               interval,  -- what it was made for, and what follows it is; null: until it is revoked
    created_at          timestamptz NOT NULL,
    expires_at          timestamptz,  -- that long after it was made, or sooner once another has replaced it
    revoked_at          timestamptz,
    last_used_at        timestamptz,  -- give or take a minute
    replaced_by         uuid REFERENCES api_keys,
    CHECK (agent_id IS NULL OR customer_id IS NOT NULL)
);
CREATE INDEX api_keys_created ON api_keys (created_at, id);
CREATE INDEX api_keys_of_customer ON api_keys (customer_id, created_at, id) WHERE customer_id IS NOT NULL;

-- Whoever remembers keys is told, in the transaction of the change, of all that decides whether one works. When it was last used does not.
CREATE FUNCTION tell_that_keys_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('api_keys', '');
    RETURN NULL;
END;
$$;
CREATE TRIGGER api_keys_changed
    AFTER INSERT OR DELETE OR UPDATE OF scopes, requests_per_minute, expires_at, revoked_at ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION tell_that_keys_changed();
CREATE TRIGGER api_keys_of_agents_changed
    AFTER UPDATE OF blocked_at, email ON agents
    FOR EACH ROW WHEN (old.blocked_at IS DISTINCT FROM new.blocked_at OR old.email IS DISTINCT FROM new.email)
    EXECUTE FUNCTION tell_that_keys_changed();
CREATE TRIGGER api_keys_of_agents_ended
    AFTER DELETE ON agents
    FOR EACH STATEMENT EXECUTE FUNCTION tell_that_keys_changed();
CREATE TRIGGER api_keys_of_customers_changed
    AFTER DELETE OR UPDATE OF key, deleted_at ON customers
    FOR EACH STATEMENT EXECUTE FUNCTION tell_that_keys_changed();

ALTER TABLE quarantine
    ADD COLUMN customer_id uuid,  -- for whom alone the sender's key may send; null: for everybody
    ADD COLUMN agent_id    uuid;  -- and as which agent
