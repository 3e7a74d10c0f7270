-- The first shape of the store. Plain SQL on purpose: times are milliseconds since the Unix
-- epoch, identifiers are 16-byte UUIDv7, JSON is text. Partial indexes, ON CONFLICT and
-- RETURNING are understood by SQLite and PostgreSQL alike.

CREATE TABLE events (
    seq BIGINT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    payload TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE INDEX events_by_subject ON events (subject, seq);

CREATE TABLE operators (
    name TEXT NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    id BLOB NOT NULL PRIMARY KEY,
    operator TEXT NOT NULL REFERENCES operators (name),
    label TEXT NOT NULL,
    secret_hash BLOB NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE idempotency (
    principal TEXT NOT NULL,
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    status BIGINT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (principal, route, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE trust_roots (
    version BIGINT NOT NULL PRIMARY KEY,
    signed TEXT NOT NULL,
    root TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE devices (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    key_id TEXT NOT NULL UNIQUE,
    public_key BLOB NOT NULL,
    generation BIGINT NOT NULL,
    revoked_through BIGINT NOT NULL DEFAULT 0,
    certificate_expires_at BIGINT NOT NULL,
    enrolled_at BIGINT NOT NULL,
    revoked_at BIGINT,
    trust_version BIGINT NOT NULL DEFAULT 0,
    agent_version TEXT,
    boot_id BLOB,
    capabilities TEXT NOT NULL DEFAULT '[]',
    degraded_since BIGINT,
    last_seen_at BIGINT
);
CREATE INDEX devices_by_name ON devices (name);
CREATE INDEX devices_revoked ON devices (id) WHERE revoked_through > 0;

CREATE TABLE device_groups (
    device_id BLOB NOT NULL REFERENCES devices (id),
    group_name TEXT NOT NULL,
    PRIMARY KEY (device_id, group_name)
);
CREATE INDEX device_groups_by_group ON device_groups (group_name, device_id);

CREATE TABLE enrollment_tokens (
    id BLOB NOT NULL PRIMARY KEY,
    secret_hash BLOB NOT NULL UNIQUE,
    group_name TEXT,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    used_by BLOB REFERENCES devices (id)
);

CREATE TABLE orders (
    id BLOB NOT NULL PRIMARY KEY,
    operator TEXT NOT NULL,
    verb TEXT NOT NULL,
    manifest TEXT NOT NULL,
    reason TEXT,
    device_count BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE TABLE commands (
    id BLOB NOT NULL PRIMARY KEY,
    order_id BLOB NOT NULL REFERENCES orders (id),
    device_id BLOB NOT NULL REFERENCES devices (id),
    generation BIGINT NOT NULL,
    verb TEXT NOT NULL,
    lane TEXT NOT NULL,
    approvals_needed BIGINT NOT NULL,
    proof TEXT NOT NULL,
    state TEXT NOT NULL,
    seq BIGINT,
    envelope TEXT,
    envelope_sha256 TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    queued_at BIGINT,
    sent_at BIGINT,
    sends BIGINT NOT NULL DEFAULT 0,
    redeliver_at BIGINT,
    acked_at BIGINT,
    running_at BIGINT,
    stage TEXT,
    finished_at BIGINT,
    receipt TEXT,
    outcome TEXT,
    ended_by TEXT,
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
    device_id BLOB NOT NULL REFERENCES devices (id),
    generation BIGINT NOT NULL,
    lane TEXT NOT NULL,
    last_seq BIGINT NOT NULL,
    PRIMARY KEY (device_id, generation, lane)
);

CREATE TABLE approvals (
    order_id BLOB NOT NULL REFERENCES orders (id),
    person TEXT NOT NULL,
    jws TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (order_id, person)
);
