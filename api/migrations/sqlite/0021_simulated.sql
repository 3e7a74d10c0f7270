-- Whether a token is for a device that acts on nothing, and whether a device was enrolled by such a one.

ALTER TABLE enrollment_tokens ADD COLUMN simulated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN simulated BIGINT NOT NULL DEFAULT 0;
