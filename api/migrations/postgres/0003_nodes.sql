-- Several nodes on one store: which keys all of them have, and which of them does which job.

CREATE TABLE installation (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE job_leases (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    node TEXT COLLATE "C" NOT NULL,
    holder UUID NOT NULL,
    expires_at BIGINT NOT NULL
);
