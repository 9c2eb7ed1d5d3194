-- A user's request. Only those of stage 'accepted' are ever visible; one in 'staging' is still being
-- uploaded, and one in 'deleting' is being removed, some rows at a time.
CREATE TABLE requests (
  key INTEGER PRIMARY KEY AUTOINCREMENT,
  request_id TEXT NOT NULL UNIQUE,
  stage TEXT NOT NULL DEFAULT 'staging' CHECK (stage IN ('staging', 'accepted', 'deleting')),
  created_at REAL NOT NULL,
  started_at REAL,
  finished_at REAL,
  retried_at REAL,
  -- The rate is measured from here: the first claim after the upload, a retry, or a start.
  measured_since REAL,
  measured_done INTEGER NOT NULL DEFAULT 0, -- the images that were done by then
  version INTEGER NOT NULL DEFAULT 1,
  products INTEGER NOT NULL DEFAULT 0,
  -- How many of its images are in which state: always what counting their rows would give.
  pending INTEGER NOT NULL DEFAULT 0 CHECK (pending >= 0),
  processing INTEGER NOT NULL DEFAULT 0 CHECK (processing >= 0),
  completed INTEGER NOT NULL DEFAULT 0 CHECK (completed >= 0),
  failed INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
  cancelled INTEGER NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
  input_bytes INTEGER NOT NULL DEFAULT 0,
  output_bytes INTEGER NOT NULL DEFAULT 0,
  repeats INTEGER NOT NULL DEFAULT 0, -- images with a url_key
  settings TEXT NOT NULL DEFAULT '',
  webhook_url TEXT,
  idempotency_key TEXT UNIQUE,
  fingerprint TEXT,
  cancelling INTEGER NOT NULL DEFAULT 0, -- its waiting images are being cancelled
  retrying INTEGER NOT NULL DEFAULT 0, -- its failed images are being made to wait again
  status TEXT GENERATED ALWAYS AS (
    CASE
      WHEN processing > 0 THEN 'processing'
      WHEN pending > 0 THEN
        CASE WHEN completed + failed + cancelled > 0 THEN 'processing' ELSE 'pending' END
      WHEN cancelled > 0 THEN 'cancelled'
      WHEN failed = 0 THEN 'completed'
      WHEN completed > 0 THEN 'partial'
      ELSE 'failed'
    END
  ) VIRTUAL
);
CREATE INDEX requests_claimable ON requests (key)
  WHERE stage = 'accepted' AND pending > 0 AND cancelling = 0 AND retrying = 0;
CREATE INDEX requests_unfinished ON requests (key, pending, processing)
  WHERE stage = 'accepted' AND finished_at IS NULL;
CREATE INDEX requests_finished ON requests (finished_at)
  WHERE stage = 'accepted' AND finished_at IS NOT NULL;
CREATE INDEX requests_newest ON requests (created_at, key) WHERE stage = 'accepted';
CREATE INDEX requests_by_status ON requests (status, created_at, key) WHERE stage = 'accepted';
CREATE INDEX requests_retrying ON requests (key) WHERE retrying = 1;
CREATE INDEX requests_hidden ON requests (stage, key) WHERE stage <> 'accepted';

-- The columns of a request's table, as JSON: apart, because they may be long and never change.
CREATE TABLE headers (
  request_key INTEGER PRIMARY KEY,
  columns TEXT NOT NULL
);

-- A row of a request's table. `extra` are the cells of its further columns, as JSON.
CREATE TABLE products (
  request_key INTEGER NOT NULL,
  number INTEGER NOT NULL,
  serial_number TEXT NOT NULL,
  product_name TEXT NOT NULL,
  extra TEXT,
  first_image INTEGER NOT NULL,
  image_count INTEGER NOT NULL,
  PRIMARY KEY (request_key, number)
) WITHOUT ROWID;

-- A place for an image in a row: a URL that stands twice in a table has two of them.
CREATE TABLE images (
  request_key INTEGER NOT NULL,
  number INTEGER NOT NULL, -- counts the images of the request
  product INTEGER NOT NULL, -- the number of its row
  url TEXT NOT NULL, -- as it was given
  fetch_url TEXT, -- as it is fetched, where that is different
  url_key INTEGER, -- hash of the URL as it is fetched, where an earlier image may have the same
  origin_key INTEGER NOT NULL, -- hash of scheme://host:port
  status TEXT NOT NULL DEFAULT 'pending', -- or processing, completed, failed, cancelled
  attempts INTEGER NOT NULL DEFAULT 0,
  not_before REAL NOT NULL DEFAULT 0, -- 0, or the time of the next try
  token BLOB, -- random: names the file of an image in flight, and the public URL of a completed one
  file_key INTEGER,
  error_code TEXT,
  error_message TEXT,
  PRIMARY KEY (request_key, number)
) WITHOUT ROWID;
CREATE INDEX images_waiting ON images (request_key, origin_key, not_before)
  WHERE status = 'pending';
CREATE INDEX images_repeats ON images (request_key, url_key) WHERE url_key IS NOT NULL;
CREATE INDEX images_due ON images (not_before) WHERE status = 'pending' AND not_before > 0;
CREATE INDEX images_in_flight ON images (request_key) WHERE status = 'processing';
CREATE INDEX images_failed ON images (request_key) WHERE status = 'failed';
CREATE INDEX images_public ON images (token) WHERE status = 'completed';
CREATE INDEX images_by_file ON images (file_key) WHERE file_key IS NOT NULL;

-- A stored output. Images with the same source bytes and settings share one.
CREATE TABLE files (
  key INTEGER PRIMARY KEY,
  name TEXT NOT NULL, -- random, and so never twice; found by what it is made of
  source_digest BLOB NOT NULL,
  settings TEXT NOT NULL,
  input_bytes INTEGER NOT NULL,
  output_bytes INTEGER NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  input_format TEXT NOT NULL,
  output_format TEXT NOT NULL,
  source_quality INTEGER,
  quality INTEGER,
  kept INTEGER NOT NULL,
  UNIQUE (source_digest, settings)
);

-- Stored outputs that no image needs, until their deletion is noted.
CREATE TABLE doomed (name TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE failures (
  request_key INTEGER NOT NULL,
  host TEXT NOT NULL,
  code TEXT NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (request_key, host, code)
) WITHOUT ROWID;
CREATE INDEX failures_by_count ON failures (request_key, count);

-- The webhook of a finished request.
CREATE TABLE deliveries (
  request_key INTEGER PRIMARY KEY,
  delivery_id TEXT NOT NULL UNIQUE,
  url TEXT NOT NULL,
  body TEXT NOT NULL,
  status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
  attempts INTEGER NOT NULL DEFAULT 0,
  next_at REAL NOT NULL,
  last_error TEXT
);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE status = 'pending';

-- Written now and then to see whether the database takes writes.
CREATE TABLE probe (key INTEGER PRIMARY KEY CHECK (key = 1), at REAL NOT NULL);

-- One row per product, for whoever looks with the sqlite3 shell. Outputs are public file names.
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
