"""Deletes requests in slices, and marks the outputs that are no longer needed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from imgsvc.database import source_memory, tokens
from imgsvc.database.mappers import find
from imgsvc.errors import ProblemCode, ProblemError


def mark_deleting(c: sqlite3.Connection, request_id: str) -> int:
    """Hide a finished request permanently. Return its key."""
    key, finished_at = find(c, "key, finished_at", request_id)
    if finished_at is None:
        raise ProblemError(
            ProblemCode.NOT_FINISHED,
            "The request has not finished yet. Wait until it has, or cancel it, before you delete it.",
        )
    hide(c, [key])
    return int(key)


def hide(c: sqlite3.Connection, request_keys: Sequence[int]) -> None:
    """Hide requests and release their idempotency keys. `purge` deletes the rows later."""
    c.executemany(
        "UPDATE requests SET stage = 'deleting', idempotency_key = NULL, version = version + 1 "
        "WHERE key = ?",
        [(key,) for key in request_keys],
    )


def hide_expired(c: sqlite3.Connection, before: float, limit: int) -> int:
    """Hide at most `limit` requests that finished before `before`. Return their number."""
    keys = c.execute(
        "SELECT key FROM requests WHERE stage = 'accepted' AND finished_at IS NOT NULL "
        "AND finished_at < ? LIMIT ?",
        (before, limit),
    ).fetchall()
    hide(c, [key for (key,) in keys])
    return len(keys)


def purge(c: sqlite3.Connection, limit: int) -> bool:
    """Delete at most about `limit` rows of hidden requests. Return whether rows may be left.

    Outputs that no image uses any more are marked for deletion, and their sources are forgotten.
    """
    remaining = limit - source_memory.forget(c, limit)
    while remaining > 0:
        row = c.execute(
            "SELECT key FROM requests INDEXED BY requests_hidden "
            "WHERE stage <> 'accepted' AND stage = 'deleting' ORDER BY key LIMIT 1"
        ).fetchone()
        if row is None:
            return remaining < limit
        remaining -= _purge_request(c, row[0], remaining)
    return True


def _purge_request(c: sqlite3.Connection, key: int, limit: int) -> int:
    """Delete at most about `limit` rows of a request, its own row last. Return their number."""
    deleted_rows = _purge_images(c, key, limit)
    for sql in _OTHER_ROWS:
        if deleted_rows >= limit:
            return deleted_rows
        deleted_rows += c.execute(sql, (key, limit - deleted_rows)).rowcount
    if deleted_rows >= limit:
        return deleted_rows
    c.execute("DELETE FROM deliveries WHERE request_key = ?", (key,))
    c.execute("DELETE FROM request_columns WHERE request_key = ?", (key,))
    c.execute("DELETE FROM requests WHERE key = ?", (key,))
    return deleted_rows + 1


_OTHER_ROWS = (
    (
        "DELETE FROM products WHERE (request_key, number) IN "
        "(SELECT request_key, number FROM products WHERE request_key = ? LIMIT ?)"
    ),
    (
        "DELETE FROM failures WHERE (request_key, host, code) IN "
        "(SELECT request_key, host, code FROM failures WHERE request_key = ? LIMIT ?)"
    ),
    (
        "DELETE FROM waiting_hosts WHERE (request_key, host_key) IN "
        "(SELECT request_key, host_key FROM waiting_hosts WHERE request_key = ? LIMIT ?)"
    ),
)


def _purge_images(c: sqlite3.Connection, key: int, limit: int) -> int:
    rows = c.execute(
        "SELECT number, file_key FROM images WHERE request_key = ? ORDER BY number LIMIT ?",
        (key, limit),
    ).fetchall()
    if not rows:
        return 0
    c.execute(
        "DELETE FROM images WHERE request_key = ? AND number BETWEEN ? AND ?",
        (key, rows[0][0], rows[-1][0]),
    )
    for file_key in {file_key for _, file_key in rows if file_key is not None}:
        deleted = c.execute(
            "DELETE FROM files WHERE key = ? "
            "AND NOT EXISTS (SELECT 1 FROM images WHERE file_key = ?) "
            "RETURNING name, token, source_digest",
            (file_key, file_key),
        ).fetchall()
        for name, token, source_digest in deleted:
            tokens.mark(c, name, token)
            source_memory.note_deletion(c, source_digest)
    return len(rows)
