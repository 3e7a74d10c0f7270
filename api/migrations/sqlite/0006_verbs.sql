-- The script that an order names by its hash, for the envelopes that carry it to devices.
ALTER TABLE orders ADD COLUMN script TEXT;
