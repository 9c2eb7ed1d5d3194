"""Thumbnails: small versions of outputs, made on demand."""

from __future__ import annotations

import asyncio

from imgsvc.database.queries import Queries
from imgsvc.errors import ImageError, ProblemCode, ProblemError
from imgsvc.execution.base import ExecutionInterruptedError, Executor
from imgsvc.image_types import StoredFile
from imgsvc.storage.base import ImageStore
from imgsvc.storage.thumbnail_cache import ThumbnailCache

MAX_WAITING_THUMBNAILS = 64
"""Maximum number of thumbnails that are being made or wait for it."""
BUSY_RETRY_SECONDS = 2
"""`Retry-After` of a thumbnail that cannot be made now. A worker makes about 50 in a second."""


class Thumbnails:
    """Makes thumbnails and keeps them in a cache. Concurrent calls for one output share the work."""

    def __init__(
        self, queries: Queries, store: ImageStore, executor: Executor, cache: ThumbnailCache
    ) -> None:
        self._queries = queries
        self._store = store
        self._executor = executor
        self._cache = cache
        self._jobs: dict[str, asyncio.Task[bytes]] = {}
        # Outputs are read only when a worker is about to take them, so few are in memory.
        self._readers = asyncio.Semaphore(max(1, executor.workers))

    async def get(self, token: str, output: StoredFile) -> bytes:
        """Return the thumbnail of the output with this token, as WebP.

        Raise `ProblemError` if too many wait, if the service stops, or if the image has no thumbnail,
        or `FileNotFoundError` if the output is missing.
        """
        if output.name not in self._jobs:
            cached = await self._cache.read(output.name)
            if cached is not None:
                return cached
        job = self._jobs.get(output.name) or self._start(token, output)
        try:
            # The job continues if this call is cancelled: others may wait for it.
            return await asyncio.shield(job)
        except (ExecutionInterruptedError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not job.cancelled():
                raise
            raise _unavailable("The service is stopping. Try again later.") from None
        except ImageError as error:
            raise ProblemError(
                ProblemCode.NOT_FOUND, f"This image has no thumbnail. {error.message}"
            ) from None

    async def close(self) -> None:
        """Cancel the thumbnails that are being made."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    def _start(self, token: str, output: StoredFile) -> asyncio.Task[bytes]:
        if len(self._jobs) >= MAX_WAITING_THUMBNAILS:
            raise _unavailable("Too many thumbnails are being made. Try again later.")
        job = asyncio.create_task(self._make(token, output), name=f"thumbnail {output.name}")
        self._jobs[output.name] = job
        job.add_done_callback(lambda _: self._end(output.name, job))
        return job

    def _end(self, name: str, job: asyncio.Task[bytes]) -> None:
        del self._jobs[name]
        if not job.cancelled():
            job.exception()  # retrieved here, in case that all callers have disconnected

    async def _make(self, token: str, output: StoredFile) -> bytes:
        async with self._readers:
            data = await self._store.read(output.name, 0, output.info.output_bytes)
            thumbnail = await self._executor.make_thumbnail(data)
            del data
        await self._cache.put(output.name, thumbnail)
        if await self._queries.public_output(token) is None:  # deleted meanwhile
            await self._cache.delete([output.name])
        return thumbnail


def _unavailable(detail: str) -> ProblemError:
    return ProblemError(ProblemCode.UNAVAILABLE, detail, retry_after=BUSY_RETRY_SECONDS)
