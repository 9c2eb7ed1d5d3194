"""Progress events: watchers of a request get its newest snapshot, never a backlog."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from imgsvc.database.queries import Queries
from imgsvc.errors import ProblemError
from imgsvc.models import Request
from imgsvc.waiting import wait_for_event

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 0.5
"""Minimum time between two snapshots of a running request. The end of a request is published at once.

One database read serves all watchers of a request.
"""


class Subscription:
    """An iterator over the snapshots of one request.

    It holds only the newest snapshot: a slow reader skips the ones before it.
    """

    def __init__(self, request: Request) -> None:
        self._newest: Request | None = request
        self._ended = request.finished_at is not None
        self._updated = asyncio.Event()
        self._updated.set()

    def offer(self, request: Request) -> None:
        """Replace the snapshot that the reader gets next. A finished request ends the iteration."""
        self._newest = request
        self._ended = request.finished_at is not None
        self._updated.set()

    def end(self) -> None:
        """End the iteration after the snapshot that has not been read yet, if there is one."""
        self._ended = True
        self._updated.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Request:
        while self._newest is None:
            if self._ended:
                raise StopAsyncIteration
            self._updated.clear()
            await self._updated.wait()
        request, self._newest = self._newest, None
        return request


class Events:
    """Publishes changes of requests to their watchers.

    The database holds the state: `mark_changed` only says which requests to read again. Requests
    without watchers are never read.
    """

    def __init__(self, queries: Queries, publish_seconds: float = PUBLISH_SECONDS) -> None:
        self._queries = queries
        self._publish_seconds = publish_seconds
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._watched: dict[int, str] = {}
        self._changed: set[int] = set()
        self._has_changes = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closed = False

    def mark_changed(self, request_keys: Iterable[int], *, urgent: bool = False) -> None:
        """Record that these requests have changed. If urgent, publish them without delay."""
        changed = self._watched.keys() & set(request_keys)
        if changed:
            self._changed |= changed
            self._has_changes.set()
            if urgent:
                self._urgent.set()

    @asynccontextmanager
    async def watch(self, request_id: str) -> AsyncIterator[Subscription]:
        """Subscribe to a request: its snapshot now and after each change, until it has finished.

        Raise `ProblemError` if the id is unknown.
        """
        request = await self._queries.request(request_id)
        subscription = Subscription(request)
        if self._closed:
            subscription.end()
        self._subscriptions.setdefault(request_id, set()).add(subscription)
        self._watched[request.key] = request_id
        # The request may have changed since it was read above: read it again.
        self.mark_changed([request.key])
        try:
            yield subscription
        finally:
            subscriptions = self._subscriptions[request_id]
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._subscriptions[request_id]
                del self._watched[request.key]

    async def wait_for_change(self, request_id: str, version: int | None, timeout: float) -> None:
        """Return when the request's version differs from `version`, it has finished, or time is up.

        If `version` is None, wait until the request has finished. `timeout` is in seconds.
        Raise `ProblemError` if the id is unknown.
        """
        try:
            async with asyncio.timeout(timeout), self.watch(request_id) as subscription:
                async for request in subscription:
                    if request.finished_at is not None:
                        return
                    if version is not None and request.version != version:
                        return
        except TimeoutError:
            return

    @property
    def watchers(self) -> int:
        """The number of open subscriptions."""
        return sum(map(len, self._subscriptions.values()))

    def close(self) -> None:
        """End all subscriptions, and those made later: the service is stopping."""
        self._closed = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.end()

    async def publish(self) -> None:
        """Publish snapshots of changed requests for as long as the service runs."""
        while True:
            await self._has_changes.wait()
            self._has_changes.clear()
            self._urgent.clear()
            changed, self._changed = self._changed, set()
            for key in changed:
                await self._publish_one(key)
            await wait_for_event(self._urgent, self._publish_seconds)

    async def _publish_one(self, key: int) -> None:
        request_id = self._watched.get(key)
        if request_id is None:
            return
        try:
            request = await self._queries.request(request_id)
        except ProblemError:
            for subscription in self._subscriptions.get(request_id, ()):
                subscription.end()
            return
        except Exception:
            log.exception(
                "reading a request for its watchers failed", extra={"request": request_id}
            )
            self._changed.add(key)
            self._has_changes.set()
            return
        for subscription in self._subscriptions.get(request_id, ()):
            subscription.offer(request)
