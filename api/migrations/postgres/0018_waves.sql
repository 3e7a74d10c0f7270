-- Orders of which some devices go first, and what became of those.
CREATE TABLE first_waves (
    order_id UUID NOT NULL PRIMARY KEY REFERENCES orders (id),
    size BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    why TEXT COLLATE "C"
);
CREATE INDEX first_waves_running ON first_waves (order_id) WHERE state = 'running';
CREATE INDEX commands_behind ON commands (order_id) WHERE state = 'awaiting_wave';
DROP INDEX commands_ending;
CREATE INDEX commands_ending ON commands (expires_at)
    WHERE state IN ('awaiting_approval', 'awaiting_wave', 'queued', 'sent');
