-- What a device may have to be told of again: also what it is said to have on disk, when its own
-- numbers say that it has not.
CREATE INDEX commands_out ON commands (device_id, generation, lane, seq)
    WHERE state IN ('queued', 'sent', 'acked', 'running');
