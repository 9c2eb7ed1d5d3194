-- Identifies this database and its backups in the marker of a bucket. The secret does not: two
-- instances may share it.
ALTER TABLE instance ADD COLUMN database_id TEXT NOT NULL DEFAULT '';
UPDATE instance SET database_id = lower(hex(randomblob(16)));
