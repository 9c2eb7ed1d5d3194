"""Remembers the time, to find out at the next start whether the clock is ahead."""

from __future__ import annotations

import sqlite3

from imgsvc.database.connection import Database
from imgsvc.models import SECONDS_PER_DAY

MAX_AHEAD_SECONDS = float(SECONDS_PER_DAY)
"""A clock that is further ahead of the last check is not trusted."""
TRUSTED_AFTER_SECONDS = float(SECONDS_PER_DAY)
"""How long the service runs with such a clock until the clock is trusted."""


class ClockStore:
    """The time of the last check at which the clock was trusted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, now: float, elapsed: float) -> bool:
        """Return whether the clock is trusted, and remember the time if it is.

        `now` is in Unix seconds, `elapsed` the seconds since the last check of this process. A new
        database trusts any clock. A clock that was set back is trusted: it makes nothing expire.
        """
        return await self._database.write(lambda c: _check(c, now, elapsed), durable=False)


def _check(c: sqlite3.Connection, now: float, elapsed: float) -> bool:
    seen_at, ahead_seconds = c.execute("SELECT seen_at, ahead_seconds FROM clock").fetchone()
    ahead_seconds += elapsed
    if (
        seen_at is None
        or now - seen_at <= MAX_AHEAD_SECONDS
        or ahead_seconds >= TRUSTED_AFTER_SECONDS
    ):
        c.execute("UPDATE clock SET seen_at = ?, ahead_seconds = 0", (now,))
        return True
    c.execute("UPDATE clock SET ahead_seconds = ?", (ahead_seconds,))
    return False
