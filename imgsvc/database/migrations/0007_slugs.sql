-- The readable part of an output's URL. NULL: the URL has none, because the image was completed before.
ALTER TABLE images ADD COLUMN slug TEXT;

-- The slug of each source URL, as long as an output of its source exists. So another name or order of
-- images does not change the URL of the same image.
CREATE TABLE source_slugs (
  url_key BLOB NOT NULL, -- hash of the URL as it is fetched
  owner TEXT NOT NULL DEFAULT '', -- '': none
  slug TEXT NOT NULL,
  digest_start BLOB NOT NULL, -- the first 8 bytes of the source's SHA-256
  PRIMARY KEY (url_key, owner)
) WITHOUT ROWID;
CREATE INDEX source_slugs_by_digest ON source_slugs (digest_start);

-- One row per product, for people who look with the sqlite3 shell. Outputs are the ends of their URLs.
CREATE VIEW ProcessImage (productName, inputImageUrls, outputImageUrls, requestId, status) AS
SELECT
  p.product_name,
  (SELECT group_concat(url, ',') FROM (
    SELECT url FROM images
    WHERE request_key = p.request_key AND number >= p.first_image
      AND number < p.first_image + p.image_count
    ORDER BY number)),
  (SELECT group_concat(name, ',') FROM (
    SELECT coalesce(
      lower(hex(coalesce(i.token, f.token))) || coalesce('/' || i.slug, '') || substr(f.name, instr(f.name, '.')), '') AS name
    FROM images i LEFT JOIN files f ON f.key = i.file_key
    WHERE i.request_key = p.request_key AND i.number >= p.first_image
      AND i.number < p.first_image + p.image_count
    ORDER BY i.number)),
  r.request_id,
  (SELECT CASE
      WHEN p.errors IS NOT NULL THEN 'skipped'
      WHEN total(status = 'processing') > 0 THEN 'processing'
      WHEN total(status = 'pending') > 0 THEN
        CASE WHEN total(status <> 'pending') > 0 THEN 'processing' ELSE 'pending' END
      WHEN total(status = 'cancelled') > 0 THEN 'cancelled'
      WHEN total(status = 'failed') = 0 THEN 'completed'
      WHEN total(status = 'completed') > 0 THEN 'partial'
      ELSE 'failed'
    END
    FROM images
    WHERE request_key = p.request_key AND number >= p.first_image
      AND number < p.first_image + p.image_count)
FROM requests r JOIN products p ON p.request_key = r.key
WHERE r.stage = 'accepted';
