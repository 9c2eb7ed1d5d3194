"""Webhooks that are to be sent, and what became of them."""

from __future__ import annotations

from imgsvc.database.connection import Database
from imgsvc.models import Delivery


class Deliveries:
    """The webhooks that finished requests have left. Their rows are written by `Work`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, now: float, limit: int) -> list[Delivery]:
        """Give at most `limit` deliveries that are due, the longest due first."""
        raise NotImplementedError

    async def next_due(self, after: float) -> float | None:
        """Give the earliest time after `after` at which a delivery is due."""
        raise NotImplementedError

    async def delivered(self, delivery_id: str) -> None:
        """Note that the receiver has taken it."""
        raise NotImplementedError

    async def failed_attempt(self, delivery_id: str, error: str, next_at: float | None) -> None:
        """Note that an attempt failed; `next_at` is the time of the next, None if there is none."""
        raise NotImplementedError
