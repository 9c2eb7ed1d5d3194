"""Removing requests in slices, and the stored files that nobody needs any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from imgsvc.database.mappers import find
from imgsvc.errors import ProblemCode, ProblemError


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What a slice of removing has done.

    `names` are the stored files that no image needs any more; they are noted as doomed until
    `confirm_deletions`. `more` says that there is more to remove.
    """

    names: list[str]
    more: bool


def mark_deleting(c: sqlite3.Connection, request_id: str) -> int:
    """Hide a finished request for good."""
    key, finished_at = find(c, "key, finished_at", request_id)
    if finished_at is None:
        raise ProblemError(
            ProblemCode.NOT_FINISHED,
            "The request has not finished. Wait for its end, or cancel it, before deleting it.",
        )
    hide(c, [key])
    return int(key)


def hide(c: sqlite3.Connection, request_keys: Sequence[int]) -> None:
    """Take requests from sight, their idempotency keys free again; `purge` removes them."""
    c.executemany(
        "UPDATE requests SET stage = 'deleting', idempotency_key = NULL, version = version + 1 "
        "WHERE key = ?",
        [(key,) for key in request_keys],
    )


def hide_expired(c: sqlite3.Connection, before: float, limit: int) -> int:
    """Hide at most `limit` requests that finished before that time; give the number of them."""
    keys = c.execute(
        "SELECT key FROM requests WHERE stage = 'accepted' AND finished_at IS NOT NULL "
        "AND finished_at < ? LIMIT ?",
        (before, limit),
    ).fetchall()
    hide(c, [key for (key,) in keys])
    return len(keys)


def purge(c: sqlite3.Connection, limit: int) -> PurgeResult:
    """Remove at most about `limit` rows of hidden requests."""
    names: list[str] = []
    left = limit
    while left > 0:
        row = c.execute(
            "SELECT key FROM requests INDEXED BY requests_hidden "
            "WHERE stage <> 'accepted' AND stage = 'deleting' ORDER BY key LIMIT 1"
        ).fetchone()
        if row is None:
            return PurgeResult(names, more=False)
        left -= _purge_request(c, row[0], left, names)
    return PurgeResult(names, more=True)


def _purge_request(c: sqlite3.Connection, key: int, limit: int, names: list[str]) -> int:
    """Remove rows of one request, itself last of all; give the number of rows."""
    removed = _purge_images(c, key, limit, names)
    for sql in _OTHER_ROWS:
        if removed >= limit:
            return removed
        removed += c.execute(sql, (key, limit - removed)).rowcount
    if removed >= limit:
        return removed
    c.execute("DELETE FROM deliveries WHERE request_key = ?", (key,))
    c.execute("DELETE FROM request_columns WHERE request_key = ?", (key,))
    c.execute("DELETE FROM requests WHERE key = ?", (key,))
    return removed + 1


_OTHER_ROWS = (
    "DELETE FROM products WHERE (request_key, number) IN "
    "(SELECT request_key, number FROM products WHERE request_key = ? LIMIT ?)",
    "DELETE FROM failures WHERE (request_key, host, code) IN "
    "(SELECT request_key, host, code FROM failures WHERE request_key = ? LIMIT ?)",
)


def _purge_images(c: sqlite3.Connection, key: int, limit: int, names: list[str]) -> int:
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
            "AND NOT EXISTS (SELECT 1 FROM images WHERE file_key = ?) RETURNING name",
            (file_key, file_key),
        ).fetchall()
        for (name,) in deleted:
            c.execute("REPLACE INTO pending_deletions VALUES (?)", (name,))
            names.append(name)
    return len(rows)
