"""The gauges of unfinished work."""

from __future__ import annotations

import asyncio

from imgsvc.database.connection import DatabaseUnavailableError
from imgsvc.database.queries import Queries
from imgsvc.metrics import Metrics

BACKLOG_SECONDS = 2.0
"""Interval between two updates. `/metrics` never waits for the database, however large it is."""


class BacklogMonitor:
    """Reads the backlog from the database at intervals, and publishes it as metrics."""

    def __init__(
        self, queries: Queries, metrics: Metrics, interval_seconds: float = BACKLOG_SECONDS
    ) -> None:
        self._queries = queries
        self._metrics = metrics
        self._interval_seconds = interval_seconds

    async def watch(self) -> None:
        """Update the gauges for as long as the service runs."""
        while True:
            try:
                backlog = await self._queries.backlog()
            except DatabaseUnavailableError:
                pass  # the health monitor reports it
            else:
                self._metrics.requests_unfinished.set(backlog.requests)
                self._metrics.images_pending.set(backlog.pending)
                self._metrics.images_processing.set(backlog.processing)
                self._metrics.webhooks_pending.set(backlog.webhooks)
            await asyncio.sleep(self._interval_seconds)
