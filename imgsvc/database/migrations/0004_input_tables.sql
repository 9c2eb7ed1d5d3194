-- The uploaded table is stored completely, so that it can be returned with only its image URLs replaced.
-- Requests without a layout were made before this migration, which stored too little for that.
ALTER TABLE requests ADD COLUMN name TEXT; -- display name
ALTER TABLE requests ADD COLUMN search_name TEXT; -- the name without differences of case and of Unicode form
ALTER TABLE requests ADD COLUMN layout TEXT;
ALTER TABLE requests ADD COLUMN encoding TEXT; -- a Python codec, NULL for .xlsx
ALTER TABLE requests ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0; -- rows left out, not counted in products
ALTER TABLE requests ADD COLUMN error_count INTEGER NOT NULL DEFAULT 0; -- errors of these rows

ALTER TABLE request_columns ADD COLUMN delimiter TEXT; -- NULL for .xlsx
ALTER TABLE request_columns ADD COLUMN has_mark INTEGER NOT NULL DEFAULT 0; -- byte-order mark
ALTER TABLE request_columns ADD COLUMN rows_above TEXT; -- records above the header, as JSON

ALTER TABLE products ADD COLUMN first_position INTEGER NOT NULL DEFAULT 1; -- of its first image in its group
ALTER TABLE products ADD COLUMN source TEXT; -- cells that name and URLs do not rebuild, as JSON
ALTER TABLE products ADD COLUMN cells TEXT; -- the whole record of a skipped row, as JSON
ALTER TABLE products ADD COLUMN errors TEXT; -- the errors of a skipped row, as JSON
CREATE INDEX products_skipped ON products (request_key, number) WHERE errors IS NOT NULL;

DROP VIEW ProcessImage;
-- One row per product, to read with the sqlite3 shell. Outputs are public file names.
CREATE VIEW ProcessImage (productName, inputImageUrls, outputImageUrls, requestId, status) AS
SELECT
  p.product_name,
  (SELECT group_concat(url, ',') FROM (
    SELECT url FROM images
    WHERE request_key = p.request_key AND number >= p.first_image
      AND number < p.first_image + p.image_count
    ORDER BY number)),
  (SELECT group_concat(name, ',') FROM (
    SELECT coalesce(lower(hex(i.token)) || substr(f.name, instr(f.name, '.')), '') AS name
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
