-- The hosts that images of a request wait for: after a failed attempt, or until the host's circuit closes.
-- Triggers keep the counts, because most changes of an image's status may change them.
ALTER TABLE requests ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0; -- sum of `count` of its hosts
CREATE TABLE waiting_hosts (
  request_key INTEGER NOT NULL,
  host_key INTEGER NOT NULL,
  host TEXT NOT NULL, -- as in failures
  code TEXT NOT NULL, -- the latest error
  message TEXT NOT NULL,
  retrying INTEGER NOT NULL, -- images that wait for another attempt
  unfinished INTEGER NOT NULL DEFAULT 0, -- unfinished images; until `counted`, only changes of their number
  counted INTEGER NOT NULL DEFAULT 0, -- 1 if the circuit has been open
  probe_at REAL, -- the next probe; NULL: the circuit is closed
  count INTEGER GENERATED ALWAYS AS (iif(probe_at IS NULL, retrying, unfinished)) VIRTUAL,
  PRIMARY KEY (request_key, host_key)
) WITHOUT ROWID;
CREATE INDEX waiting_hosts_by_count ON waiting_hosts (request_key, count) WHERE count > 0;
CREATE INDEX waiting_hosts_open ON waiting_hosts (host_key) WHERE probe_at IS NOT NULL;

CREATE TRIGGER images_count_waiting AFTER UPDATE OF status, not_before ON images
WHEN OLD.not_before > 0 OR NEW.not_before > 0
  OR (OLD.status IN ('pending', 'processing')) <> (NEW.status IN ('pending', 'processing'))
BEGIN
  UPDATE waiting_hosts SET
    retrying = retrying + (NEW.status = 'pending' AND NEW.not_before > 0)
      - (OLD.status = 'pending' AND OLD.not_before > 0),
    unfinished = unfinished + (NEW.status IN ('pending', 'processing'))
      - (OLD.status IN ('pending', 'processing'))
  WHERE request_key = NEW.request_key AND host_key = NEW.host_key;
END;
CREATE TRIGGER waiting_hosts_count_new AFTER INSERT ON waiting_hosts WHEN NEW.count <> 0
BEGIN
  UPDATE requests SET waiting = waiting + NEW.count WHERE key = NEW.request_key;
END;
CREATE TRIGGER waiting_hosts_count AFTER UPDATE ON waiting_hosts WHEN NEW.count <> OLD.count
BEGIN
  UPDATE requests SET waiting = waiting + NEW.count - OLD.count WHERE key = NEW.request_key;
END;

-- The hosts whose images a user has cancelled. Their rows are deleted when the request finishes.
CREATE TABLE cancelled_hosts (
  request_key INTEGER NOT NULL,
  host_key INTEGER NOT NULL,
  PRIMARY KEY (request_key, host_key)
) WITHOUT ROWID;

-- `retrying` is 2 if cancelled images are retried too.
DROP INDEX requests_retrying;
CREATE INDEX requests_retrying ON requests (key) WHERE retrying > 0;
CREATE INDEX images_cancelled ON images (request_key) WHERE status = 'cancelled';
