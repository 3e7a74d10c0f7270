-- The keys that seal texts of this store, each wrapped by a key that is not in it. What was written
-- before there were any is in the clear until `clear` is gone from here.

CREATE TABLE vault_keys (
    id TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,
    wrapped TEXT NOT NULL,
    wrapped_by TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX vault_keys_present ON vault_keys (state) WHERE state = 'present';
