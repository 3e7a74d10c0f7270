-- How far the stage of a command has come, as its device told last: kept as it is now, and no event.
ALTER TABLE commands ADD COLUMN advance TEXT;
