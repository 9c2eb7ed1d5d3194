"""Tests of reconciliation: it removes what nothing uses, and nothing else."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imgsvc.config import StorageConfig
from imgsvc.database.online_backup import copy_database
from imgsvc.database.tokens import RESTORE_GRACE_SECONDS
from imgsvc.models import Requeued
from imgsvc.processing.clock import ExpiryClock
from imgsvc.processing.maintenance import Maintenance
from imgsvc.processing.reconciliation import Reconciliation, ReconciliationLimits
from imgsvc.storage.disk_space import DiskSpace
from imgsvc.storage.thumbnail_cache import ThumbnailCache
from imgsvc.system_clock import SystemClock
from tests.harness.database import DatabaseHarness, completed, open_database
from tests.memory_store import MemoryStore
from tests.shifted_clock import ShiftedClock


class ReconciliationHarness:
    """A database and a store with the components that compare them."""

    def __init__(
        self, db: DatabaseHarness, store: MemoryStore, clock: SystemClock = SystemClock()
    ) -> None:
        self.db = db
        self.store = store
        self.expiry = ExpiryClock(db.clock_store, clock)
        folder = db.database.path.parent
        thumbnails = ThumbnailCache(folder, DiskSpace(folder, 0))
        self.maintenance = Maintenance(
            db.request_store, db.token_store, store, thumbnails, StorageConfig(), clock=self.expiry
        )

    def reconciliation(self, **limits: Any) -> Reconciliation:
        return Reconciliation(
            self.db.token_store,
            self.store,
            self.expiry,
            ReconciliationLimits(slice_pause_seconds=0.0, **limits),
        )

    async def store_outputs(self, count: int) -> set[str]:
        """Complete a request of `count` images, and store their outputs. Return their names."""
        await self.db.accept([[f"http://a.example/{n}.jpg"] for n in range(count)])
        outcomes = [completed(claim) for claim in await self.db.claim(count, count)]
        await self.db.job_store.finish(outcomes)
        names = {await self.db.output_name(outcome) for outcome in outcomes}
        for name in names:
            await self.store.put(name, b"x")
        return names

    async def leave_output(self) -> str:
        """Store an output that no image uses. Return its name."""
        name = f"{secrets.token_hex(16)}.jpg"
        await self.store.put(name, b"x")
        return name

    async def outputs(self) -> set[str]:
        """Return the names of all outputs, after the maintenance."""
        await self.maintenance.purge()
        return set(self.store.outputs)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ReconciliationHarness]:
    async with open_database(tmp_path) as db:
        yield ReconciliationHarness(db, MemoryStore())


async def test_unused_output_is_removed_by_second_pass(harness: ReconciliationHarness) -> None:
    used = await harness.store_outputs(20)
    leftover = await harness.leave_output()
    reconciliation = harness.reconciliation(slice=3)
    assert await reconciliation.run_pass() == [], "it may be new"
    young = await harness.leave_output()
    assert await harness.outputs() == {*used, leftover, young}
    assert await reconciliation.run_pass() == [leftover]
    assert await harness.outputs() == {*used, young}
    assert await reconciliation.run_pass() == [young]
    assert await harness.outputs() == used


async def test_output_that_a_job_stores_is_kept(harness: ReconciliationHarness) -> None:
    await harness.db.accept([["http://a.example/1.jpg"]])
    (claim,) = await harness.db.claim()
    outcome = completed(claim)
    name = f"{await harness.db.token_store.reserve(claim, outcome.source_digest)}.jpg"
    await harness.store.put(name, b"x")
    reconciliation = harness.reconciliation()
    for _ in range(3):
        assert await reconciliation.run_pass() == []
    await harness.db.job_store.finish([outcome])
    assert await reconciliation.run_pass() == []
    assert await harness.outputs() == {name}


async def test_output_that_becomes_used_after_it_was_found_is_kept(
    harness: ReconciliationHarness,
) -> None:
    """A file that an earlier process left gets its row before the maintenance deletes it."""
    await harness.db.accept([["http://a.example/1.jpg"]])
    (claim,) = await harness.db.claim()
    outcome = completed(claim)
    name = await harness.db.output_name(outcome)
    await harness.store.put(name, b"x")
    reconciliation = harness.reconciliation()
    await reconciliation.run_pass()
    assert await reconciliation.run_pass() == [name]
    assert await harness.db.token_store.reserve(claim, outcome.source_digest)
    await harness.db.job_store.finish([outcome])
    assert await harness.outputs() == {name}


@pytest.mark.parametrize(("used", "unused", "removed"), [(50, 5, True), (50, 6, False)])
async def test_pass_removes_nothing_if_too_many_outputs_are_unused(
    harness: ReconciliationHarness,
    caplog: pytest.LogCaptureFixture,
    used: int,
    unused: int,
    removed: bool,
) -> None:
    names = await harness.store_outputs(used)
    leftovers = {await harness.leave_output() for _ in range(unused)}
    reconciliation = harness.reconciliation(max_removed=2, max_removed_share=0.1)
    await reconciliation.run_pass()
    assert set(await reconciliation.run_pass()) == (leftovers if removed else set())
    assert await harness.outputs() == (names if removed else names | leftovers)
    assert ("too many outputs are unused" in caplog.text) is not removed


async def test_small_number_is_removed_whatever_its_share(harness: ReconciliationHarness) -> None:
    leftovers = {await harness.leave_output() for _ in range(100)}
    reconciliation = harness.reconciliation()
    await reconciliation.run_pass()
    assert set(await reconciliation.run_pass()) == leftovers


@pytest.mark.parametrize(("days", "removed"), [(0, False), (29, False), (31, True)])
async def test_nothing_is_removed_for_30_days_after_a_restore(
    tmp_path: Path, days: int, removed: bool
) -> None:
    async with open_database(tmp_path) as db:
        await db.token_store.recover()
        assert not await db.token_store.restored_recently(time.time())
        copy = tmp_path / "copy"
        copy.mkdir()
        copy_database(db.database.path, copy / "imgsvc.db")
    async with open_database(copy) as db:
        harness = ReconciliationHarness(db, MemoryStore())
        await db.token_store.recover()
        await db.database.write(
            lambda c: c.execute(
                "UPDATE instance SET restored_at = ?", (time.time() - days * 86_400,)
            )
        )
        leftover = await harness.leave_output()
        reconciliation = harness.reconciliation()
        await reconciliation.run_pass()
        assert await reconciliation.run_pass() == ([leftover] if removed else [])
    assert RESTORE_GRACE_SECONDS == 30 * 86_400


async def test_nothing_is_removed_while_the_clock_may_be_ahead(tmp_path: Path) -> None:
    clock = ShiftedClock()
    async with open_database(tmp_path) as db:
        harness = ReconciliationHarness(db, MemoryStore(), clock)
        leftover = await harness.leave_output()
        assert await harness.expiry.now() is not None
        reconciliation = harness.reconciliation()
        clock.shift = 40.0 * 86_400
        for _ in range(3):
            assert await reconciliation.run_pass() == []
        clock.shift = 0.0
        assert await reconciliation.run_pass() == [leftover]


async def test_restore_deletes_no_output_that_the_backup_was_storing_or_deleting(
    tmp_path: Path,
) -> None:
    """The outputs may be newer than the backup, and shops may link to them."""
    store = MemoryStore()
    async with open_database(tmp_path) as db:
        harness = ReconciliationHarness(db, store)
        await db.accept([["http://a.example/1.jpg"]])
        (claim,) = await db.claim()
        outcome = completed(claim)
        token = await db.token_store.reserve(claim, outcome.source_digest)
        deleted = await harness.leave_output()
        await db.token_store.mark_unused([deleted])
        copy = tmp_path / "copy"
        copy.mkdir()
        copy_database(db.database.path, copy / "imgsvc.db")
    stored = f"{token}.jpg"
    await store.put(stored, b"x")
    async with open_database(copy) as db:
        await db.token_store.recover()
        assert await ReconciliationHarness(db, store).outputs() == {stored, deleted}


async def test_restore_keeps_the_output_of_a_job_that_fails(tmp_path: Path) -> None:
    store = MemoryStore()
    async with open_database(tmp_path) as db:
        await db.accept([["http://a.example/1.jpg"]])
        copy = tmp_path / "copy"
        copy.mkdir()
        copy_database(db.database.path, copy / "imgsvc.db")
    async with open_database(copy) as db:
        await db.token_store.recover()
        (claim,) = await db.claim()
        token = await db.token_store.reserve(claim, completed(claim).source_digest)
        stored = f"{token}.jpg"
        await store.put(stored, b"stored after the backup")
        await db.job_store.finish([Requeued(claim, 0)])
        harness = ReconciliationHarness(db, store)
        assert await harness.outputs() == {stored}
        (claim,) = await db.claim()
        await db.token_store.reserve(claim, completed(claim).source_digest)
    async with open_database(copy) as db:  # killed while it compresses
        await db.token_store.recover()
        assert await ReconciliationHarness(db, store).outputs() == {stored}
