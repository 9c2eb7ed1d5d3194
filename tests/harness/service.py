"""The service that `imgsvc.service` wires, of which a test starts some components.

The workers of `open_scheduler` run `tests.faulty_worker`. The body that a host serves is a script for
them, and the file that a script names counts the attempts to compress it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from imgsvc.adapters import Replacements
from imgsvc.config import Config
from imgsvc.database.limits import DatabaseLimits
from imgsvc.database.queries import Queries
from imgsvc.execution.base import Executor
from imgsvc.limits import ServiceLimits
from imgsvc.models import Request
from imgsvc.processing.events import Events
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.service import Service, opened
from imgsvc.storage.base import ImageStore
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from tests.harness.audit import audit
from tests.harness.database import DatabaseHarness
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


def config_of(folder: Path, **sections: Mapping[str, object]) -> Config:
    """Return a configuration with `folder` as its data folder, and these settings."""
    settings: dict[str, dict[str, object]] = {
        "server": {"port": 0},
        "storage": {"data_dir": folder, "min_free_bytes": 0},
        "compress": {"workers": 1},
    }
    for section, keys in sections.items():
        settings[section] = {**settings.get(section, {}), **keys}
    return Config.model_validate(settings)


@asynccontextmanager
async def open_service(
    config: Config,
    *,
    limits: ServiceLimits = ServiceLimits(),
    replacements: Replacements = Replacements(),
) -> AsyncIterator[Service]:
    """Open a service that is not started. If the test passes, audit its database at the end."""
    async with opened(config, limits=limits, replacements=replacements) as service:
        yield service
        await service.stores.database.read(audit)


@asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run components until the block ends. Fail if one of them has ended before."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SchedulerHarness:
    """A service whose scheduler runs, and none of its other components.

    `claim_disk`, `store_disk`: the disk that a claim checks, and the one that the store checks.
    """

    def __init__(
        self, service: Service, claim_disk: SwitchableDisk, store_disk: SwitchableDisk
    ) -> None:
        assert isinstance(service.events, RecordedEvents)
        self.service = service
        self.folder = service.config.storage.data_dir
        self.db = DatabaseHarness(service.stores)
        self.events = service.events
        self.claim_disk = claim_disk
        self.store_disk = store_disk
        self.store = service.store
        self.limits = service.limits.processing
        self.metrics = service.metrics
        self.processing = service.processing
        self.breakers = service.processing.breakers
        self.scheduler = service.processing.scheduler
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

    async def abort(self) -> None:
        """Stop everything without waiting for jobs in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.service.actions.close()
        await self.service.executor.close(0)

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
    limits: ProcessingLimits = ProcessingLimits(),
    database_limits: DatabaseLimits = DatabaseLimits(),
    store: ImageStore | None = None,
    executor: Executor | None = None,
    **fetch: Any,
) -> AsyncIterator[SchedulerHarness]:
    """Open a harness with these fetch settings. At the end, stop it and audit its database.

    `store`, `executor`: by default, those of the service, with one worker that runs `function`.
    """
    config = config_of(folder, fetch={"allowed_networks": ["127.0.0.0/8"]} | fetch)
    claim_disk, store_disk = SwitchableDisk(folder), SwitchableDisk(folder)
    replacements = Replacements(
        claim_disk,
        store or FilesystemStore(folder, store_disk),
        executor,
        RecordedEvents,
        function,
        confined=False,
    )
    async with open_service(
        config,
        limits=ServiceLimits(processing=limits, database=database_limits),
        replacements=replacements,
    ) as service:
        await service.executor.start()
        harness = SchedulerHarness(service, claim_disk, store_disk)
        try:
            if start:
                harness.start()
            yield harness
            await harness.stop()
        finally:
            await harness.abort()
