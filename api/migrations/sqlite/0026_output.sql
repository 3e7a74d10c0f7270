-- What a script has said last while it runs, as its device told: sealed, kept with the advance and no longer.
ALTER TABLE commands ADD COLUMN output TEXT;
