-- The freeze that the brake orders with its lockdown: until when, and which devices have it already.
ALTER TABLE lockdowns ADD COLUMN freeze_until BIGINT;
ALTER TABLE lockdowns ADD COLUMN freeze_after UUID;
