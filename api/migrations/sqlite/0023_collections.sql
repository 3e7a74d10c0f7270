-- What devices collected beyond a first look: sealed to a case, in the chunks that their receipts name.

CREATE TABLE collections (
    command_id BLOB NOT NULL PRIMARY KEY,
    device_id BLOB NOT NULL,
    generation BIGINT NOT NULL,
    said TEXT NOT NULL,
    arrived BIGINT NOT NULL,
    arrived_bytes BIGINT NOT NULL,
    kept_until BIGINT NOT NULL,
    whole_at BIGINT
);

CREATE INDEX collections_by_end ON collections (kept_until);

CREATE TABLE chunks (
    command_id BLOB NOT NULL,
    number BIGINT NOT NULL,
    sha256 BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (command_id, number)
);
