-- Orders that somebody gave knowing that two machines hold the identity of a device.
ALTER TABLE orders ADD COLUMN accept_cloned BIGINT NOT NULL DEFAULT 0;
