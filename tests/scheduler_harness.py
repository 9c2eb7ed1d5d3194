"""A harness for tests: a scheduler with its real components, without the service around them.

The pool's workers run `tests.faulty_worker`. The body that a host serves is a script for them, and the
file that a script names counts the attempts to compress it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

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
    """A scheduler and its components. `changed_requests` and `finished` collect what it publishes.

    `space_to_claim`, `space_to_store`: whether the disk has free space for a claim, and for an output.
    `bug`: raised instead of returning `space_to_store`.
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
        self.space_to_claim = self.space_to_store = True
        self.bug: Exception | None = None
        self.changed_requests: list[int] = []
        self.finished: list[FinishedRequest] = []
        self.pipeline = Pipeline(
            db.job_store,
            Fetcher(session, fetch, ByteBudget(2**20)),
            pool,
            self.files,
            host_limiter=HostLimiter(fetch.concurrency, fetch.per_host),
            metrics=self.metrics,
            has_free_space=self._check_space_to_store,
            may_fetch=self.breakers.may_fetch,
        )
        self.scheduler = Scheduler(
            db.job_store,
            self.pipeline,
            self.breakers,
            fetch,
            self.metrics,
            fetched_ahead=16,
            has_free_space=lambda: self.space_to_claim,
            mark_changed=self.changed_requests.extend,
            on_finished=self.finished.extend,
            delete_orphans=self.files.delete,
        )
        self._processing: asyncio.Task[None] | None = None

    def _check_space_to_store(self) -> bool:
        if self.bug is not None:
            raise self.bug
        return self.space_to_store

    def start(self) -> None:
        self._processing = asyncio.create_task(self.scheduler.process_queue())

    async def stop(self, grace: float = 20.0) -> None:
        """Stop the scheduler; fail unless all jobs in flight are committed."""
        await self.scheduler.stop(grace)
        processing, self._processing = self._processing, None
        if processing is not None:
            async with asyncio.timeout(20):
                await processing
        assert self.scheduler.in_flight == 0

    def script(self, name: str, actions: str = "") -> bytes:
        """Return a body that makes a worker do these actions; `attempts` counts by name."""
        return f"{self.path(name)} {actions}".encode()

    def path(self, name: str) -> Path:
        return self.folder / name

    def attempts(self, name: str) -> int:
        path = self.path(name)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def stored_files(self) -> set[str]:
        """Return the names of all stored files, temporary ones included."""
        return {p.name for p in (self.folder / "outputs").rglob("*") if p.is_file()}

    async def accept(self, *urls: str, webhook: str | None = None) -> Request:
        """Accept a request with one row for each URL."""
        request = await self.db.accept([[url] for url in urls], webhook=webhook)
        self.scheduler.wake()
        return request

    async def snapshot(self, request: Request) -> Request:
        return await self.db.queries.request(request.request_id)

    async def wait_finished(self, request: Request) -> Request:
        """Wait until a request has finished, and return its snapshot."""

        async def has_finished() -> bool:
            return (await self.snapshot(request)).finished_at is not None

        await wait_until(has_finished, "the request to finish")
        return await self.snapshot(request)

    async def image_rows(self, request: Request) -> list[tuple[str, int, str | None, float]]:
        """Return the status, attempts, error code and `not_before` of each image."""
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
    """Open a harness with these fetch settings. At the end, stop it and audit its database."""
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
