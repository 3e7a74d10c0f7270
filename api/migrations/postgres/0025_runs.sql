-- The latest run of a device's agent that was heard of in its present boot, in microseconds since that boot.

ALTER TABLE devices ADD COLUMN run_started_us BIGINT;
ALTER TABLE devices ADD COLUMN run_at_us BIGINT;
