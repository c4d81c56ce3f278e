-- Where things stand: resources in their customer's reporting tree, and customers below customers.

-- A row says where one resource of one meter stands; there is none until a source or a person has said it. Series join it by customer,
-- meter and resource, so intake need not know of it. Paths are text in the collation "C", in which whatever stands below ``p`` lies between
-- ``p`` and ``p || '/'``: "/" follows ".", and every other character of a path follows "/".
CREATE TABLE resources (
    customer_id uuid NOT NULL,
    meter       text NOT NULL,
    key         text NOT NULL,          -- the ``resource`` of its series
    path        text COLLATE "C" NOT NULL CHECK (path ~ '^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$' AND length(path) <= 1024),
    slug        text COLLATE "C" GENERATED ALWAYS AS (split_part(path, '.', -1)) STORED CHECK (length(slug) <= 256),
    pinned      boolean NOT NULL,       -- placed by a person: sources leave it where it is
    created_at  timestamptz NOT NULL,
    placed_at   timestamptz NOT NULL,   -- when it came to where it stands
    PRIMARY KEY (customer_id, meter, key)
);
CREATE INDEX resources_path ON resources (customer_id, path);
CREATE INDEX resources_slug ON resources (customer_id, slug);

CREATE INDEX customers_parent ON customers (parent_id) WHERE parent_id IS NOT NULL;
