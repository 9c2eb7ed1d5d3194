"""Tests of the scheduler: claims, pauses, requeues, commits, and the stop."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imgsvc.database.job_store import host_key
from imgsvc.database.tokens import output_token, secret
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressionSettings
from imgsvc.network.circuit_breaker import MAX_OUTAGE_SECONDS
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.storage.filesystem import output_path
from tests.harness.database import NO_LOCK_WAIT
from tests.harness.service import SchedulerHarness, open_scheduler
from tests.origin import Origin, Reply
from tests.waiting import wait_until

REFUSED = ImageError(ImageErrorCode.CONNECT_FAILED, "the server refuses connections")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    async with open_scheduler(tmp_path) as harness:
        yield harness


@pytest.fixture
def dead_host() -> Iterator[str]:
    """Provide the URL of a host that refuses every connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def open_circuit(harness: SchedulerHarness, host_url: str, seconds_ago: float) -> None:
    for _ in range(10):
        harness.breakers.record_failure(host_key(host_url), REFUSED, time.monotonic() - seconds_ago)


def hold_lock(folder: Path) -> sqlite3.Connection:
    """Lock the database so that no other connection can write."""
    other = sqlite3.connect(folder / "imgsvc.db", isolation_level=None, timeout=20)
    other.execute("BEGIN IMMEDIATE")
    return other


# --- unreachable hosts -------------------------------------------------------------------------


async def test_scheduler_requeues_images_of_host_without_attempt_after_ten_failures_in_a_row(
    tmp_path: Path, dead_host: str
) -> None:
    async with open_scheduler(tmp_path, per_host=1, attempts=100) as harness:
        harness.breakers.record_failure(host_key(dead_host), REFUSED, time.monotonic())
        request = await harness.accept(*(f"{dead_host}/{n}.jpg" for n in range(30)))
        await wait_until(
            lambda: list(harness.breakers.open_circuits()) == [host_key(dead_host)],
            "the circuit to open",
        )
        await wait_until(
            lambda: harness.scheduler.in_flight == 0, "the claimed images to be requeued"
        )
        await harness.stop()
        images = await harness.image_rows(request)
        assert {status for status, *_ in images} == {"pending"}
        assert sum(attempts for _, attempts, *_ in images) == 9, (
            "an image that was not fetched has no attempt"
        )
        assert {not_before for _, attempts, _, not_before in images if not attempts} == {0.0}


async def test_successful_probe_closes_circuit_and_remaining_images_complete(
    harness: SchedulerHarness, origin: Origin
) -> None:
    urls = [
        origin.script(f"/{n}.jpg", Reply(gate="back", body=harness.script(f"image-{n}")))
        for n in range(5)
    ]
    open_circuit(harness, origin.base, seconds_ago=31)
    request = await harness.accept(*urls)
    await wait_until(lambda: origin.hits() == 1, "the probe")
    progress = (await harness.snapshot(request)).progress
    assert (progress.pending, progress.processing) == (4, 1), origin.seen()
    assert harness.scheduler.in_flight == 1
    origin.open_gate("back")
    assert (await harness.wait_finished(request)).progress.completed == 5
    assert harness.breakers.open_circuits() == {}
    assert {attempts for _, attempts, *_ in await harness.image_rows(request)} == {1}


async def test_failed_probe_counts_one_attempt_of_one_image(tmp_path: Path, dead_host: str) -> None:
    async with open_scheduler(tmp_path) as harness:
        open_circuit(harness, dead_host, seconds_ago=31)
        request = await harness.accept(*(f"{dead_host}/{n}.jpg" for n in range(5)))

        async def attempted() -> bool:
            return any(attempts for _, attempts, *_ in await harness.image_rows(request))

        await wait_until(attempted, "the probe to be committed")
        await harness.stop()
        images = await harness.image_rows(request)
        assert sorted(attempts for _, attempts, *_ in images) == [0, 0, 0, 0, 1]
        assert {status for status, *_ in images} == {"pending"}
        assert list(harness.breakers.open_circuits()) == [host_key(dead_host)]


