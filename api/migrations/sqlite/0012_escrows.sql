-- Credentials that devices put into force once they are held here: sealed, and read with a reason.

CREATE TABLE escrows (
    id BLOB NOT NULL PRIMARY KEY,
    command_id BLOB NOT NULL,
    device_id BLOB NOT NULL,
    generation BIGINT NOT NULL,
    sealed_sha256 TEXT NOT NULL,
    subjects TEXT NOT NULL,
    recovery_key TEXT NOT NULL,
    jws TEXT NOT NULL,
    state TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    UNIQUE (command_id, sealed_sha256)
);

CREATE INDEX escrows_of_device ON escrows (device_id);
