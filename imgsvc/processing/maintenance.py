"""Cleanup: removes requests past their retention, deleted requests and abandoned uploads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from imgsvc.config import StorageConfig
from imgsvc.database.request_store import RequestStore
from imgsvc.database.token_store import TokenStore
from imgsvc.models import SECONDS_PER_DAY
from imgsvc.processing.clock import ExpiryClock
from imgsvc.storage.base import ImageStore, StorageUnavailableError, StoreClaimedError
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
        clock: ExpiryClock,
        limits: MaintenanceLimits = MaintenanceLimits(),
    ) -> None:
        self._request_store = request_store
        self._token_store = token_store
        self._store = store
        self._thumbnails = thumbnails
        self._config = config
        self._clock = clock
        self._limits = limits
        self._interval_seconds = _interval_seconds(config.retention_days * SECONDS_PER_DAY)
        self._wake = asyncio.Event()
        self._purging = asyncio.Lock()

    def wake(self) -> None:
        """Start a cleanup now: there is something to remove."""
        self._wake.set()

    async def run(self) -> None:
        """Clean up at intervals and when woken, for as long as the service runs."""
        pause, failures = 0.0, 0
        while True:
            await wait_for_event(self._wake, pause)
            self._wake.clear()
            try:
                await self._request_store.discard_remaining()
                await self._expire()
                not_deleted = await self.purge()
            except StoreClaimedError:
                raise  # the service stops
            except Exception:
                log.exception("cleanup failed; retrying")
                pause = self._limits.retry_seconds
                continue
            failures = failures + 1 if not_deleted else 0
            pause = self._interval_seconds
            if failures:
                pause = min(pause, self._limits.retry_seconds * 2.0 ** min(failures, 32))

    async def purge(self) -> int:
        """Remove everything marked for deletion: rows, and then outputs, both in slices.

        Return the number of outputs that could not be deleted. They stay marked.
        """
        async with self._purging:
            limit = self._limits.purge_slice
            while await self._request_store.purge_slice(limit):
                pass
            not_deleted, after = 0, ""
            while True:
                names, last = await self._token_store.begin_deletion(limit, after)
                not_deleted += len(names) - await self._delete_outputs(names)
                if last is None:
                    return not_deleted
                after = last

    async def _delete_outputs(self, names: Sequence[str]) -> int:
        """Delete outputs that are reserved for deletion. Return the number of those deleted."""
        if not names:
            return 0
        deleted: list[str] = []
        try:
            try:
                await self._thumbnails.delete(names)
                await self._store.delete(names)
                deleted += names
            except OSError:
                await self._delete_each(names, deleted)
            except StorageUnavailableError as error:
                _log_not_deleted(len(names), error)
        finally:
            await self._token_store.end_deletion(deleted)
        return len(deleted)

    async def _delete_each(self, names: Sequence[str], deleted: list[str]) -> None:
        """Delete outputs one by one, so that one that cannot be deleted keeps no others."""
        error: OSError | None = None
        for name in names:
            try:
                await self._thumbnails.delete([name])
                await self._store.delete([name])
                deleted.append(name)
            except OSError as cause:
                error = cause
        if error is not None:
            _log_not_deleted(len(names) - len(deleted), error)

    async def _expire(self) -> None:
        now, days = await self._clock.now(), self._config.retention_days
        if now is not None and days:
            count = await self._request_store.hide_expired(now - days * SECONDS_PER_DAY)
            if count:
                log.info("requests have passed their retention period", extra={"count": count})


def _log_not_deleted(count: int, error: Exception) -> None:
    log.error(
        "outputs could not be deleted; retrying later",
        extra={"outputs": count, "error": str(error)},
    )


def _interval_seconds(retention: float) -> float:
    """Return the cleanup interval for a retention in seconds (0: requests are kept).

    A tenth of the retention, within the limits above: requests are removed at most that much late.
    """
    if not retention:
        return MAX_CLEANUP_INTERVAL_SECONDS
    return max(MIN_CLEANUP_INTERVAL_SECONDS, min(MAX_CLEANUP_INTERVAL_SECONDS, retention / 10))
