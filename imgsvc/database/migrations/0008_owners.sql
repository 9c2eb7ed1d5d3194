-- The name of the API key that made a request. NULL: made without keys, or by version 1.0.
-- `idempotency_key` is unique per owner: if there is one, it is OWNER, a line feed, and the key.
ALTER TABLE requests ADD COLUMN owner TEXT;
CREATE INDEX requests_by_owner ON requests (owner, created_at, key)
  WHERE stage = 'accepted' AND owner IS NOT NULL;

-- The sessions of the web page.
CREATE TABLE sessions (
  token_hash BLOB PRIMARY KEY, -- SHA-256 of the cookie's value
  key_hash BLOB NOT NULL, -- hash of the API key that signed in
  created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_by_key ON sessions (key_hash, created_at);
