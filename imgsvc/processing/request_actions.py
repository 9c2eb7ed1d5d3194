"""Actions of users on their requests: cancel, retry, delete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from imgsvc.database.connection import DatabaseUnavailableError
from imgsvc.database.job_store import JobStore
from imgsvc.database.request_store import RequestStore
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.processing.events import Events
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.maintenance import Maintenance
from imgsvc.processing.results import ResultWriter
from imgsvc.processing.scheduler import Scheduler
from imgsvc.storage.base import StoreClaimedError

log = logging.getLogger(__name__)


class RequestActions:
    """Carries out users' actions.

    One commit marks the request, then the action runs in slices, so that a million images block no
    other writer. If the process ends in between, the next start continues. Callers that wait at that
    moment get a `ProblemError` UNAVAILABLE.
    """

    def __init__(
        self,
        job_store: JobStore,
        request_store: RequestStore,
        scheduler: Scheduler,
        maintenance: Maintenance,
        *,
        results: ResultWriter,
        events: Events,
        limits: ProcessingLimits,
    ) -> None:
        self._job_store = job_store
        self._request_store = request_store
        self._scheduler = scheduler
        self._maintenance = maintenance
        self._results = results
        self._events = events
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def cancel(self, request_id: str, host: str | None = None) -> None:
        """Cancel the request's pending images and its downloads. Images at a worker are completed.

        With `host`, a host name or `host:port`, cancel only images of this host. Raise `ProblemError`
        if the id is unknown, or if none of these images is unfinished.
        """
        await self._run_to_end(self._start_cancel(request_id, host))

    async def retry(self, request_id: str, *, include_cancelled: bool = False) -> None:
        """Make the failed images of a finished request pending again, and perhaps the cancelled ones.

        Raise `ProblemError` if the id is unknown, the request has not finished, or there are none.
        """
        await self._run_to_end(self._retry(request_id, include_cancelled=include_cancelled))

    async def delete(self, request_id: str) -> None:
        """Delete a finished request, and its files that no other request uses.

        Raise `ProblemError` if the id is unknown or the request has not finished.
        """
        await self._run_to_end(self._delete(request_id))

    async def resume(self) -> None:
        """Continue the cancellations that an earlier process has started."""
        for request_key in await self._job_store.cancelling():
            await self._cancel(request_key)

    async def close(self) -> None:
        """Interrupt running actions and refuse new ones. The next start continues them."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _start_cancel(self, request_id: str, host: str | None) -> None:
        if host is None:
            request_key = await self._job_store.start_cancel(request_id)
        else:
            request_key = await self._job_store.start_cancel_host(request_id, host)
        await self._scheduler.cancel_downloads(request_key, host)
        await self._cancel(request_key)

    async def _retry(self, request_id: str, *, include_cancelled: bool) -> None:
        request = await self._job_store.retry_failed(
            request_id, include_cancelled=include_cancelled
        )
        self._events.mark_changed([request.key])
        self._scheduler.wake()

    async def _delete(self, request_id: str) -> None:
        request_key = await self._request_store.mark_deleting(request_id)
        self._events.mark_changed([request_key])
        try:
            # The request is deleted, and the rest may belong to another one. It is deleted later.
            if await self._maintenance.purge():
                self._maintenance.wake()
        except (OSError, DatabaseUnavailableError, StoreClaimedError) as error:
            log.warning("outputs could not be deleted; retrying: %s", error)
            self._maintenance.wake()

    async def _cancel(self, request_key: int) -> None:
        limit = self._limits.cancel_slice
        more = True
        while more:
            try:
                more, result = await self._job_store.cancel_slice(request_key, limit)
            except DatabaseUnavailableError as error:
                log.warning("cancelling waits for the database: %s", error)
                await asyncio.sleep(self._limits.cancel_retry_seconds)
            else:
                self._results.publish(result)

    async def _run_to_end(self, action: Coroutine[object, object, None]) -> None:
        """Run an action to its end, even if the caller is cancelled, for example before its commit."""
        task = asyncio.create_task(action)
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
                "The service is stopping. If the action has started, it continues at the next start.",
            ) from None
