"""Stores webhooks to send, and the results of delivery attempts."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections import Counter
from itertools import starmap

from imgsvc.database.connection import Database
from imgsvc.database.mappers import storable
from imgsvc.models import Delivery
from imgsvc.urls import host_url_of

MAX_SCANNED = 2_000
"""Maximum number of due deliveries that are scanned for different receivers: a few milliseconds."""


class WebhookStore:
    """The webhooks of finished requests. `JobStore` creates their rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(
        self, now: float, limit: int, *, per_receiver: int | None = None
    ) -> list[Delivery]:
        """Return at most `limit` deliveries that are due, the longest due first.

        `per_receiver` is the maximum number for each receiver (scheme, host and port).
        """

        def query(c: sqlite3.Connection) -> list[Delivery]:
            found = c.execute(
                "SELECT d.delivery_id, d.request_key, r.request_id, d.url, d.body, d.attempts "
                "FROM deliveries d INDEXED BY deliveries_due "
                "JOIN requests r ON r.key = d.request_key "
                "WHERE d.status = 'pending' AND d.next_at <= ? AND r.stage = 'accepted' "
                "ORDER BY d.next_at LIMIT ?",
                (now, MAX_SCANNED),
            )
            due: list[Delivery] = []
            counts: Counter[str] = Counter()
            for delivery in starmap(Delivery, found):
                receiver = host_url_of(delivery.url)
                counts[receiver] += 1
                if per_receiver is None or counts[receiver] <= per_receiver:
                    due.append(delivery)
                if len(due) == limit:
                    break
            return due

        return await self._database.read(query)

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
