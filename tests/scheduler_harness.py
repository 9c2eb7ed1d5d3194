"""A harness for tests: a scheduler with its real components, without the service around them.

The pool's workers run `tests.faulty_worker`. The body that a host serves is a script for them, and the
file that a script names counts the attempts to compress it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from imgsvc.config import CompressConfig, FetchConfig, WebhookConfig
from imgsvc.database.queries import Queries
from imgsvc.execution.base import Executor
from imgsvc.execution.local import LocalExecutor
from imgsvc.metrics import Metrics
from imgsvc.models import Request
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher
from imgsvc.network.session import open_session
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing.events import Events
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.webhook_queue import WebhookQueue
from imgsvc.service import Processing
from imgsvc.storage.base import ImageStore
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.workers.pool import WorkerPool
from tests.database_harness import DatabaseHarness, open_database
from tests.waiting import wait_until


class SwitchableDisk(DiskSpace):
    """A disk that a test fills. `error`: raised instead of an answer."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, 0)
        self.full = False
        self.error: Exception | None = None

    def has_free_space(self) -> bool:
        if self.error is not None:
            raise self.error
        return not self.full


class RecordedEvents(Events):
    """Events that also record the keys of changed and of finished requests."""

    def __init__(self, queries: Queries) -> None:
        super().__init__(queries)
        self.changed: list[int] = []
        self.finished: list[int] = []

    def mark_changed(self, request_keys: Iterable[int], *, urgent: bool = False) -> None:
        keys = list(request_keys)
        (self.finished if urgent else self.changed).extend(keys)
        super().mark_changed(keys, urgent=urgent)


class SchedulerHarness:
    """A scheduler and its components, wired as in the service.

    `claim_disk`, `store_disk`: the disk that a claim checks, and the one that the store checks.
    """

    def __init__(
        self,
        folder: Path,
        db: DatabaseHarness,
        processing: Processing,
        store: ImageStore,
        events: RecordedEvents,
        *,
        store_disk: SwitchableDisk,
    ) -> None:
        self.folder = folder
        self.db = db
        self.processing = processing
        self.events = events
        self.store_disk = store_disk
        assert isinstance(processing.disk_space, SwitchableDisk)
        self.claim_disk = processing.disk_space
        self.store = store
        self.limits = processing.limits
        self.metrics = processing.metrics
        self.breakers = processing.breakers
        self.scheduler = processing.scheduler
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self.scheduler.process_queue()),
            asyncio.create_task(self.processing.unreachable_hosts.run()),
        ]

    async def stop(self, grace: float = 20.0) -> None:
        """Stop the scheduler; fail unless all jobs in flight are committed."""
        await self.scheduler.stop(grace)
        tasks, self._tasks = self._tasks, []
        if tasks:
            processing, checking = tasks
            checking.cancel()
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
    limits: ProcessingLimits | None = None,
    store: ImageStore | None = None,
    executor: Executor | None = None,
    **fetch: Any,
) -> AsyncIterator[SchedulerHarness]:
    """Open a harness with these fetch settings. At the end, stop it and audit its database.

    `store`, `executor`: by default, those of the service, with one worker that runs `function`.
    """
    config = FetchConfig.model_validate({"allowed_networks": ["127.0.0.0/8"], **fetch})
    metrics, disk = Metrics(), SwitchableDisk(folder)
    async with (
        open_session(config, AddressRules(config.allowed_networks)) as session,
        open_database(folder) as db,
    ):
        store = store or FilesystemStore(folder, disk)
        if executor is None:
            pool = WorkerPool(CompressConfig(workers=1), function=function)
            fetcher = Fetcher(session, config, ByteBudget(2**20))
            executor = LocalExecutor(fetcher, pool, store, metrics)
        await executor.start()
        events = RecordedEvents(db.queries)
        webhook = WebhookConfig()
        webhook_queue = WebhookQueue(
            db.webhook_store,
            WebhookSender(session, webhook),
            webhook,
            events=events,
            metrics=metrics,
        )
        processing = Processing(
            config,
            db.job_store,
            db.token_store,
            executor,
            events,
            webhook_queue,
            SwitchableDisk(folder),
            metrics,
            limits or ProcessingLimits(),
        )
        harness = SchedulerHarness(folder, db, processing, store, events, store_disk=disk)
        try:
            if start:
                harness.start()
            yield harness
            await harness.stop()
        finally:
            await executor.close(0)
            await store.close()
