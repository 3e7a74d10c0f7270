-- Second factors of people, and which tokens gave one a moment ago or are of nobody who could.

CREATE TABLE factors (
    operator TEXT NOT NULL PRIMARY KEY REFERENCES operators (name),
    secret TEXT,
    last_step BIGINT NOT NULL,
    confirmed_at BIGINT,
    pending TEXT,
    pending_ends BIGINT,
    pending_token BLOB,
    invitation_hash BLOB,
    invitation_ends BIGINT,
    failures BIGINT NOT NULL,
    locked_until BIGINT
);

ALTER TABLE api_tokens ADD COLUMN service BIGINT NOT NULL DEFAULT 0;
ALTER TABLE api_tokens ADD COLUMN stepped_up_until BIGINT;
UPDATE api_tokens SET service = 1 WHERE operator = 'admin' AND label = 'owner of the data folder';
