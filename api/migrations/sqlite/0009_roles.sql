-- What a token was made as, how often it may ask, and when it last did.

ALTER TABLE api_tokens ADD COLUMN role TEXT;
ALTER TABLE api_tokens ADD COLUMN rate_per_min BIGINT;
ALTER TABLE api_tokens ADD COLUMN last_used_at BIGINT;
