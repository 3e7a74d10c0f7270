-- How far the event chain went, signed; and how far each sink of the audit log has it.

CREATE TABLE checkpoints (
    number BIGINT NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    jws TEXT COLLATE "C" NOT NULL
);

CREATE TABLE sinks (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL
);
