-- The keys that seal texts of this store, each wrapped by a key that is not in it. What was written
-- before there were any is in the clear until `clear` is gone from here.

CREATE TABLE vault_keys (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    state TEXT COLLATE "C" NOT NULL,
    wrapped TEXT COLLATE "C" NOT NULL,
    wrapped_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX vault_keys_present ON vault_keys (state) WHERE state = 'present';
