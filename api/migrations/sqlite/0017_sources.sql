-- The networks from which an enrollment token may be used: as JSON; none: from anywhere.

ALTER TABLE enrollment_tokens ADD COLUMN sources TEXT;
