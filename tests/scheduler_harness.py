"""The queue with all that it works with, but for the service around it: parts are real.

The pool's workers run `tests.faulty_worker`: what an origin serves is a script for them, and the file
that a script names counts how often it was compressed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from imgsvc.config import CompressConfig, FetchConfig
from imgsvc.metrics import Metrics
from imgsvc.models import FinishedRequest, Request
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.circuit_breaker import CircuitBreakers
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from imgsvc.processing.host_limiter import HostLimiter
from imgsvc.processing.pipeline import Pipeline
from imgsvc.processing.scheduler import Scheduler
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.workers.pool import WorkerPool
from tests.database_harness import DatabaseHarness, open_database
from tests.waiting import wait_until


class SchedulerHarness:
    """A queue and its parts. What it tells others is kept in `changed_requests` and `finished`.

    `room_to_claim` and `room_to_store` say whether there is room on the disk; `bug` is raised instead
    of the second answer.
    """

    def __init__(
        self,
        folder: Path,
        db: DatabaseHarness,
        pool: WorkerPool,
        session: aiohttp.ClientSession,
        fetch: FetchConfig,
    ) -> None:
        self.folder = folder
        self.db = db
        self.pool = pool
        self.files = FilesystemStore(folder)
        self.breakers = CircuitBreakers()
        self.metrics = Metrics()
        self.room_to_claim = self.room_to_store = True
        self.bug: Exception | None = None
        self.changed_requests: list[int] = []
        self.finished: list[FinishedRequest] = []
        self.pipeline = Pipeline(
            db.work,
            Fetcher(session, fetch, ByteBudget(2**20)),
            pool,
            self.files,
            host_limiter=HostLimiter(fetch.concurrency, fetch.per_host),
            metrics=self.metrics,
            has_free_space=self._has_room_to_store,
            may_fetch=self.breakers.may_fetch,
        )
        self.queue = Scheduler(
            db.work,
            self.pipeline,
            self.breakers,
            fetch,
            self.metrics,
            fetched_ahead=16,
            has_free_space=lambda: self.room_to_claim,
            mark_changed=self.changed_requests.extend,
            finished=self.finished.extend,
            orphaned_files=self.files.delete,
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
        request = await self.db.accept([[url] for url in urls], webhook=webhook)
        self.queue.wake()
        return request

    async def shown(self, request: Request) -> Request:
        return await self.db.snapshots.request(request.request_id)

    async def done(self, request: Request) -> Request:
        """Wait for the end of a request."""

        async def ended() -> bool:
            return (await self.shown(request)).finished_at is not None

        await wait_until(ended, "the request's end")
        return await self.shown(request)

    async def images(self, request: Request) -> list[tuple[str, int, str | None, float]]:
        """Give each image's status, attempts, error code and the time that it waits for."""
        return await self.db.database.read(
            lambda c: c.execute(
                "SELECT status, attempts, error_code, not_before FROM images "
                "WHERE request_key = ? ORDER BY number",
                (request.key,),
            ).fetchall()
        )


@asynccontextmanager
async def open_scheduler(
    folder: Path,
    *,
    start: bool = True,
    function: str = "tests.faulty_worker:compress",
    **fetch: Any,
) -> AsyncIterator[SchedulerHarness]:
    """Open a workshop with these settings for fetching; at the end its books are held to account."""
    settings = FetchConfig.model_validate({"allowed_networks": ["127.0.0.0/8"], **fetch})
    pool = WorkerPool(CompressConfig.model_validate({"workers": 1}), function=function)
    session = open_session(settings, AddressRules(settings.allowed_networks))
    async with open_database(folder) as db:
        await pool.start()
        harness = SchedulerHarness(folder, db, pool, session, settings)
        try:
            if start:
                harness.start()
            yield harness
            await harness.stop()
        finally:
            await pool.close(0)
            await session.close()
            await harness.files.close()


def logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    """Whether a message that holds this text has been logged."""
    return any(text in record.getMessage() for record in caplog.get_records("call"))
