-- Who the subjects of a sign-in provider are here, and which id token was used for what.

CREATE TABLE identities (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    operator TEXT NOT NULL UNIQUE REFERENCES operators (name),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);

ALTER TABLE api_tokens ADD COLUMN id_token_hash BLOB;
CREATE UNIQUE INDEX api_tokens_id_token ON api_tokens (id_token_hash);
