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
