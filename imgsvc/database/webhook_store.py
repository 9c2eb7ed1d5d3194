"""Webhooks that are to be sent, and what became of them."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections import Counter
from itertools import starmap

from imgsvc.database.connection import Database
from imgsvc.database.index_keys import host_url_of
from imgsvc.database.mappers import storable
from imgsvc.models import Delivery

LOOKED_AT = 2_000
"""Deliveries that are looked at for some to as many receivers as possible: some milliseconds."""


class WebhookStore:
    """The webhooks that finished requests have left. Their rows are written by `JobStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, now: float, limit: int, *, for_one: int | None = None) -> list[Delivery]:
        """Give at most `limit` deliveries that are due, the longest due first.

        `for_one`: of those to one receiver, its scheme, host and port, at most so many.
        """

        def work(c: sqlite3.Connection) -> list[Delivery]:
            found = c.execute(
                "SELECT d.delivery_id, d.request_key, r.request_id, d.url, d.body, d.attempts "
                "FROM deliveries d INDEXED BY deliveries_due "
                "JOIN requests r ON r.key = d.request_key "
                "WHERE d.status = 'pending' AND d.next_at <= ? AND r.stage = 'accepted' "
                "ORDER BY d.next_at LIMIT ?",
                (now, LOOKED_AT),
            )
            due: list[Delivery] = []
            counts: Counter[str] = Counter()
            for delivery in starmap(Delivery, found):
                receiver = host_url_of(delivery.url)
                counts[receiver] += 1
                if for_one is None or counts[receiver] <= for_one:
                    due.append(delivery)
                if len(due) == limit:
                    break
            return due

        return await self._database.read(work)

    async def next_due(self, after: float) -> float | None:
        """Give the earliest time after `after` at which a delivery is due."""

        def work(c: sqlite3.Connection) -> float | None:
            due: float | None = c.execute(
                "SELECT min(next_at) FROM deliveries INDEXED BY deliveries_due "
                "WHERE status = 'pending' AND next_at > ?",
                (after,),
            ).fetchone()[0]
            return due

        return await self._database.read(work)

    async def delivered(self, delivery_id: str) -> None:
        """Note that the receiver has taken it."""
        await self._commit(delivery_id, "status = 'delivered', last_error = NULL", ())

    async def failed_attempt(self, delivery_id: str, error: str, next_at: float | None) -> None:
        """Note that an attempt failed; `next_at` is the time of the next, None if there is none."""
        error = storable(error)
        if next_at is None:
            await self._commit(delivery_id, "status = 'failed', last_error = ?", (error,))
        else:
            await self._commit(delivery_id, "next_at = ?, last_error = ?", (next_at, error))

    async def _commit(self, delivery_id: str, values: str, parameters: tuple[object, ...]) -> None:
        """Note an attempt; one whose request was deleted, or retried, meanwhile is forgotten."""

        def work(c: sqlite3.Connection) -> None:
            committed = c.execute(
                f"UPDATE deliveries SET attempts = attempts + 1, {values} "
                "WHERE delivery_id = ? AND status = 'pending' RETURNING request_key",
                (*parameters, delivery_id),
            ).fetchall()
            c.executemany("UPDATE requests SET version = version + 1 WHERE key = ?", committed)

        await self._database.write(work)
