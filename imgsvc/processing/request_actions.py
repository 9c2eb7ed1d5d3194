"""What a user may do to a request that is under way or done: cancel, retry, delete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable

from imgsvc.database.connection import DatabaseUnavailableError
from imgsvc.database.job_store import JobStore
from imgsvc.database.request_store import RequestStore
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.processing.maintenance import Maintenance
from imgsvc.processing.scheduler import Scheduler

log = logging.getLogger(__name__)

CANCEL_SLICE = 2_000
DATABASE_RETRY_SECONDS = 5.0
"""How long cancelling rests while the database takes no write."""


class RequestActions:
    """Carries out users' wishes. Each is marked by one commit and then done in slices, so that a
    million images hold up nobody, and goes on at the next start if the process ends in between: who
    waits for it is told so, by a `ProblemError` UNAVAILABLE.
    """

    def __init__(
        self,
        work: JobStore,
        uploads: RequestStore,
        queue: Scheduler,
        housekeeping: Maintenance,
        *,
        mark_changed: Callable[[Iterable[int]], None],
    ) -> None:
        self._work = work
        self._uploads = uploads
        self._queue = queue
        self._housekeeping = housekeeping
        self._mark_changed = mark_changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def cancel(self, request_id: str) -> None:
        """Cancel what waits and what is being downloaded; raise `ProblemError` where that is too late."""
        await self._own(self._begin_cancel(request_id))

    async def retry(self, request_id: str) -> None:
        """Let the failed images of a finished request wait again; raise `ProblemError` if none can."""
        await self._own(self._retry(request_id))

    async def delete(self, request_id: str) -> None:
        """Remove a finished request, and its files that no other uses; raise `ProblemError` if not."""
        await self._own(self._delete(request_id))

    async def resume(self) -> None:
        """Go on with what an earlier process was asked to do."""
        for request_key in await self._work.cancelling():
            await self._cancel(request_key)

    async def close(self) -> None:
        """Let go of what is under way, and begin no more; the next start goes on with it."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _begin_cancel(self, request_id: str) -> None:
        await self._cancel(await self._work.start_cancel(request_id))

    async def _retry(self, request_id: str) -> None:
        request = await self._work.retry_failed(request_id)
        self._mark_changed([request.key])
        self._queue.wake()

    async def _delete(self, request_id: str) -> None:
        request_key = await self._uploads.mark_deleting(request_id)
        self._mark_changed([request_key])
        await self._housekeeping.purge()

    async def _cancel(self, request_key: int) -> None:
        await self._queue.cancel_downloads(request_key)
        more = True
        while more:
            try:
                more, result = await self._work.cancel_slice(request_key, CANCEL_SLICE)
            except DatabaseUnavailableError as error:
                log.warning("cancelling waits for the database: %s", error)
                await asyncio.sleep(DATABASE_RETRY_SECONDS)
            else:
                await self._queue.publish(result)

    async def _own(self, work: Coroutine[object, object, None]) -> None:
        """Do work to its end, its first commit included, even if the caller goes away."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._closed:
            task.cancel()
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise ProblemError(
                ProblemCode.UNAVAILABLE,
                "The service is stopping. What it has begun goes on at its next start.",
            ) from None
