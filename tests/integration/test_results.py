"""Tests of results: batches of outcomes, and jobs that wait for the same content."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import CompressionSettings
from imgsvc.models import Completed, Failed, Progress
from imgsvc.processing.duplicates import Duplicates
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.results import ResultWriter
from tests.harness.database import DatabaseHarness, completed, open_database
from tests.harness.service import SchedulerHarness, open_scheduler
from tests.memory_store import MemoryStore

DIGEST = b"d" * 32


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
    duplicates = Duplicates(db.token_store)
    first, second, third = await outcomes(db, 3)
    assert await duplicates.reserve(first.claim, DIGEST)
    waiting = asyncio.create_task(duplicates.reserve(second.claim, DIGEST))
    other = replace(third.claim, settings=CompressionSettings(progressive=True))
    assert await duplicates.reserve(other, DIGEST)
    assert not waiting.done()
    duplicates.settle(first)
    assert await waiting is None


async def test_waiting_job_becomes_producer_after_first_one_failed(db: DatabaseHarness) -> None:
    duplicates = Duplicates(db.token_store)
    first, second, third = await outcomes(db, 3)
    token = await duplicates.reserve(first.claim, DIGEST)
    waiting = [
        asyncio.create_task(duplicates.reserve(each.claim, DIGEST)) for each in (second, third)
    ]
    await asyncio.sleep(0)
    failure = Failed(first.claim, 1, ImageErrorCode.CORRUPT_IMAGE, "it is cut off")
    await db.job_store.finish([failure])
    duplicates.settle(failure)
    assert await waiting[0] == token
    assert not waiting[1].done()
    duplicates.settle(second)
    assert await waiting[1] is None


async def test_cancelled_job_leaves_output_for_other_waiting_jobs(db: DatabaseHarness) -> None:
    duplicates = Duplicates(db.token_store)
    first, second, third = await outcomes(db, 3)
    assert await duplicates.reserve(first.claim, DIGEST)
    cancelled, waiting = (
        asyncio.create_task(duplicates.reserve(each.claim, DIGEST)) for each in (second, third)
    )
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.sleep(0)
    duplicates.settle(first)
    assert await waiting is None
