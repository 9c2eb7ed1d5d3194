"""The tokens of outputs: their derivation, and their reservations by jobs and for deletion.

docs/explanation/decisions/0013-output-tokens-from-content.md shows the states of a token.
"""

from __future__ import annotations

import hmac
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from imgsvc.image_types import ENCODER_REVISION, EXTENSIONS, CompressionSettings
from imgsvc.models import SECONDS_PER_DAY

TOKEN_BYTES = 16
SECRET_BYTES = 32


def output_token(secret: bytes, source_digest: bytes, settings: CompressionSettings) -> bytes:
    """Return the token of the output of a source with this SHA-256 under these settings."""
    message = source_digest + f"{settings} {ENCODER_REVISION}".encode()
    return hmac.digest(secret, message, "sha256")[:TOKEN_BYTES]


def ensure_secret(c: sqlite3.Connection) -> None:
    """Create the secret and the database's id, unless they exist."""
    if c.execute("SELECT 1 FROM instance").fetchone() is None:
        c.execute(
            "INSERT INTO instance (key, secret, database_id) VALUES (1, ?, ?)",
            (secrets.token_bytes(SECRET_BYTES), secrets.token_hex(16)),
        )


def secret(c: sqlite3.Connection) -> bytes:
    """Return the secret of the instance."""
    value: bytes = c.execute("SELECT secret FROM instance").fetchone()[0]
    return value


def set_secret(c: sqlite3.Connection, value: bytes) -> None:
    """Replace the secret of the instance. Existing outputs keep their tokens."""
    c.execute("UPDATE instance SET secret = ?", (value,))


def claimant(c: sqlite3.Connection) -> tuple[str, str | None]:
    """Return the database's id, and the name of one of its outputs or None, to claim a store with."""
    row = c.execute("SELECT database_id, (SELECT name FROM files LIMIT 1) FROM instance").fetchone()
    return row[0], row[1]


# --- reservations of jobs ------------------------------------------------------------------------


class Content(NamedTuple):
    """A source, the settings to compress it with, and the claim of the job that needs its output."""

    claim_id: int
    source_digest: bytes
    settings: CompressionSettings


class Reservation(NamedTuple):
    """The result of a try to reserve a token.

    `stored`: the output exists already, so nothing is reserved. `deleting`: the output is being
    deleted; the job has to wait. With neither, the token is reserved for the job.
    """

    token: bytes
    stored: bool = False
    deleting: bool = False


def reserve(c: sqlite3.Connection, contents: Iterable[Content]) -> list[Reservation]:
    """Reserve the token of each content for its claim."""
    key = secret(c)
    return [
        _reserve(c, content.claim_id, output_token(key, content.source_digest, content.settings))
        for content in contents
    ]


def _reserve(c: sqlite3.Connection, claim_id: int, token: bytes) -> Reservation:
    if c.execute("SELECT 1 FROM files WHERE token = ?", (token,)).fetchone():
        return Reservation(token, stored=True)
    reserved = c.execute(
        "INSERT INTO reservations VALUES (?, ?) "
        "ON CONFLICT (token) DO UPDATE SET claim = excluded.claim WHERE claim IS NOT NULL",
        (token, claim_id),
    ).rowcount
    return Reservation(token, deleting=not reserved)


def release(c: sqlite3.Connection, claim_id: int, *, stored: bool) -> None:
    """Release the token that a job has reserved, if any.

    Unless its output is `stored`, mark the names that the output may have: the store may have a part.
    After a restore, the output may be older than the job, and in use: reconciliation decides later.
    """
    stored = stored or restored_recently(c, time.time())
    for (token,) in c.execute(
        "DELETE FROM reservations WHERE claim = ? RETURNING token", (claim_id,)
    ).fetchall():
        if not stored:
            _mark_all_names(c, token)


def recover(c: sqlite3.Connection) -> None:
    """Turn the reservations of an earlier process into marks. Record whether this is a restore.

    After a restore, drop both: they are older than the outputs, which may be in use. Reconciliation
    finds what is unused.
    """
    if record_restore(c):
        c.execute("DELETE FROM pending_deletions")
    if restored_recently(c, time.time()):
        c.execute("DELETE FROM reservations")
        return
    for (token,) in c.execute("DELETE FROM reservations RETURNING token").fetchall():
        _mark_all_names(c, token)


