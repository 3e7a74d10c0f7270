-- What a device proved of a command before its end: signed, and kept beside the receipt.
ALTER TABLE commands ADD COLUMN stage_proof TEXT COLLATE "C";
