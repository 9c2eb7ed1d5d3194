"""What a user may do to a request that is under way or done: cancel, retry, delete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable

from imgsvc.database.connection import DatabaseUnavailable
from imgsvc.database.uploads import Uploads
from imgsvc.database.work import Work
from imgsvc.errors import Refusal, RefusalCode
from imgsvc.processing.housekeeping import Housekeeping
from imgsvc.processing.queue import ProcessQueue

log = logging.getLogger(__name__)

CANCEL_SLICE = 2_000
REST_SECONDS = 5.0
"""How long cancelling rests while the database takes no write."""


class Control:
    """Carries out users' wishes. Each is marked by one commit and then done in slices, so that a
    million images hold up nobody, and goes on at the next start if the process ends in between: who
    waits for it is told so, by a `Refusal` UNAVAILABLE.
    """

    def __init__(
        self,
        work: Work,
        uploads: Uploads,
        queue: ProcessQueue,
        housekeeping: Housekeeping,
        *,
        touch: Callable[[Iterable[int]], None],
    ) -> None:
        self._work = work
        self._uploads = uploads
        self._queue = queue
        self._housekeeping = housekeeping
        self._touch = touch
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def cancel(self, request_id: str) -> None:
        """Cancel what waits and what is being downloaded; raise `Refusal` where that is too late."""
        await self._own(self._begin_cancel(request_id))

    async def retry(self, request_id: str) -> None:
        """Let the failed images of a finished request wait again; raise `Refusal` if none can."""
        await self._own(self._retry(request_id))

    async def delete(self, request_id: str) -> None:
        """Remove a finished request, and its files that no other uses; raise `Refusal` if not."""
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
        await self._cancel(await self._work.begin_cancel(request_id))

    async def _retry(self, request_id: str) -> None:
        request = await self._work.retry_failed(request_id)
        self._touch([request.key])
        self._queue.wake()

    async def _delete(self, request_id: str) -> None:
        request_key = await self._uploads.mark_deleting(request_id)
        self._touch([request_key])
        await self._housekeeping.purge()

    async def _cancel(self, request_key: int) -> None:
        await self._queue.abandon(request_key)
        more = True
        while more:
            try:
                more, result = await self._work.cancel_slice(request_key, CANCEL_SLICE)
            except DatabaseUnavailable as error:
                log.warning("cancelling waits for the database: %s", error)
                await asyncio.sleep(REST_SECONDS)
            else:
                await self._queue.tell(result)

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
            raise Refusal(
                RefusalCode.UNAVAILABLE,
                "The service is stopping. What it has begun goes on at its next start.",
            ) from None
