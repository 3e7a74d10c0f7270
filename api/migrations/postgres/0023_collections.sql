-- What devices collected beyond a first look: sealed to a case, in the chunks that their receipts name.

CREATE TABLE collections (
    command_id UUID NOT NULL PRIMARY KEY,
    device_id UUID NOT NULL,
    generation BIGINT NOT NULL,
    said TEXT COLLATE "C" NOT NULL,
    arrived BIGINT NOT NULL,
    arrived_bytes BIGINT NOT NULL,
    kept_until BIGINT NOT NULL,
    whole_at BIGINT
);

CREATE INDEX collections_by_end ON collections (kept_until);

CREATE TABLE chunks (
    command_id UUID NOT NULL,
    number BIGINT NOT NULL,
    sha256 BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    PRIMARY KEY (command_id, number)
);