async def test_images_waiting_ten_minutes_for_unreachable_host_fail_with_its_error(
    tmp_path: Path, dead_host: str, origin: Origin
) -> None:
    limits = ProcessingLimits(
        circuit_check_seconds=0.02, unreachable_check_seconds=0.02, unreachable_slice=2
    )
    async with open_scheduler(tmp_path, start=False, limits=limits) as harness:
        good = origin.serve("/good.jpg", harness.script("good"))
        fresh = await harness.accept(f"{dead_host}/fresh.jpg")
        old = await harness.accept(*(f"{dead_host}/{n}.jpg" for n in range(5)), good)
        await harness.db.database.write(
            lambda c: (
                c.execute(
                    "UPDATE requests SET created_at = created_at - ? WHERE key = ?",
                    (MAX_OUTAGE_SECONDS + 1, old.key),
                ).rowcount
            )
        )
        open_circuit(harness, dead_host, seconds_ago=MAX_OUTAGE_SECONDS + 1)
        harness.breakers.start_attempt(
            host_key(dead_host), time.monotonic()
        )  # a probe is already running
        harness.start()
        finished = await harness.wait_finished(old)
        assert (finished.progress.failed, finished.progress.completed) == (5, 1)
        assert [f.code for f in finished.failures] == [ImageErrorCode.CONNECT_FAILED]
        assert harness.events.finished == [old.key]
        assert (await harness.snapshot(fresh)).progress.pending == 1, (
            "it has not waited long enough"
        )
        message = await harness.db.database.read(
            lambda c: c.execute(
                "SELECT error_message FROM images WHERE number = 0 AND request_key = ?", (old.key,)
            ).fetchone()[0]
        )
        assert message.endswith("Stopped trying after 10 minutes.")


# --- full disk, unavailable database ----------------------------------------------------------


async def test_scheduler_claims_nothing_while_disk_is_full(
    tmp_path: Path, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ProcessingLimits(storage_retry_seconds=0.02)
    async with open_scheduler(tmp_path, start=False, limits=limits) as harness:
        request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))
        harness.claim_disk.full = True
        harness.start()
        await wait_until(lambda: "the disk is full" in caplog.text, "the scheduler to detect it")
        assert harness.scheduler.in_flight == 0
        harness.claim_disk.full = False
        assert (await harness.wait_finished(request)).progress.completed == 1
        assert origin.hits("/a.jpg") == 1


async def test_output_that_finds_disk_full_is_retried_without_counting_attempt(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(
        tmp_path, limits=ProcessingLimits(requeue_delay_seconds=0.1)
    ) as harness:
        harness.store_disk.full = True
        request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))
        await wait_until(lambda: harness.attempts("a") >= 2, "a second attempt")
        assert (await harness.image_rows(request))[0][1:3] == (0, None)
        assert harness.stored_files() == set()
        harness.store_disk.full = False
        assert (await harness.wait_finished(request)).progress.completed == 1
        assert (await harness.image_rows(request))[0][1] == 1
        assert len(harness.stored_files()) == 1


async def test_disk_full_before_store_requeues_image_with_delay_and_leaves_no_file(
    harness: SchedulerHarness, origin: Origin
) -> None:
    harness.store_disk.full = True
    request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))

    async def is_delayed() -> bool:
        return (await harness.image_rows(request))[0][3] > 0

    await wait_until(is_delayed, "the image to be requeued")
    (image,) = await harness.image_rows(request)
    assert image[:3] == ("pending", 0, None)
    assert 0 < image[3] - time.time() <= harness.limits.requeue_delay_seconds
    assert harness.stored_files() == set()


async def test_outcomes_are_committed_once_after_database_was_locked(
    tmp_path: Path,
    origin: Origin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = ProcessingLimits(storage_retry_seconds=0.02)
    async with open_scheduler(tmp_path, limits=limits, database_limits=NO_LOCK_WAIT) as harness:
        actions = f"touch={harness.path('started')} wait={harness.path('go')}"
        good = origin.serve("/good.jpg", harness.script("good", actions))
        bad = origin.script("/bad.jpg", Reply(404, gate="go"))
        request = await harness.accept(good, bad)
        await wait_until(harness.path("started").exists, "the compression")
        await wait_until(lambda: origin.hits() == 2, "both downloads")
        lock = hold_lock(tmp_path)
        origin.open_gate("go")
        harness.path("go").touch()
        await wait_until(lambda: "could not be committed" in caplog.text, "a failed commit")
        assert (await harness.snapshot(request)).progress.done == 0
        lock.execute("ROLLBACK")
        lock.close()
        finished = await harness.wait_finished(request)
        assert (finished.progress.completed, finished.progress.failed) == (1, 1)
        assert (origin.hits(), harness.attempts("good")) == (2, 1), "nothing is done twice"
        assert harness.events.finished == [request.key]


async def test_claiming_resumes_after_database_was_locked(
    tmp_path: Path,
    origin: Origin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = ProcessingLimits(storage_retry_seconds=0.02)
    async with open_scheduler(
        tmp_path, start=False, limits=limits, database_limits=NO_LOCK_WAIT
    ) as harness:
        request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))
        lock = hold_lock(tmp_path)
        harness.start()
        await wait_until(lambda: "claiming failed" in caplog.text, "a failed claim")
        lock.execute("ROLLBACK")
        lock.close()
        assert (await harness.wait_finished(request)).progress.completed == 1


