"""Tests of the cleanup: it removes exactly the expired data, also after interruptions."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from imgsvc.config import StorageConfig
from imgsvc.database.connection import DatabaseUnavailableError
from imgsvc.models import SECONDS_PER_DAY, Request
from imgsvc.processing.clock import ExpiryClock
from imgsvc.processing.maintenance import Maintenance, MaintenanceLimits
from imgsvc.storage.base import StorageUnavailableError, StoreClaimedError
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.filesystem import FilesystemStore
from imgsvc.storage.thumbnail_cache import ThumbnailCache
from imgsvc.system_clock import SystemClock
from tests.harness.database import NO_LOCK_WAIT, DatabaseHarness, completed, open_database
from tests.shifted_clock import ShiftedClock
from tests.waiting import wait_until

ROWS = [[f"http://a.example/{n}.jpg"] for n in range(12)]


class FailingStore(FilesystemStore):
    """A store whose outputs cannot be deleted while `error` is set."""

    error: Exception | None = None

    async def delete(self, names: Iterable[str]) -> None:
        if self.error is not None:
            raise self.error
        await super().delete(names)


class MaintenanceHarness:
    """A database and a file store with their maintenance."""

    def __init__(
        self,
        folder: Path,
        db: DatabaseHarness,
        days: float,
        limits: MaintenanceLimits,
        clock: SystemClock,
    ) -> None:
        self.folder = folder
        self.db = db
        self.store = FailingStore(folder, DiskSpace(folder, 0))
        config = StorageConfig(retention_days=days)
        self.thumbnails = ThumbnailCache(folder, DiskSpace(folder, 0))
        self.maintenance = Maintenance(
            db.request_store,
            db.token_store,
            self.store,
            self.thumbnails,
            config,
            clock=ExpiryClock(db.clock_store, clock),
            limits=limits,
        )

    async def finished_request(self, rows: list[list[str]] = ROWS) -> Request:
        """Return a finished request whose images are stored."""
        request = await self.db.accept(rows)
        claims = await self.db.claim()
        outcomes = [completed(claim) for claim in claims]
        for outcome in outcomes:
            token = await self.db.token_store.reserve(outcome.claim, outcome.source_digest)
            await self.store.put(f"{token}.jpg", b"stored")
        await self.db.job_store.finish(outcomes)
        return request

    def stored_files(self) -> int:
        """Return the number of stored files."""
        return sum(p.is_file() for p in (self.folder / "outputs").rglob("*"))

    async def rows(self) -> int:
        """Return the number of rows of all tables that a request uses."""
        return await self.db.database.read(
            lambda c: sum(
                c.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                for name in (
                    "requests",
                    "products",
                    "images",
                    "files",
                    "pending_deletions",
                    "reservations",
                    "request_columns",
                )
            )
        )


@asynccontextmanager
async def open_harness(
    folder: Path, days: float = 0, clock: SystemClock = SystemClock(), **limits: Any
) -> AsyncIterator[MaintenanceHarness]:
    async with open_database(folder) as db:
        harness = MaintenanceHarness(folder, db, days, MaintenanceLimits(**limits), clock)
        try:
            yield harness
        finally:
            await harness.store.close()
            harness.thumbnails.close()


@asynccontextmanager
async def running(harness: MaintenanceHarness) -> AsyncIterator[None]:
    """Run the maintenance until the block ends."""
    task = asyncio.create_task(harness.maintenance.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_purge_removes_only_requests_marked_for_deletion(tmp_path: Path) -> None:
    async with open_harness(tmp_path, purge_slice=5) as harness:
        deleted, kept = await harness.finished_request(), await harness.finished_request()
        await harness.db.request_store.mark_deleting(deleted.request_id)
        await harness.maintenance.purge()
        assert harness.stored_files() == 12
        assert (await harness.db.queries.request(kept.request_id)).progress.completed == 12
        await harness.db.request_store.mark_deleting(kept.request_id)
        await harness.maintenance.purge()
        assert (harness.stored_files(), await harness.rows()) == (0, 0)


async def test_next_start_completes_interrupted_purge(tmp_path: Path) -> None:
    """Interrupt the purge after each number of iterations of the event loop."""
    for iterations in range(0, 60, 4):
        async with open_harness(tmp_path, purge_slice=5) as harness:
            deleted = await harness.finished_request()
            await harness.db.request_store.mark_deleting(deleted.request_id)
            purging = asyncio.create_task(harness.maintenance.purge())
            for _ in range(iterations):
                await asyncio.sleep(0)
            purging.cancel()
            await asyncio.gather(purging, return_exceptions=True)
        async with open_harness(tmp_path) as harness:
            await harness.maintenance.purge()
            assert (harness.stored_files(), await harness.rows()) == (0, 0), iterations


async def test_run_deletes_pending_files_of_earlier_process(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        deleted = await harness.finished_request()
        await harness.db.request_store.mark_deleting(deleted.request_id)
        while await harness.db.request_store.purge_slice():
            pass
        assert harness.stored_files() == 12
    async with open_harness(tmp_path) as harness, running(harness):
        await wait_until(lambda: harness.stored_files() == 0, "the files to be deleted")

        async def is_confirmed() -> bool:
            return await harness.rows() == 0

        await wait_until(is_confirmed, "their names to be removed")


async def test_only_requests_past_their_retention_are_removed(tmp_path: Path) -> None:
    async with open_harness(tmp_path, days=7) as harness:
        old, young = await harness.finished_request(), await harness.finished_request()
        waiting = await harness.db.accept([["http://a.example/waits.jpg"]])
        await harness.db.database.write(
            lambda c: [
                c.execute(
                    "UPDATE requests SET created_at = ?, finished_at = finished_at - ? "
                    "WHERE key = ?",
                    (time.time() - 9 * SECONDS_PER_DAY, ago * SECONDS_PER_DAY, request.key),
                ).rowcount
                for request, ago in ((old, 7.01), (young, 6.99), (waiting, 0))
            ]
        )
        async with running(harness):
            await wait_until(
                lambda: harness.stored_files() == 12, "the expired request's files to be deleted"
            )
        listed, _ = await harness.db.queries.list_requests(None, 10, None)
        assert {request.key for request in listed} == {young.key, waiting.key}


async def test_nothing_is_removed_while_the_clock_may_be_ahead(tmp_path: Path) -> None:
    clock = ShiftedClock()
    async with open_harness(tmp_path, days=30, clock=clock) as harness:
        await harness.finished_request()
        assert await ExpiryClock(harness.db.clock_store, clock).now() is not None
        clock.shift = 40.0 * SECONDS_PER_DAY
        marked = await harness.finished_request(ROWS[:1])
        await harness.db.request_store.mark_deleting(marked.request_id)
        async with running(harness):
            await wait_until(lambda: harness.stored_files() == 12, "the marked request's cleanup")
        assert len((await harness.db.queries.list_requests(None, 10, None))[0]) == 1
        clock.passed = SECONDS_PER_DAY + 1.0
        async with running(harness):
            await wait_until(lambda: harness.stored_files() == 0, "the request to expire")


async def test_requests_are_kept_if_no_retention_is_set(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        old, marked = await harness.finished_request(), await harness.finished_request()
        await harness.db.database.write(
            lambda c: c.execute("UPDATE requests SET finished_at = 1").rowcount
        )
        await harness.db.request_store.mark_deleting(marked.request_id)
        async with running(harness):
            await wait_until(lambda: harness.stored_files() == 12, "the cleanup")
        assert (await harness.db.queries.request(old.request_id)).progress.completed == 12


async def test_wake_starts_cleanup_at_once(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness, running(harness):
        deleted = await harness.finished_request()
        await harness.db.request_store.mark_deleting(deleted.request_id)
        harness.maintenance.wake()
        await wait_until(lambda: harness.stored_files() == 0, "the files to be deleted")


async def test_failed_cleanup_is_retried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder has the file's name, so it cannot be deleted until the folder is removed."""
    async with open_harness(tmp_path, retry_seconds=0.02) as harness:
        deleted = await harness.finished_request(ROWS[:1])
        (file,) = [p for p in (tmp_path / "outputs").rglob("*.jpg") if p.is_file()]
        file.unlink()
        file.mkdir()
        await harness.db.request_store.mark_deleting(deleted.request_id)
        async with running(harness):
            await wait_until(lambda: "could not be deleted" in caplog.text, "a failure")
            file.rmdir()

            async def is_removed() -> bool:
                return await harness.rows() == 0

            await wait_until(is_removed, "another cleanup")


