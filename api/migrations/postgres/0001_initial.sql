-- The first shape of the store, for PostgreSQL: the same tables, columns and indexes as for
-- SQLite. Times are milliseconds since the Unix epoch, JSON is text. Texts compare by their bytes,
-- as in SQLite, so that pages have the same order in both.

CREATE TABLE events (
    seq BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    payload TEXT COLLATE "C" NOT NULL,
    prev_hash TEXT COLLATE "C" NOT NULL,
    hash TEXT COLLATE "C" NOT NULL
);
CREATE INDEX events_by_subject ON events (subject, seq);

CREATE TABLE operators (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    id UUID NOT NULL PRIMARY KEY,
    operator TEXT COLLATE "C" NOT NULL REFERENCES operators (name),
    label TEXT COLLATE "C" NOT NULL,
    secret_hash BYTEA NOT NULL UNIQUE,
    scopes TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE idempotency (
    principal TEXT COLLATE "C" NOT NULL,
    route TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    request_hash BYTEA NOT NULL,
    status BIGINT NOT NULL,
    body TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (principal, route, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE trust_roots (
    version BIGINT NOT NULL PRIMARY KEY,
    signed TEXT COLLATE "C" NOT NULL,
    root TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE devices (
    id UUID NOT NULL PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL UNIQUE,
    public_key BYTEA NOT NULL,
    generation BIGINT NOT NULL,
    revoked_through BIGINT NOT NULL DEFAULT 0,
    certificate_expires_at BIGINT NOT NULL,
    enrolled_at BIGINT NOT NULL,
    revoked_at BIGINT,
    trust_version BIGINT NOT NULL DEFAULT 0,
    agent_version TEXT COLLATE "C",
    boot_id UUID,
    capabilities TEXT COLLATE "C" NOT NULL DEFAULT '[]',
    degraded_since BIGINT,
    last_seen_at BIGINT
);
CREATE INDEX devices_by_name ON devices (name);
CREATE INDEX devices_revoked ON devices (id) WHERE revoked_through > 0;

CREATE TABLE device_groups (
    device_id UUID NOT NULL REFERENCES devices (id),
    group_name TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (device_id, group_name)
);
CREATE INDEX device_groups_by_group ON device_groups (group_name, device_id);

CREATE TABLE enrollment_tokens (
    id UUID NOT NULL PRIMARY KEY,
    secret_hash BYTEA NOT NULL UNIQUE,
    group_name TEXT COLLATE "C",
    created_by TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    used_by UUID REFERENCES devices (id)
);

CREATE TABLE orders (
    id UUID NOT NULL PRIMARY KEY,
    operator TEXT COLLATE "C" NOT NULL,
    verb TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C",
    device_count BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE TABLE commands (
    id UUID NOT NULL PRIMARY KEY,
    order_id UUID NOT NULL REFERENCES orders (id),
    device_id UUID NOT NULL REFERENCES devices (id),
    generation BIGINT NOT NULL,
    verb TEXT COLLATE "C" NOT NULL,
    lane TEXT COLLATE "C" NOT NULL,
    approvals_needed BIGINT NOT NULL,
    proof TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    seq BIGINT,
    envelope TEXT COLLATE "C",
    envelope_sha256 TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    queued_at BIGINT,
    sent_at BIGINT,
    sends BIGINT NOT NULL DEFAULT 0,
    redeliver_at BIGINT,
    acked_at BIGINT,
    running_at BIGINT,
    stage TEXT COLLATE "C",
    finished_at BIGINT,
    receipt TEXT COLLATE "C",
    outcome TEXT COLLATE "C",
    ended_by TEXT COLLATE "C",
    UNIQUE (order_id, device_id),
    UNIQUE (device_id, generation, lane, seq)
);
CREATE INDEX commands_undelivered ON commands (device_id, generation, lane, seq)
    WHERE state IN ('queued', 'sent');
CREATE INDEX commands_due ON commands (redeliver_at) WHERE state IN ('queued', 'sent');
CREATE INDEX commands_ending ON commands (expires_at)
    WHERE state IN ('awaiting_approval', 'queued', 'sent');
CREATE INDEX commands_by_device ON commands (device_id, id);

CREATE TABLE lane_seqs (
    device_id UUID NOT NULL REFERENCES devices (id),
    generation BIGINT NOT NULL,
    lane TEXT COLLATE "C" NOT NULL,
    last_seq BIGINT NOT NULL,
    PRIMARY KEY (device_id, generation, lane)
);

CREATE TABLE approvals (
    order_id UUID NOT NULL REFERENCES orders (id),
    person TEXT COLLATE "C" NOT NULL,
    jws TEXT COLLATE "C" NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (order_id, person)
);
