"""What is remembered of each source URL, so that an unchanged source is not downloaded again.

A row is kept as long as an output of its source exists. Deleting an output only notes the digest of its
source: a source may have many URLs, whose rows are deleted in slices.
"""

from __future__ import annotations

import sqlite3

from imgsvc.database.tokens import output_token
from imgsvc.image_types import CompressionSettings
from imgsvc.models import Conditions, Validators
from imgsvc.slugs import make_slug
from imgsvc.urls import url_key

MAX_VALIDATOR_CHARACTERS = 100
"""A longer `ETag` or `Last-Modified` is not remembered. Usual ones have at most 70 characters."""


def conditions(
    c: sqlite3.Connection, secret: bytes, url: str, settings: CompressionSettings
) -> Conditions | None:
    """Return the conditions to fetch a URL with.

    Return None if nothing is remembered of it, or if its output under these settings does not exist.
    """
    key = url_key(url)
    row = c.execute(
        "SELECT digest, etag, last_modified, sent_by FROM sources WHERE url_key = ?", (key,)
    ).fetchone()
    if row is None:
        return None
    digest, etag, last_modified, sent_by = row
    token = output_token(secret, digest, settings)
    if c.execute("SELECT 1 FROM files WHERE token = ?", (token,)).fetchone() is None:
        return None
    return Conditions(digest, Validators(sent_by or key, etag, last_modified))


def remember(c: sqlite3.Connection, url: str, digest: bytes, validators: Validators) -> None:
    """Remember the digest and the validators of a source that has been downloaded from a URL."""
    key = url_key(url)
    etag, last_modified = _limited(validators.etag), _limited(validators.last_modified)
    if etag is None and last_modified is None:
        c.execute("DELETE FROM sources WHERE url_key = ?", (key,))
        return
    sent_by = None if validators.url_key == key else validators.url_key
    c.execute(
        "INSERT INTO sources (url_key, digest, etag, last_modified, sent_by) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (url_key) DO UPDATE SET digest = excluded.digest, etag = excluded.etag, "
        "last_modified = excluded.last_modified, sent_by = excluded.sent_by "
        "WHERE (digest, etag, last_modified, sent_by) IS NOT "
        "(excluded.digest, excluded.etag, excluded.last_modified, excluded.sent_by)",
        (key, digest, etag, last_modified, sent_by),
    )


def _limited(validator: str | None) -> str | None:
    return None if validator is None or len(validator) > MAX_VALIDATOR_CHARACTERS else validator


def slug_of(c: sqlite3.Connection, url: str, digest: bytes, image: tuple[int, int]) -> str:
    """Return the slug of a URL's output, and remember it while an output of the source exists.

    `digest` is the SHA-256 of the source. `image` is the key of a request and the number of an image in
    it. If its owner has no output of the URL, the slug is made from the image's product and position.
    """
    (owner,) = c.execute(
        "SELECT coalesce(owner, '') FROM requests WHERE key = ?", image[:1]
    ).fetchone()
    key, start = url_key(url), digest[:8]
    row = c.execute(
        "SELECT slug, digest_start FROM source_slugs WHERE url_key = ? AND owner = ?", (key, owner)
    ).fetchone()
    if row is None:
        name, position = c.execute(_NAME_AND_POSITION, image).fetchone()
        slug = make_slug(name, position)
        c.execute(
            "INSERT INTO source_slugs (url_key, owner, slug, digest_start) VALUES (?, ?, ?, ?)",
            (key, owner, slug, start),
        )
        return slug
    if row[1] != start:
        c.execute(
            "UPDATE source_slugs SET digest_start = ? WHERE url_key = ? AND owner = ?",
            (start, key, owner),
        )
    return str(row[0])


_NAME_AND_POSITION = """
SELECT p.product_name, p.first_position + i.number - p.first_image
FROM images i JOIN products p ON p.request_key = i.request_key AND p.number = i.product
WHERE i.request_key = ? AND i.number = ?
"""


def note_deletion(c: sqlite3.Connection, digest: bytes) -> None:
    """Record that an output of a source was deleted: maybe its last one."""
    c.execute("INSERT OR IGNORE INTO forgotten_sources VALUES (?)", (digest,))


def forget(c: sqlite3.Connection, limit: int) -> int:
    """Delete at most about `limit` rows of sources without any output. Return their number.

    The number is 0 only if nothing is left to delete.
    """
    count = 0
    while count < limit:
        row = c.execute("SELECT digest FROM forgotten_sources LIMIT 1").fetchone()
        if row is None:
            break
        deleted = 0
        for statement in (_FORGET_SLUGS, _FORGET):
            values = {"digest": row[0], "limit": limit - count - deleted}
            deleted += c.execute(statement, values).rowcount
        if count + deleted < limit:
            c.execute("DELETE FROM forgotten_sources WHERE digest = ?", row)
        count += deleted + 1
    return count


_FORGET = """
DELETE FROM sources WHERE url_key IN (
  SELECT url_key FROM sources INDEXED BY sources_by_digest
  WHERE substr(digest, 1, 8) = substr(:digest, 1, 8) AND digest = :digest
  AND NOT EXISTS (
    SELECT 1 FROM files INDEXED BY files_by_source
    WHERE substr(source_digest, 1, 8) = substr(:digest, 1, 8) AND source_digest = :digest
    AND token IS NOT NULL)
  LIMIT :limit)
"""
_FORGET_SLUGS = """
DELETE FROM source_slugs WHERE (url_key, owner) IN (
  SELECT url_key, owner FROM source_slugs INDEXED BY source_slugs_by_digest
  WHERE digest_start = substr(:digest, 1, 8)
  AND NOT EXISTS (
    SELECT 1 FROM files INDEXED BY files_by_source
    WHERE substr(source_digest, 1, 8) = substr(:digest, 1, 8) AND token IS NOT NULL)
  LIMIT :limit)
"""
