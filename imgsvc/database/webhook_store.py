"""Stores webhooks to send, and the results of delivery attempts."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from itertools import starmap

from imgsvc.database.connection import Database
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.mappers import storable
from imgsvc.models import Delivery

_FIRST, _LAST = -(2**63), 2**63 - 1
"""The bounds of receiver keys."""


class WebhookStore:
    """The webhooks of finished requests. `JobStore` creates their rows."""

    def __init__(self, database: Database, limits: DatabaseLimits = DatabaseLimits()) -> None:
        self._database = database
        self._limits = limits
        self._last_receiver = _FIRST

    async def due(
        self,
        now: float,
        limit: int,
        free_slots_of: Callable[[int], int],
        *,
        longest_delay: float,
        excluded: Collection[str] = (),
    ) -> tuple[list[Delivery], bool]:
        """Return at most `limit` deliveries that are due, and whether more receivers may have some.

        Receivers take turns, over all calls. `free_slots_of(receiver_key)` returns how many deliveries
        of a receiver are wanted. It is called in another thread. `excluded` are ids of deliveries to
        leave out. A delivery that is due later than `longest_delay` from now was scheduled while the
        clock was ahead: it is due now.
        """

        def query(c: sqlite3.Connection) -> tuple[list[Delivery], int, bool]:
            found: list[Delivery] = []
            last, scanned = self._last_receiver, 0
            for begin, end in ((last, _LAST), (_FIRST, last)):
                receiver: int | None = begin
                while len(found) < limit and scanned < self._limits.receivers_per_read:
                    receiver = _next_receiver(c, receiver, end)
                    if receiver is None:
                        break
                    last, scanned = receiver, scanned + 1
                    count = min(free_slots_of(receiver), limit - len(found))
                    if count > 0:
                        times = {"now": now, "latest": now + longest_delay}
                        found += _due_of(c, receiver, count, times, excluded)
            complete = len(found) < limit and scanned < self._limits.receivers_per_read
            return found, last, not complete

        found, self._last_receiver, more = await self._database.read(query)
        return found, more

    async def next_due(self, after: float) -> float | None:
        """Return the earliest time after `after` when a delivery is due, or None."""

        def query(c: sqlite3.Connection) -> float | None:
            due: float | None = c.execute(
                "SELECT min(next_at) FROM deliveries INDEXED BY deliveries_due "
                "WHERE status = 'pending' AND next_at > ?",
                (after,),
            ).fetchone()[0]
            return due

        return await self._database.read(query)

    async def record_success(self, delivery_id: str) -> None:
        """Record that the receiver has accepted the webhook."""
        await self._record(delivery_id, "status = 'delivered', last_error = NULL", ())

    async def record_failure(self, delivery_id: str, error: str, next_at: float | None) -> None:
        """Record a failed attempt. `next_at` is the time of the next one, None if there is none."""
        error = storable(error)
        if next_at is None:
            await self._record(delivery_id, "status = 'failed', last_error = ?", (error,))
        else:
            await self._record(delivery_id, "next_at = ?, last_error = ?", (next_at, error))

    async def _record(self, delivery_id: str, values: str, parameters: tuple[object, ...]) -> None:
        """Record an attempt. Do nothing if its request was deleted or retried meanwhile."""

        def transaction(c: sqlite3.Connection) -> None:
            updated = c.execute(
                f"UPDATE deliveries SET attempts = attempts + 1, {values} "
                "WHERE delivery_id = ? AND status = 'pending' RETURNING request_key",
                (*parameters, delivery_id),
            ).fetchall()
            c.executemany("UPDATE requests SET version = version + 1 WHERE key = ?", updated)

        await self._database.write(transaction)


def _next_receiver(c: sqlite3.Connection, after: int | None, end: int) -> int | None:
    """Return the key of the next receiver with deliveries to send, at most `end`."""
    found: int | None = c.execute(
        "SELECT min(receiver_key) FROM deliveries INDEXED BY deliveries_by_receiver "
        "WHERE status = 'pending' AND receiver_key > ? AND receiver_key <= ?",
        (after, end),
    ).fetchone()[0]
    return found


def _due_of(
    c: sqlite3.Connection,
    receiver_key: int,
    count: int,
    times: dict[str, float],
    excluded: Collection[str],
) -> list[Delivery]:
    """Return at most `count` deliveries of a receiver that are due, the longest due first."""
    rows = c.execute(
        _DUE_OF_RECEIVER, {"receiver": receiver_key, "count": count + len(excluded), **times}
    ).fetchall()
    due = [d for d in starmap(Delivery, rows) if d.delivery_id not in excluded]
    return due[:count]


_DUE_OF_RECEIVER = " UNION ALL ".join(
    "SELECT * FROM (SELECT d.delivery_id, d.request_key, r.request_id, d.url, d.body, d.attempts "
    "FROM deliveries d INDEXED BY deliveries_by_receiver JOIN requests r ON r.key = d.request_key "
    f"WHERE d.status = 'pending' AND d.receiver_key = :receiver AND d.next_at {due} "
    "AND r.stage = 'accepted' ORDER BY d.next_at LIMIT :count)"
    for due in ("<= :now", "> :latest")
)
