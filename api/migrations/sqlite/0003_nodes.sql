-- Several nodes on one store: which keys all of them have, and which of them does which job.

CREATE TABLE installation (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE job_leases (
    name TEXT NOT NULL PRIMARY KEY,
    node TEXT NOT NULL,
    holder BLOB NOT NULL,
    expires_at BIGINT NOT NULL
);
