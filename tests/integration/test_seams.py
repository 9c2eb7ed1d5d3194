"""The scheduler runs on any store and any executor: here, on those of the tests.

`docs/how-to/extend.md` describes what a new one has to change.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.image_types import CompressionSettings
from imgsvc.models import Progress, RequestOptions
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.storage.bucket_outage import BucketLimits
from imgsvc.upload_types import UploadOptions
from tests.fake_executor import FakeExecutor
from tests.faulty_objects import FaultyObjects, bucket_store, http_error
from tests.harness.service import open_scheduler
from tests.memory_store import MemoryStore
from tests.waiting import wait_until

LIMITS = ProcessingLimits(requeue_delay_seconds=0.05)


async def test_scheduler_processes_images_with_fake_executor_and_memory_store(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    executor = FakeExecutor(store)
    executor.sources = {
        "http://a.example:80/1.jpg": b"the same source",
        "http://b.example:80/2.jpg": b"the same source",
        "http://a.example:80/3.jpg": b"another source",
        "http://a.example:80/4.jpg": b"refuse",
    }
    async with open_scheduler(tmp_path, store=store, executor=executor) as harness:
        request = await harness.accept(*executor.sources, "http://a.example:80/missing.jpg")
        finished = await harness.wait_finished(request)
        assert finished.progress == Progress(completed=3, failed=2)
        codes = {failure.code for failure in finished.failures}
        assert codes == {"corrupt_image", "http_status"}
        assert sorted(executor.compressed) == [b"another source", b"the same source"]
        assert sorted(store.outputs.values()) == [b"another", b"the sam"]
        assert executor.held == 0
        files = await harness.db.database.read(
            lambda c: c.execute("SELECT name, source_digest FROM files").fetchall()
        )
    digests = {hashlib.sha256(data).digest() for data in executor.compressed}
    assert {digest for _, digest in files} == digests
    assert {name for name, _ in files} == set(store.outputs)


async def test_scheduler_waits_while_memory_store_is_full(tmp_path: Path) -> None:
    store = MemoryStore()
    executor = FakeExecutor(store)
    executor.sources = {"http://a.example:80/1.jpg": b"a source"}
    store.full = True
    async with open_scheduler(tmp_path, store=store, executor=executor, limits=LIMITS) as harness:
        request = await harness.accept(*executor.sources)
        await wait_until(lambda: len(executor.compressed) > 1, "a second attempt")
        store.full = False
        assert (await harness.wait_finished(request)).progress == Progress(completed=1)
        assert (await harness.image_rows(request))[0][1] == 1


async def test_images_of_request_that_used_less_worker_time_are_claimed_first(
    tmp_path: Path,
) -> None:
    executor = FakeExecutor(store := MemoryStore())
    first = {f"http://a.example:80/{n}.jpg": f"first {n}".encode() for n in range(6)}
    second = {f"http://a.example:80/{n}.jpg": f"second {n}".encode() for n in range(6, 12)}
    executor.sources = first | second
    async with open_scheduler(
        tmp_path, start=False, store=store, executor=executor, concurrency=1, per_host=1
    ) as harness:
        slow, quick = await harness.accept(*first), await harness.accept(*second)
        executor.worker_seconds = {slow.key: 10.0}
        harness.start()
        await harness.wait_finished(slow)
        await harness.wait_finished(quick)
    last = executor.compressed.index(b"second 11")
    assert sum(source.startswith(b"first") for source in executor.compressed[:last]) <= 2


async def test_stop_requeues_image_that_fake_executor_does_not_finish(tmp_path: Path) -> None:
    store = MemoryStore()
    executor = FakeExecutor(store)
    executor.sources = {"http://a.example:80/1.jpg": b"hang"}
    async with open_scheduler(tmp_path, store=store, executor=executor) as harness:
        request = await harness.accept(*executor.sources)
        await wait_until(lambda: executor.held == 1, "the fetch")
        await harness.stop(grace=0.1)
        assert await harness.image_rows(request) == [("pending", 0, None, 0.0)]
    assert (store.outputs, executor.held) == ({}, 0)


async def test_scheduler_starts_no_job_while_store_reports_a_problem(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    executor = FakeExecutor(store)
    executor.sources = {"http://a.example:80/1.jpg": b"a source"}
    store.outage = "the bucket does not respond"
    limits = ProcessingLimits(storage_retry_seconds=0.05)
    async with open_scheduler(tmp_path, store=store, executor=executor, limits=limits) as harness:
        request = await harness.accept(*executor.sources)
        await wait_until(lambda: "the bucket does not respond" in caplog.text, "the pause")
        assert (await harness.snapshot(request)).progress == Progress(pending=1)
        assert executor.held == 0
        store.outage = None
        assert (await harness.wait_finished(request)).progress == Progress(completed=1)
    assert len(executor.compressed) == 1


async def test_stop_requeues_jobs_that_wait_for_a_bucket(tmp_path: Path) -> None:
    objects = FaultyObjects()
    store = bucket_store(objects, BucketLimits(hold_seconds=3_600, cancel_seconds=0.01))
    executor = FakeExecutor(store)
    executor.sources = {"http://a.example:80/1.jpg": b"a source"}
    limits = ProcessingLimits(download_grace_seconds=0.01)
    async with open_scheduler(tmp_path, store=store, executor=executor, limits=limits) as harness:
        objects.error = http_error(503, "SlowDown")
        request = await harness.accept(*executor.sources)
        await wait_until(lambda: store.problem, "the outage")
        await harness.stop(grace=3_600)
        assert (await harness.snapshot(request)).progress == Progress(pending=1)
        assert (await harness.image_rows(request))[0][1] == 0


async def test_uploads_get_503_while_store_reports_a_problem(tmp_path: Path) -> None:
    store = MemoryStore()
    options = UploadOptions(RequestOptions(CompressionSettings()))
    async with open_scheduler(tmp_path, store=store, start=False) as harness:
        store.outage = "the bucket does not respond"
        with pytest.raises(ProblemError, match="the bucket does not respond") as caught:
            await harness.service.intake.upload(table(), lambda: options)
        assert caught.value.code is ProblemCode.UNAVAILABLE
        assert "the bucket does not respond" in harness.service.monitor.health().reasons


async def table() -> AsyncIterator[bytes]:
    yield b"S. No.,Product Name,Input Image Urls\r\n1,A,http://a.example/1.jpg\r\n"
