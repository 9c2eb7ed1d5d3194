"""Progress, to whoever watches: the newest snapshot of a request, never a backlog."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from imgsvc.database.queries import Queries
from imgsvc.errors import ProblemError
from imgsvc.models import Request

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 0.5
"""A watcher hears of changes at most this often, but of the end at once; one read serves all."""


class Subscription:
    """The changes of one request. A slow reader skips snapshots; none is kept but the newest."""

    def __init__(self, request: Request) -> None:
        self._newest: Request | None = request
        self._ended = request.finished_at is not None
        self._news = asyncio.Event()
        self._news.set()

    def offer(self, request: Request) -> None:
        self._newest = request
        self._ended = request.finished_at is not None
        self._news.set()

    def end(self) -> None:
        """Let the reader stop after what it has not read yet."""
        self._ended = True
        self._news.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Request:
        while self._newest is None:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        request, self._newest = self._newest, None
        return request


class Events:
    """Tells watchers what has changed.

    The database holds the truth; `mark_changed` only says where to look. Nothing is read for a request that
    nobody watches.
    """

    def __init__(self, snapshots: Queries) -> None:
        self._snapshots = snapshots
        self._feeds: dict[str, set[Subscription]] = {}
        self._watched: dict[int, str] = {}
        self._changed: set[int] = set()
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        self._closed = False

    def mark_changed(self, request_keys: Iterable[int], *, urgent: bool = False) -> None:
        """Say that these requests have changed; who watches is told now, if that is urgent."""
        touched = self._watched.keys() & set(request_keys)
        if touched:
            self._changed |= touched
            self._news.set()
            if urgent:
                self._urgent.set()

    @asynccontextmanager
    async def watch(self, request_id: str) -> AsyncIterator[Subscription]:
        """Give the request's snapshot now and after each change, until it has finished.

        Raises `ProblemError` for an id that is not known.
        """
        request = await self._snapshots.request(request_id)
        feed = Subscription(request)
        if self._closed:
            feed.end()
        self._feeds.setdefault(request_id, set()).add(feed)
        self._watched[request.key] = request_id
        # A change between the snapshot above and this line would go unseen: look once more.
        self.mark_changed([request.key])
        try:
            yield feed
        finally:
            feeds = self._feeds[request_id]
            feeds.discard(feed)
            if not feeds:
                del self._feeds[request_id]
                del self._watched[request.key]

    async def changed(self, request_id: str, version: int | None, timeout: float) -> None:
        """Return once the request has another version than this, has finished, or time is up.

        Without a version, wait for the end. Raises `ProblemError` for an id that is not known.
        """
        try:
            async with asyncio.timeout(timeout), self.watch(request_id) as feed:
                async for request in feed:
                    if request.finished_at is not None:
                        return
                    if version is not None and request.version != version:
                        return
        except TimeoutError:
            return

    @property
    def watchers(self) -> int:
        return sum(map(len, self._feeds.values()))

    def close(self) -> None:
        """End every feed: the service stops."""
        self._closed = True
        for feeds in self._feeds.values():
            for feed in feeds:
                feed.end()

    async def publish(self) -> None:
        """Offer snapshots to watchers for as long as the service runs."""
        while True:
            await self._news.wait()
            self._news.clear()
            self._urgent.clear()
            touched, self._changed = self._changed, set()
            for key in touched:
                await self._publish_one(key)
            with suppress(TimeoutError):
                async with asyncio.timeout(PUBLISH_SECONDS):
                    await self._urgent.wait()

    async def _publish_one(self, key: int) -> None:
        request_id = self._watched.get(key)
        if request_id is None:
            return
        try:
            request = await self._snapshots.request(request_id)
        except ProblemError:
            for feed in self._feeds.get(request_id, ()):
                feed.end()
            return
        except Exception:
            log.exception(
                "a snapshot for watchers could not be read", extra={"request": request_id}
            )
            self._changed.add(key)
            self._news.set()
            return
        for feed in self._feeds.get(request_id, ()):
            feed.offer(request)
