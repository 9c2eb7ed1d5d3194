"""What is no longer needed goes: old requests, deleted ones, uploads that came to nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from imgsvc.config import StorageConfig
from imgsvc.database.request_store import RequestStore
from imgsvc.storage.filesystem import FilesystemStore

log = logging.getLogger(__name__)

LOOK_SECONDS = 600.0
SHORTEST_LOOK_SECONDS = 1.0
RETRY_SECONDS = 5.0
SLICE = 2_000
DAY = 86_400.0


class Maintenance:
    """Removes in small steps; each can be interrupted anywhere and is taken up at the next start.

    A file's name is noted in the commit that removes its last user, and forgotten once it is deleted.
    """

    def __init__(
        self, uploads: RequestStore, files: FilesystemStore, config: StorageConfig
    ) -> None:
        self._uploads = uploads
        self._files = files
        self._config = config
        self._look_seconds = _look_seconds(config.retention_days * DAY)
        self._wake = asyncio.Event()
        self._purging = asyncio.Lock()

    def wake(self) -> None:
        """Say that there is something to remove."""
        self._wake.set()

    async def run(self) -> None:
        """Remove what is not needed for as long as the service runs."""
        pause = 0.0
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._expire()
                await self.purge()
                pause = self._look_seconds
            except Exception:
                log.exception("cleaning up failed; trying again")
                pause = RETRY_SECONDS

    async def purge(self) -> None:
        """Remove all that is marked for it: rows in slices, then the files that nobody needs."""
        async with self._purging:
            await self._delete(await self._uploads.pending_deletions())
            more = True
            while more:
                purged = await self._uploads.purge_slice(SLICE)
                await self._delete(purged.orphaned_files)
                more = purged.more

    async def delete_orphans(self, names: Sequence[str]) -> None:
        """Delete stored files that no row ever named."""
        await self._files.delete(names)

    async def _delete(self, names: Sequence[str]) -> None:
        if names:
            await self._files.delete(names)
            await self._uploads.confirm_deletions(names)

    async def _expire(self) -> None:
        days = self._config.retention_days
        if days:
            count = await self._uploads.hide_expired(time.time() - days * DAY)
            if count:
                log.info("requests are past their retention", extra={"count": count})


def _look_seconds(retention: float) -> float:
    """How often to look for requests past their retention: none outlives it by more than a tenth."""
    return (
        max(SHORTEST_LOOK_SECONDS, min(LOOK_SECONDS, retention / 10)) if retention else LOOK_SECONDS
    )
