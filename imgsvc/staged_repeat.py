"""One repetition of a request: stages a copy of its rows, and accepts it with other options."""

from __future__ import annotations

import asyncio

from imgsvc.database.request_store import RequestStore
from imgsvc.models import Request, RequestOptions


class StagedRepeat:
    """A copy of a request's rows, staged under a request that stays hidden until it is accepted.

    `owner` is the owner of the copy.
    """

    def __init__(self, request_store: RequestStore, source: Request, owner: str | None) -> None:
        self._request_store = request_store
        self._source = source
        self._begin_task = asyncio.create_task(request_store.begin(owner))

    async def stage(self) -> None:
        """Copy all rows. Raise `ProblemError` NOT_AVAILABLE if the source is deleted meanwhile."""
        # If this task is cancelled here, the request still begins, and its key is needed to discard it.
        request_key = await asyncio.shield(self._begin_task)
        while await self._request_store.copy_slice(self._source.key, request_key):
            pass

    async def discard(self) -> None:
        """Mark the copied rows for deletion."""
        await self._request_store.discard(await self._begin_task)

    async def accept(
        self,
        options: RequestOptions,
        idempotency: tuple[str, str] | None,
        *,
        max_waiting: int,
    ) -> Request:
        """Accept the new request with all its rows. `idempotency`: see `RequestStore.accept`."""
        return await self._request_store.accept(
            self._begin_task.result(),
            self._source.table,
            options,
            max_waiting=max_waiting,
            error_count=self._source.error_count,
            idempotency=idempotency,
        )