async def test_output_that_cannot_be_deleted_keeps_no_others(tmp_path: Path) -> None:
    async with open_harness(tmp_path, purge_slice=5) as harness:
        deleted = await harness.finished_request()
        files = sorted(p for p in (tmp_path / "outputs").rglob("*.jpg"))
        for file in files[:6]:
            file.unlink()
            file.mkdir()
        await harness.db.request_store.mark_deleting(deleted.request_id)
        assert await harness.maintenance.purge() == 6
        assert harness.stored_files() == 0
        for file in files[:6]:
            file.rmdir()
        assert await harness.maintenance.purge() == 0
        assert await harness.rows() == 0


async def test_outputs_of_an_unavailable_store_are_deleted_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_harness(tmp_path) as harness:
        deleted = await harness.finished_request()
        await harness.db.request_store.mark_deleting(deleted.request_id)
        harness.store.error = StorageUnavailableError("the bucket does not respond")
        assert await harness.maintenance.purge() == 12
        assert [record.exc_info for record in caplog.records] == [None]
        harness.store.error = None
        assert await harness.maintenance.purge() == 0
        assert (harness.stored_files(), await harness.rows()) == (0, 0)


async def test_cleanup_ends_when_another_instance_claims_the_store(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        deleted = await harness.finished_request()
        await harness.db.request_store.mark_deleting(deleted.request_id)
        harness.store.error = StoreClaimedError("Another instance has claimed the bucket.")
        with pytest.raises(StoreClaimedError):
            await harness.maintenance.run()


async def test_request_that_could_not_be_discarded_is_discarded_later(tmp_path: Path) -> None:
    async with open_database(tmp_path, NO_LOCK_WAIT) as db:
        key = await db.stage(ROWS)
        lock = sqlite3.connect(tmp_path / "imgsvc.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailableError):
            await db.request_store.discard(key)
        lock.execute("ROLLBACK")
        lock.close()
        await db.request_store.discard_remaining()
        while await db.request_store.purge_slice():
            pass
        count = await db.database.read(
            lambda c: c.execute("SELECT count(*) FROM requests").fetchone()[0]
        )
        assert count == 0


@pytest.mark.parametrize(
    ("days", "seconds"),
    [
        (0, 600.0),
        (30, 600.0),
        (1 / 24, 360.0),
        (10 / SECONDS_PER_DAY, 1.0),
        (1 / SECONDS_PER_DAY, 1.0),
    ],
)
async def test_cleanup_interval_depends_on_retention(
    tmp_path: Path, days: float, seconds: float
) -> None:
    async with open_harness(tmp_path, days) as harness:
        assert harness.maintenance._interval_seconds == pytest.approx(seconds)


async def test_output_stays_marked_until_its_thumbnail_is_deleted(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        request = await harness.finished_request(ROWS[:1])
        (output,) = (tmp_path / "outputs").rglob("*.jpg")
        obstacle = tmp_path / "thumbnails" / output.name[:2] / f"{output.name}.webp"
        obstacle.mkdir(parents=True)  # a folder cannot be deleted like a file
        await harness.db.request_store.mark_deleting(request.request_id)
        assert await harness.maintenance.purge() == 1
        obstacle.rmdir()
        assert await harness.maintenance.purge() == 0
        assert (harness.stored_files(), await harness.rows()) == (0, 0)
