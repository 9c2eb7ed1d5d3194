"""Tests of results: batches of outcomes, and jobs that wait for the same content."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import CompressionSettings, StoredFile
from imgsvc.models import Completed, Failed, Progress
from imgsvc.processing.duplicates import Duplicates
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.results import ResultWriter
from tests.harness.database import DatabaseHarness, completed, open_database
from tests.harness.service import SchedulerHarness, open_scheduler
from tests.memory_store import MemoryStore

DIGEST = b"d" * 32
SETTINGS = CompressionSettings()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    limits = ProcessingLimits(results_per_commit=4)
    async with open_scheduler(tmp_path, start=False, limits=limits, store=MemoryStore()) as harness:
        yield harness


@asynccontextmanager
async def committing(results: ResultWriter) -> AsyncIterator[None]:
    async def commit() -> None:
        while True:
            await results.commit_pending()

    task = asyncio.create_task(commit())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_flush_returns_when_all_added_outcomes_are_committed(
    harness: SchedulerHarness,
) -> None:
    request = await harness.db.accept([[f"http://a.example/{n}.jpg"] for n in range(10)])
    claims = await harness.db.claim()
    results = harness.processing.results
    await results.flush()
    for claim in claims[:9]:
        results.add(completed(claim))
    flushing = asyncio.create_task(results.flush())
    await asyncio.sleep(0)
    assert not flushing.done(), "nothing commits yet"
    async with committing(results):
        await flushing
        assert (await harness.snapshot(request)).progress == Progress(processing=1, completed=9)
        assert (harness.events.changed, harness.events.finished) == ([request.key] * 3, [])
        results.add(Failed(claims[9], 1, ImageErrorCode.HTTP_STATUS, "404 Not Found"))
        await results.flush()
    assert harness.events.finished == [request.key]
    sample = harness.metrics.registry.get_sample_value
    assert sample("imgsvc_images_total", {"status": "completed", "code": ""}) == 9


async def test_orphaned_file_is_deleted_after_the_commit(harness: SchedulerHarness) -> None:
    """Both outputs have the same content, so the second one is not used."""
    await harness.db.accept([["http://a.example/1.jpg"], ["http://a.example/2.jpg"]])
    outcomes = [completed(claim, "same") for claim in await harness.db.claim()]
    for outcome in outcomes:
        await harness.store.put(outcome.file, b"x")
        harness.processing.results.add(outcome)
    async with committing(harness.processing.results):
        await harness.processing.results.flush()
    assert await harness.store.list_names() == [outcomes[0].file]


# --- duplicate content ----------------------------------------------------------------------------


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


async def outcomes(db: DatabaseHarness, count: int) -> list[Completed]:
    await db.accept([[f"http://a.example/{n}.jpg"] for n in range(count)])
    return [completed(claim) for claim in await db.claim()]


async def test_job_waits_for_output_of_same_content_until_it_is_committed(
    db: DatabaseHarness,
) -> None:
    duplicates = Duplicates(db.job_store)
    first, second = await outcomes(db, 2)
    assert await duplicates.find(first.claim.token, DIGEST, SETTINGS) is None
    waiting = asyncio.create_task(duplicates.find(second.claim.token, DIGEST, SETTINGS))
    other = CompressionSettings(progressive=True)
    assert await duplicates.find("another token", DIGEST, other) is None
    assert not waiting.done()
    duplicates.settle(first)
    assert await waiting == StoredFile(first.file, first.info)


async def test_waiting_job_becomes_producer_after_first_one_failed(db: DatabaseHarness) -> None:
    duplicates = Duplicates(db.job_store)
    first, second, third = await outcomes(db, 3)
    assert await duplicates.find(first.claim.token, DIGEST, SETTINGS) is None
    waiting = [
        asyncio.create_task(duplicates.find(each.claim.token, DIGEST, SETTINGS))
        for each in (second, third)
    ]
    await asyncio.sleep(0)
    duplicates.settle(Failed(first.claim, 1, ImageErrorCode.CORRUPT_IMAGE, "it is cut off"))
    assert await waiting[0] is None
    assert not waiting[1].done()
    duplicates.settle(second)
    assert await waiting[1] == StoredFile(second.file, second.info)


async def test_cancelled_job_leaves_output_for_other_waiting_jobs(db: DatabaseHarness) -> None:
    duplicates = Duplicates(db.job_store)
    first, second, third = await outcomes(db, 3)
    assert await duplicates.find(first.claim.token, DIGEST, SETTINGS) is None
    cancelled, waiting = (
        asyncio.create_task(duplicates.find(each.claim.token, DIGEST, SETTINGS))
        for each in (second, third)
    )
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0)
    duplicates.settle(first)
    assert await waiting == StoredFile(first.file, first.info)
