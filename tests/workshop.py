"""The queue with all that it works with, but for the service around it: parts are real.

The pool's workers run `tests.misbehaving`: what an origin serves is a script for them, and the file
that a script names counts how often it was compressed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imgsvc.config import CompressConfig, FetchConfig
from imgsvc.images.pool import Pool
from imgsvc.metrics import Metrics
from imgsvc.models import Finished, Request
from imgsvc.network.addresses import AddressRules
from imgsvc.network.breaker import Breakers
from imgsvc.network.budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.outbound import open_session
from imgsvc.processing.pipeline import Pipeline
from imgsvc.processing.queue import ProcessQueue
from imgsvc.processing.turns import Turns
from imgsvc.storage.files import Files
from tests.books import Books, opened


async def until(condition: Callable[[], Any], what: str = "it") -> None:
    """Wait for what the parts do by themselves; `condition` may be asynchronous."""
    try:
        async with asyncio.timeout(30):
            while True:
                answer = condition()
                if await answer if asyncio.iscoroutine(answer) else answer:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


class Workshop:
    """A queue and its parts. What it tells others is kept in `touched` and `finished`.

    `room_to_claim` and `room_to_store` say whether there is room on the disk; `bug` is raised instead
    of the second answer.
    """

    def __init__(
        self,
        folder: Path,
        books: Books,
        pool: Pool,
        session: aiohttp.ClientSession,
        fetch: FetchConfig,
    ) -> None:
        self.folder = folder
        self.books = books
        self.pool = pool
        self.files = Files(folder)
        self.breakers = Breakers()
        self.metrics = Metrics()
        self.room_to_claim = self.room_to_store = True
        self.bug: Exception | None = None
        self.touched: list[int] = []
        self.finished: list[Finished] = []
        self.pipeline = Pipeline(
            books.work,
            Fetcher(session, fetch, ByteBudget(2**20)),
            pool,
            self.files,
            turns=Turns(fetch.concurrency, fetch.per_host),
            metrics=self.metrics,
            has_room=self._has_room_to_store,
            may_fetch=self.breakers.may_fetch,
        )
        self.queue = ProcessQueue(
            books.work,
            self.pipeline,
            self.breakers,
            fetch,
            self.metrics,
            fetched_ahead=16,
            has_room=lambda: self.room_to_claim,
            touch=self.touched.extend,
            finished=self.finished.extend,
            unused=self.files.delete,
        )
        self._processing: asyncio.Task[None] | None = None

    def _has_room_to_store(self) -> bool:
        if self.bug is not None:
            raise self.bug
        return self.room_to_store

    def start(self) -> None:
        self._processing = asyncio.create_task(self.queue.process_queue())

    async def stop(self, grace: float = 20.0) -> None:
        """Stop in order; fail unless all that was in flight is noted."""
        await self.queue.stop(grace)
        processing, self._processing = self._processing, None
        if processing is not None:
            async with asyncio.timeout(20):
                await processing
        assert self.queue.in_flight == 0

    def script(self, name: str, acts: str = "") -> bytes:
        """What an origin is to serve for a worker to do these acts; `tries` counts under the name."""
        return f"{self.path(name)} {acts}".encode()

    def path(self, name: str) -> Path:
        return self.folder / name

    def tries(self, name: str) -> int:
        path = self.path(name)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def stored(self) -> set[str]:
        """The files there are, temporary ones among them."""
        return {p.name for p in (self.folder / "outputs").rglob("*") if p.is_file()}

    async def accept(self, *urls: str, webhook: str | None = None) -> Request:
        """Accept a request of one row for each URL."""
        request = await self.books.accept([[url] for url in urls], webhook=webhook)
        self.queue.wake()
        return request

    async def shown(self, request: Request) -> Request:
        return await self.books.snapshots.request(request.request_id)

    async def done(self, request: Request) -> Request:
        """Wait for the end of a request."""

        async def ended() -> bool:
            return (await self.shown(request)).finished_at is not None

        await until(ended, "the request's end")
        return await self.shown(request)

    async def images(self, request: Request) -> list[tuple[str, int, str | None, float]]:
        """Give each image's status, attempts, error code and the time that it waits for."""
        return await self.books.database.read(
            lambda c: c.execute(
                "SELECT status, attempts, error_code, not_before FROM images "
                "WHERE request_key = ? ORDER BY number",
                (request.key,),
            ).fetchall()
        )


@asynccontextmanager
async def opened_workshop(
    folder: Path,
    *,
    start: bool = True,
    function: str = "tests.misbehaving:compress",
    **fetch: Any,
) -> AsyncIterator[Workshop]:
    """Open a workshop with these settings for fetching; at the end its books are held to account."""
    settings = FetchConfig.model_validate({"allowed_networks": ["127.0.0.0/8"], **fetch})
    pool = Pool(CompressConfig.model_validate({"workers": 1}), function=function)
    session = open_session(settings, AddressRules(settings.allowed_networks))
    async with opened(folder) as books:
        await pool.start()
        shop = Workshop(folder, books, pool, session, settings)
        try:
            if start:
                shop.start()
            yield shop
            await shop.stop()
        finally:
            await pool.close(0)
            await session.close()
            await shop.files.close()


def logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    """Whether a message that holds this text has been logged."""
    return any(text in record.getMessage() for record in caplog.get_records("call"))
