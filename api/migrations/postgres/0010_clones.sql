-- The boots of a device, one after the other: one that comes back is of a second machine.

ALTER TABLE devices ADD COLUMN former_boot_id UUID;
ALTER TABLE devices ADD COLUMN boot_epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN cloned_at BIGINT;
