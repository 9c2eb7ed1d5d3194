"""Stores the sessions of the web page, as hashes: a copy of the database holds no valid cookie."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Collection

from imgsvc.database.connection import Database

SESSION_SECONDS = 12 * 3_600
"""Time after which a session ends."""
CLOCK_TOLERANCE_SECONDS = 300
"""A session that is newer than the clock by more than this has ended: the clock was set back."""
MAX_SESSIONS_PER_KEY = 100
"""Maximum number of sessions of one API key. Another one ends the oldest."""


class SessionStore:
    """Creates, finds and ends sessions. A session belongs to an API key, named by its digest.

    Times are in Unix seconds.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, key_digest: bytes, now: float) -> str:
        """Create a session. Return its token, the value of the cookie."""
        token = secrets.token_urlsafe(32)
        row = (_token_hash(token), _hash(key_digest), now)

        def transaction(c: sqlite3.Connection) -> None:
            c.execute(
                "DELETE FROM sessions WHERE created_at NOT BETWEEN ? AND ?",
                (now - SESSION_SECONDS, now + CLOCK_TOLERANCE_SECONDS),
            )
            c.execute(
                "DELETE FROM sessions WHERE token_hash IN (SELECT token_hash FROM sessions "
                "WHERE key_hash = ? ORDER BY created_at DESC LIMIT -1 OFFSET ?)",
                (row[1], MAX_SESSIONS_PER_KEY - 1),
            )
            c.execute("INSERT INTO sessions VALUES (?, ?, ?)", row)

        await self._database.write(transaction)
        return token

    async def find(self, token: str, key_digests: Collection[bytes], now: float) -> bytes | None:
        """Return the digest of a session's key, one of `key_digests`. None: no such session."""
        row = await self._database.read(
            lambda c: c.execute(
                "SELECT key_hash FROM sessions WHERE token_hash = ? AND created_at BETWEEN ? AND ?",
                (_token_hash(token), now - SESSION_SECONDS, now + CLOCK_TOLERANCE_SECONDS),
            ).fetchone()
        )
        hashes = {_hash(digest): digest for digest in key_digests}
        return None if row is None else hashes.get(row[0])

    async def end(self, token: str) -> None:
        """End a session, if it exists."""
        await self._database.write(
            lambda c: (
                c.execute(
                    "DELETE FROM sessions WHERE token_hash = ?", (_token_hash(token),)
                ).rowcount
            )
        )

    async def recover(self, key_digests: Collection[bytes]) -> None:
        """End the sessions of keys that are not among `key_digests`. Call this at startup."""
        hashes = [_hash(digest) for digest in key_digests]

        def transaction(c: sqlite3.Connection) -> None:
            placeholders = ", ".join("?" * len(hashes))
            c.execute(f"DELETE FROM sessions WHERE key_hash NOT IN ({placeholders})", hashes)  # noqa: S608

        await self._database.write(transaction)


def _token_hash(token: str) -> bytes:
    return _hash(token.encode("utf-8", "surrogatepass"))


def _hash(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
