"""Cleanup: removes requests past their retention, deleted requests and abandoned uploads."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from imgsvc.config import StorageConfig
from imgsvc.database.request_store import RequestStore
from imgsvc.database.token_store import TokenStore
from imgsvc.models import SECONDS_PER_DAY
from imgsvc.storage.base import ImageStore
from imgsvc.storage.thumbnail_cache import ThumbnailCache
from imgsvc.waiting import wait_for_event

log = logging.getLogger(__name__)

MAX_CLEANUP_INTERVAL_SECONDS = 600.0
MIN_CLEANUP_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class MaintenanceLimits:
    """The limits of the cleanup."""

    retry_seconds: float = 5.0
    """Delay before a failed cleanup is repeated."""
    purge_slice: int = 2_000
    """Rows deleted in one transaction, so that cleanup does not block other writers for long."""


class Maintenance:
    """Removes data in small steps. It may be interrupted anywhere: the next start continues.

    The commit that removes the last user of an output marks the output's name. The output is deleted
    later, under a reservation that keeps jobs from storing it again at the same time.
    """

    def __init__(
        self,
        request_store: RequestStore,
        token_store: TokenStore,
        store: ImageStore,
        thumbnails: ThumbnailCache,
        config: StorageConfig,
        *,
        limits: MaintenanceLimits = MaintenanceLimits(),
    ) -> None:
        self._request_store = request_store
        self._token_store = token_store
        self._store = store
        self._thumbnails = thumbnails
        self._config = config
        self._limits = limits
        self._interval_seconds = _interval_seconds(config.retention_days * SECONDS_PER_DAY)
        self._wake = asyncio.Event()
        self._purging = asyncio.Lock()

    def wake(self) -> None:
        """Start a cleanup now: there is something to remove."""
        self._wake.set()

    async def run(self) -> None:
        """Clean up at intervals and when woken, for as long as the service runs."""
        pause = 0.0
        while True:
            await wait_for_event(self._wake, pause)
            self._wake.clear()
            try:
                await self._expire()
                await self.purge()
                pause = self._interval_seconds
            except Exception:
                log.exception("cleanup failed; retrying")
                pause = self._limits.retry_seconds

    async def purge(self) -> None:
        """Remove everything marked for deletion: rows, and then outputs, both in slices."""
        async with self._purging:
            limit = self._limits.purge_slice
            while await self._request_store.purge_slice(limit):
                pass
            while await self._delete_outputs(limit):
                pass

    async def _delete_outputs(self, limit: int) -> bool:
        """Delete at most `limit` marked outputs. Return whether there may be more."""
        names, more = await self._token_store.begin_deletion(limit)
        if names:
            try:
                await self._store.delete(names)
                await self._thumbnails.delete(names)
            except Exception:
                await self._token_store.end_deletion([])
                raise
            await self._token_store.end_deletion(names)
        return more

    async def _expire(self) -> None:
        days = self._config.retention_days
        if days:
            count = await self._request_store.hide_expired(time.time() - days * SECONDS_PER_DAY)
            if count:
                log.info("requests have passed their retention period", extra={"count": count})


def _interval_seconds(retention: float) -> float:
    """Return the cleanup interval for a retention in seconds (0: requests are kept).

    A tenth of the retention, within the limits above: requests are removed at most that much late.
    """
    if not retention:
        return MAX_CLEANUP_INTERVAL_SECONDS
    return max(MIN_CLEANUP_INTERVAL_SECONDS, min(MAX_CLEANUP_INTERVAL_SECONDS, retention / 10))
