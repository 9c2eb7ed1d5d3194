-- Tables and columns get the standard term for what they hold. No row changes.
ALTER TABLE doomed RENAME TO pending_deletions;
ALTER TABLE headers RENAME TO request_columns;
ALTER TABLE images RENAME COLUMN origin_key TO host_key;
ALTER TABLE requests RENAME COLUMN repeats TO duplicate_urls;
-- An index cannot be renamed. This one covers only images with a url_key: duplicates.
DROP INDEX images_repeats;
CREATE INDEX images_duplicates ON images (request_key, url_key) WHERE url_key IS NOT NULL;
