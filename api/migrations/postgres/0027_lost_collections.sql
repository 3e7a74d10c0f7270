-- When a device said that what it collected is gone before all of it was here.
ALTER TABLE collections ADD COLUMN lost_at BIGINT;
