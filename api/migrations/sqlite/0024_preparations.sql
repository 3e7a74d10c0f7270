-- Orders that are accepted and not wholly written: the devices and commands that they will have, 37 bytes
-- each, and what their request is answered in the end, where it has a key.

CREATE TABLE preparations (
    order_id BLOB NOT NULL PRIMARY KEY REFERENCES orders (id),
    planned BLOB NOT NULL,
    ended_by TEXT,
    principal TEXT,
    route TEXT,
    key TEXT,
    answer TEXT,
    created_at BIGINT NOT NULL
);
