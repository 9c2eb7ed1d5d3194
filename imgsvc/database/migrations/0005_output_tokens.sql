-- Outputs are named by their content, under a secret of the instance.
CREATE TABLE instance (
  key INTEGER PRIMARY KEY CHECK (key = 1),
  secret BLOB NOT NULL,
  is_backup INTEGER NOT NULL DEFAULT 0, -- 1: a copy that has not been started yet
  restored_at REAL -- when such a copy was started
);

-- The tokens that jobs store under, and those that are being deleted.
CREATE TABLE reservations (
  token BLOB PRIMARY KEY,
  claim INTEGER UNIQUE -- of the job; NULL: reserved for deletion
) WITHOUT ROWID;

-- The names of outputs to delete. An output may be stored again meanwhile. `token` is NULL if 1.0 has
-- stored it: its names never recur.
CREATE TABLE new_pending_deletions (
  name TEXT PRIMARY KEY,
  token BLOB
) WITHOUT ROWID;
INSERT INTO new_pending_deletions SELECT name, NULL FROM pending_deletions;
DROP TABLE pending_deletions;
ALTER TABLE new_pending_deletions RENAME TO pending_deletions;

-- 1.0 stored under a token of the image. Whatever it has left of an image in progress is deleted.
INSERT OR IGNORE INTO pending_deletions
SELECT lower(hex(token)) || value, NULL
FROM images INDEXED BY images_in_flight
JOIN json_each('[".jpg", ".webp", ".avif", ".png", ".gif", ".heic"]')
WHERE status = 'processing' AND images.token IS NOT NULL;
UPDATE images SET token = NULL WHERE status = 'processing' AND token IS NOT NULL;
DROP INDEX images_public;
CREATE INDEX images_public ON images (token) WHERE token IS NOT NULL;

-- A stored output. `token` is NULL if 1.0 has stored it: then each of its images has its own token, and no
-- other image uses it.
DROP VIEW ProcessImage; -- 0007 creates it again
CREATE TABLE new_files (
  key INTEGER PRIMARY KEY,
  token BLOB UNIQUE,
  name TEXT NOT NULL,
  source_digest BLOB NOT NULL,
  input_bytes INTEGER NOT NULL,
  output_bytes INTEGER NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  input_format TEXT NOT NULL,
  output_format TEXT NOT NULL,
  source_quality INTEGER,
  quality INTEGER,
  kept INTEGER NOT NULL,
  digest BLOB -- SHA-256 of the output; NULL if 1.0 has stored it
);
INSERT INTO new_files
SELECT key, NULL, name, source_digest, input_bytes, output_bytes, width, height, input_format,
  output_format, source_quality, quality, kept, NULL FROM files;
DROP TABLE files;
ALTER TABLE new_files RENAME TO files;
CREATE INDEX files_of_1_0 ON files (name) WHERE token IS NULL;
-- A part of the digest suffices to find the few rows of a source, and saves space.
CREATE INDEX files_by_source ON files (substr(source_digest, 1, 8));

-- What is remembered of each source URL, while an output of its source exists.
CREATE TABLE sources (
  url_key BLOB PRIMARY KEY, -- hash of the URL as it is fetched
  digest BLOB NOT NULL, -- SHA-256 of the source
  etag TEXT,
  last_modified TEXT,
  sent_by BLOB -- url_key of the URL that sent them, if a redirect led to it
) WITHOUT ROWID;
CREATE INDEX sources_by_digest ON sources (substr(digest, 1, 8));
CREATE TABLE forgotten_sources (digest BLOB PRIMARY KEY) WITHOUT ROWID;

ALTER TABLE requests ADD COLUMN fresh INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN not_modified INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN same_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN same_url INTEGER NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN reused TEXT;
