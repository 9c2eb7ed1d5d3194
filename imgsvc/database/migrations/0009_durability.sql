-- Marks the file as imgsvc's: "imgs" in ASCII. Databases of another program are refused.
PRAGMA application_id = 1768777587;

-- The last time at which the clock was trusted, and how long the service has run since, while the clock
-- was more than a day ahead of it. Nothing expires meanwhile.
CREATE TABLE clock (
  key INTEGER PRIMARY KEY CHECK (key = 1),
  seen_at REAL,
  ahead_seconds REAL NOT NULL DEFAULT 0
);
INSERT INTO clock (key, seen_at) SELECT 1, max(at) FROM (
  SELECT at FROM probe
  UNION ALL SELECT max(created_at) FROM requests
  UNION ALL SELECT max(finished_at) FROM requests
);

-- Receivers of webhooks take turns. `receiver_key` is the hash of a receiver's scheme://host:port.
ALTER TABLE deliveries ADD COLUMN receiver_key INTEGER NOT NULL DEFAULT 0;
UPDATE deliveries SET receiver_key = receiver_key_of(url);
CREATE INDEX deliveries_by_receiver ON deliveries (receiver_key, next_at) WHERE status = 'pending';