async def test_unexpected_exception_fails_only_that_image_and_is_logged(
    harness: SchedulerHarness, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    harness.store_disk.error = LookupError("unexpected")
    request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))
    assert (await harness.wait_finished(request)).progress.failed == 1
    assert (await harness.image_rows(request))[0][:3] == ("failed", 1, "internal")
    assert (origin.hits("/a.jpg"), harness.attempts("a")) == (1, 1)
    assert harness.stored_files() == set()
    assert "unexpected" in caplog.text
    harness.store_disk.error = None
    after = await harness.accept(origin.serve("/b.jpg", harness.script("b")))
    assert (await harness.wait_finished(after)).progress.completed == 1, "the scheduler continues"


async def test_output_that_cannot_be_stored_fails_and_is_marked_for_deletion(
    tmp_path: Path, harness: SchedulerHarness, origin: Origin
) -> None:
    """A folder has the output's name, so the output can be neither stored nor deleted."""
    source = harness.script("a")
    token = output_token(
        await harness.db.database.read(secret),
        hashlib.sha256(source).digest(),
        CompressionSettings(),
    ).hex()
    output_path(tmp_path, f"{token}.jpg").mkdir(parents=True)
    request = await harness.accept(origin.serve("/a.jpg", source))
    assert (await harness.wait_finished(request)).progress.failed == 1
    assert (await harness.image_rows(request))[0][2] == ImageErrorCode.STORAGE_FAILED
    assert f"{token}.jpg" in await harness.db.delete_marked()


# --- cancelling and stopping -----------------------------------------------------------------------


async def test_cancel_downloads_cancels_and_commits_only_the_requests_downloads(
    harness: SchedulerHarness, origin: Origin
) -> None:
    held = [origin.script(f"/{n}.jpg", Reply(gate="held")) for n in range(3)]
    other = await harness.accept(origin.script("/x.jpg", Reply(gate="x", body=harness.script("x"))))
    request = await harness.accept(*held)
    await wait_until(lambda: origin.hits() == 4, "the downloads")
    await harness.scheduler.cancel_downloads(request.key)
    assert (await harness.snapshot(request)).progress.cancelled == 3
    assert harness.scheduler.in_flight == 1
    origin.open_gate("x")
    assert (await harness.wait_finished(other)).progress.completed == 1


async def test_cancel_downloads_cancels_jobs_that_have_not_started_running(
    tmp_path: Path, origin: Origin
) -> None:
    """Cancelling a task before its first step runs none of its code."""
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(origin.url("/a.jpg"), origin.url("/b.jpg"))
        harness.start()
        for claim in await harness.db.claim():
            harness.scheduler._start_job(claim)
        async with asyncio.timeout(20):
            await harness.scheduler.cancel_downloads(request.key)
        assert (await harness.snapshot(request)).progress.cancelled == 2
        assert origin.hits() == 0


async def test_stop_waits_for_downloads_that_finish_within_grace(
    harness: SchedulerHarness, origin: Origin
) -> None:
    request = await harness.accept(
        origin.script("/a.jpg", Reply(gate="a", body=harness.script("a")))
    )
    await wait_until(lambda: origin.hits() == 1, "the download")
    stopping = asyncio.create_task(harness.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    origin.open_gate("a")
    await stopping
    assert [image[:2] for image in await harness.image_rows(request)] == [("completed", 1)]


async def test_stop_requeues_downloads_that_exceed_grace(
    harness: SchedulerHarness, origin: Origin
) -> None:
    request = await harness.accept(origin.script("/a.jpg", Reply(gate="a")))
    await wait_until(lambda: origin.hits() == 1, "the download")
    await harness.stop(grace=0.1)
    assert await harness.image_rows(request) == [("pending", 0, None, 0.0)]


async def test_stop_requeues_image_that_worker_does_not_finish_within_grace(
    harness: SchedulerHarness, origin: Origin
) -> None:
    request = await harness.accept(
        origin.serve("/a.jpg", harness.script("a", f"touch={harness.path('started')} hang"))
    )
    await wait_until(harness.path("started").exists, "the worker to start")
    await harness.stop(grace=0.1)
    assert await harness.image_rows(request) == [("pending", 0, None, 0.0)]
    assert harness.stored_files() == set()


async def test_stop_requeues_images_of_a_claim_that_was_running(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(origin.script("/a.jpg", Reply(gate="never")))
        lock = hold_lock(tmp_path)
        harness.start()
        await asyncio.sleep(0)  # the scheduler starts a claim, which waits for the lock
        stopping = asyncio.create_task(harness.stop())
        await asyncio.sleep(0)
        lock.execute("ROLLBACK")
        lock.close()
        await stopping
        assert await harness.image_rows(request) == [("pending", 0, None, 0.0)]


async def test_transient_failure_is_retried_up_to_the_configured_attempts(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(tmp_path, attempts=2) as harness:
        request = await harness.accept(origin.script("/a.jpg", Reply(503)))
        assert (await harness.wait_finished(request)).progress.failed == 1
        assert (await harness.image_rows(request))[0][:3] == ("failed", 2, "http_status")
        assert origin.hits("/a.jpg") == 2
        assert set(harness.events.changed) == {request.key}