# --- deletion ------------------------------------------------------------------------------------


def mark(c: sqlite3.Connection, name: str, token: bytes | None) -> None:
    """Mark a stored output for deletion. `token` is None for an output of version 1.0."""
    c.execute("INSERT OR IGNORE INTO pending_deletions VALUES (?, ?)", (name, token))


def _mark_all_names(c: sqlite3.Connection, token: bytes) -> None:
    for extension in EXTENSIONS.values():
        mark(c, f"{token.hex()}.{extension}", token)


def begin_deletion(c: sqlite3.Connection, limit: int, after: str) -> tuple[list[str], str | None]:
    """Reserve at most `limit` marked outputs whose names follow `after` for deletion.

    Return their names, in order, and the last name that was examined, or None if no more may follow.
    Marks of outputs that are stored again are removed. Outputs that a job has reserved are left out.
    Outputs that are reserved already are returned again.
    """
    rows = c.execute(
        "SELECT p.name, p.token, "
        "EXISTS (SELECT 1 FROM files f WHERE f.token = p.token AND f.name = p.name) "
        "FROM pending_deletions p WHERE NOT EXISTS (SELECT 1 FROM reservations r "
        "WHERE r.token = p.token AND r.claim IS NOT NULL) AND p.name > ? ORDER BY p.name LIMIT ?",
        (after, limit),
    ).fetchall()
    names = [name for name, _, stored in rows if not stored]
    _remove_marks(c, [name for name, _, stored in rows if stored])
    c.executemany(
        "INSERT OR IGNORE INTO reservations VALUES (?, NULL)",
        [(token,) for _, token, stored in rows if token is not None and not stored],
    )
    return names, rows[-1][0] if len(rows) == limit else None


def end_deletion(c: sqlite3.Connection, deleted: Sequence[str]) -> None:
    """Remove the reservations for deletion, and the marks of the outputs that have been deleted."""
    _remove_marks(c, deleted)
    c.execute("DELETE FROM reservations WHERE claim IS NULL")


def _remove_marks(c: sqlite3.Connection, names: Sequence[str]) -> None:
    c.executemany("DELETE FROM pending_deletions WHERE name = ?", [(name,) for name in names])


# --- reconciliation ------------------------------------------------------------------------------

RESTORE_GRACE_SECONDS = 30 * SECONDS_PER_DAY
"""How long unused outputs are kept after a restore: links to outputs may be newer than the database."""


def unused(c: sqlite3.Connection, names: Iterable[str]) -> list[str]:
    """Return the names of outputs that no image uses, no job has reserved, and nothing has marked."""
    return [name for name in names if c.execute(_IS_USED, _parameters(name)).fetchone() is None]


_IS_USED = """
SELECT 1 FROM files WHERE token = :token AND name = :name
UNION ALL SELECT 1 FROM files INDEXED BY files_of_1_0 WHERE token IS NULL AND name = :name
UNION ALL SELECT 1 FROM reservations WHERE token = :token
UNION ALL SELECT 1 FROM pending_deletions WHERE name = :name
"""


def _parameters(name: str) -> dict[str, object]:
    return {"name": name, "token": bytes.fromhex(name.partition(".")[0])}


def mark_unused(c: sqlite3.Connection, names: Sequence[str]) -> None:
    """Mark outputs for deletion, except those that are used now."""
    for name in unused(c, names):
        token = bytes.fromhex(name.partition(".")[0])
        mark(c, name, token if len(token) == TOKEN_BYTES else None)


def record_restore(c: sqlite3.Connection) -> bool:
    """Record the time if this database is a backup that is started for the first time.

    Return whether it is.
    """
    # A clock that is behind must not shorten the time for which unused outputs are kept.
    sql = (
        "UPDATE instance SET is_backup = 0, "
        "restored_at = max(?, coalesce((SELECT seen_at FROM clock), 0)) WHERE is_backup = 1"
    )
    return c.execute(sql, (time.time(),)).rowcount > 0


def restored_recently(c: sqlite3.Connection, now: float) -> bool:
    """Return whether this database is a backup that was restored in the 30 days before `now`."""
    (restored_at,) = c.execute("SELECT restored_at FROM instance").fetchone()
    return restored_at is not None and now < restored_at + RESTORE_GRACE_SECONDS
