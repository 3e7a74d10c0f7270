-- Credentials that devices put into force once they are held here: sealed, and read with a reason.

CREATE TABLE escrows (
    id UUID NOT NULL PRIMARY KEY,
    command_id UUID NOT NULL,
    device_id UUID NOT NULL,
    generation BIGINT NOT NULL,
    sealed_sha256 TEXT COLLATE "C" NOT NULL,
    subjects TEXT COLLATE "C" NOT NULL,
    recovery_key TEXT COLLATE "C" NOT NULL,
    jws TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    received_at BIGINT NOT NULL,
    UNIQUE (command_id, sealed_sha256)
);

CREATE INDEX escrows_of_device ON escrows (device_id);
