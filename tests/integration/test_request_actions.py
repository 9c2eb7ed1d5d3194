"""Tests of cancel, retry and delete. Each continues after its caller has disconnected."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.database.limits import DatabaseLimits
from imgsvc.errors import ImageErrorCode, ProblemCode, ProblemError
from imgsvc.models import Failed, Progress, Request, RequestStatus, Requeued
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.request_actions import RequestActions
from imgsvc.serializers import eta_seconds
from tests.harness.database import NO_LOCK_WAIT, completed
from tests.harness.service import SchedulerHarness, open_scheduler
from tests.origin import Origin, Reply
from tests.waiting import wait_until


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    async with open_scheduler(tmp_path) as harness:
        yield harness


@pytest.fixture
def actions(harness: SchedulerHarness) -> RequestActions:
    return harness.service.actions


async def disconnect(work: asyncio.Task[None]) -> None:
    """Cancel an action at its first await, as a broken connection of its client does."""
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def finished_request(harness: SchedulerHarness, *urls: str) -> Request:
    return await harness.wait_finished(await harness.accept(*urls))


async def test_actions_raise_unavailable_when_service_stops(
    harness: SchedulerHarness, actions: RequestActions, origin: Origin
) -> None:
    request = await finished_request(harness, origin.script("/x.jpg", Reply(404)))
    lock = sqlite3.connect(harness.db.database.path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    deleting = asyncio.create_task(actions.delete(request.request_id))
    await asyncio.sleep(0)
    await actions.close()
    lock.execute("ROLLBACK")
    lock.close()
    for action in (deleting, actions.retry(request.request_id)):
        with pytest.raises(ProblemError) as refused:
            await action
        assert refused.value.code is ProblemCode.UNAVAILABLE


# --- cancelling -----------------------------------------------------------------------------------


async def test_cancel_cancels_pending_images_and_downloads_but_not_images_at_workers(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(
        tmp_path, per_host=3, limits=ProcessingLimits(cancel_slice=2)
    ) as harness:
        actions = harness.service.actions
        script = harness.script(
            "at-work", f"touch={harness.path('started')} wait={harness.path('go')}"
        )
        held = [origin.script(f"/{n}.jpg", Reply(gate="held")) for n in range(9)]
        request = await harness.accept(origin.serve("/work.jpg", script), *held)
        await wait_until(harness.path("started").exists, "the worker")
        await wait_until(lambda: origin.hits() == 4, "the downloads")
        await actions.cancel(request.request_id)
        snapshot = await harness.snapshot(request)
        assert snapshot.progress == Progress(processing=1, cancelled=9)
        labels = {"status": "cancelled", "code": ""}
        assert harness.metrics.registry.get_sample_value("imgsvc_images_total", labels) == 9
        assert snapshot.finished_at is None
        harness.path("go").touch()
        finished = await harness.wait_finished(request)
        assert finished.progress == Progress(completed=1, cancelled=9)
        assert finished.progress.status is RequestStatus.CANCELLED
        assert harness.events.finished == [request.key]
        assert origin.hits() == 4, "no further image is fetched"
        with pytest.raises(ProblemError) as refused:
            await actions.cancel(request.request_id)
        assert refused.value.code is ProblemCode.ALREADY_FINISHED


async def test_cancel_cancels_image_that_waits_for_its_retry(
    harness: SchedulerHarness, actions: RequestActions, origin: Origin
) -> None:
    busy = origin.script("/busy.jpg", Reply(503, {"Retry-After": "200"}))
    request = await harness.accept(busy)

    async def is_delayed() -> bool:
        return (await harness.image_rows(request))[0][3] > 0

    await wait_until(is_delayed, "the delay before the second attempt")
    await actions.cancel(request.request_id)
    assert (await harness.snapshot(request)).progress == Progress(cancelled=1)


async def test_download_that_fails_during_cancel_is_cancelled(
    harness: SchedulerHarness, actions: RequestActions, origin: Origin
) -> None:
    request = await harness.accept(origin.script("/a.jpg", Reply(503, gate="a")))
    await wait_until(lambda: origin.hits() == 1, "the download")
    cancelling = asyncio.create_task(actions.cancel(request.request_id))
    origin.open_gate("a")
    await cancelling
    assert (await harness.wait_finished(request)).progress == Progress(cancelled=1)


async def test_cancel_continues_after_client_disconnects(
    harness: SchedulerHarness, actions: RequestActions, origin: Origin
) -> None:
    request = await harness.accept(origin.script("/a.jpg", Reply(gate="never")))
    await wait_until(lambda: origin.hits() == 1, "the download")
    await disconnect(asyncio.create_task(actions.cancel(request.request_id)))
    assert (await harness.wait_finished(request)).progress == Progress(cancelled=1)


async def test_resume_continues_cancel_of_earlier_process(tmp_path: Path, origin: Origin) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(*(origin.url(f"/{n}.jpg") for n in range(5)))
        await harness.db.job_store.start_cancel(request.request_id)
    async with open_scheduler(tmp_path) as harness:
        assert (await harness.snapshot(request)).finished_at is None
        await harness.service.actions.resume()
        assert (await harness.snapshot(request)).progress == Progress(cancelled=5)
        assert origin.hits() == 0


async def test_cancel_continues_after_database_was_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ProcessingLimits(cancel_retry_seconds=0.02)
    async with open_scheduler(
        tmp_path, start=False, limits=limits, database_limits=NO_LOCK_WAIT
    ) as harness:
        request = await harness.accept("http://a.example/1.jpg", "http://a.example/2.jpg")
        await harness.db.job_store.start_cancel(request.request_id)
        lock = sqlite3.connect(harness.db.database.path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        resuming = asyncio.create_task(harness.service.actions.resume())
        await wait_until(lambda: "cancelling waits" in caplog.text, "a failed slice")
        lock.execute("ROLLBACK")
        lock.close()
        await resuming
        assert (await harness.snapshot(request)).progress == Progress(cancelled=2)


# --- cancelling one host ---------------------------------------------------------------------------


LOOPBACK = ["127.0.0.0/8", "::1/128"]


def host_of(url: str) -> str:
    return url.split("/")[2]


def on_localhost(url: str) -> str:
    """Return a URL of the origin at another host, which is the same server."""
    return url.replace("127.0.0.1", "localhost")


async def test_cancel_of_host_cancels_its_pending_images_and_downloads_only(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(
        tmp_path,
        per_host=3,
        limits=ProcessingLimits(cancel_slice=2),
        allowed_networks=LOOPBACK,
    ) as harness:
        actions = harness.service.actions
        body = harness.script("other")
        other = origin.script("/other.jpg", Reply(gate="other", body=body))
        other = on_localhost(other)
        work = harness.script("work", f"touch={harness.path('started')} wait={harness.path('go')}")
        held = [origin.script(f"/{n}.jpg", Reply(gate="held")) for n in range(9)]
        request = await harness.accept(origin.serve("/work.jpg", work), other, *held)
        await wait_until(harness.path("started").exists, "the worker")
        await wait_until(lambda: origin.hits() == 5, "the downloads")
        await actions.cancel(request.request_id, host_of(held[0]))
        snapshot = await harness.snapshot(request)
        assert snapshot.progress == Progress(processing=2, cancelled=9)
        assert eta_seconds(snapshot, time.time() + 1) is None, "cancelled images are no progress"
        origin.open_gate("other")
        harness.path("go").touch()
        finished = await harness.wait_finished(request)
        assert finished.progress == Progress(completed=2, cancelled=9)
        assert origin.hits() == 5, "no further image is fetched"
        assert harness.events.finished == [request.key]


async def test_cancel_of_host_with_the_last_images_finishes_the_request(
    harness: SchedulerHarness, actions: RequestActions, origin: Origin
) -> None:
    busy = origin.script("/busy.jpg", Reply(503, {"Retry-After": "200"}))
    request = await harness.accept(busy, webhook="http://127.0.0.1:9/")

    async def is_waiting() -> bool:
        return bool((await harness.snapshot(request)).waiting)

    await wait_until(is_waiting, "the delay before the second attempt")
    (waiting,) = (await harness.snapshot(request)).waiting
    await actions.cancel(request.request_id, waiting.host)
    snapshot = await harness.snapshot(request)
    assert (snapshot.progress, snapshot.waiting) == (Progress(cancelled=1), ())
    assert snapshot.finished_at is not None
    assert snapshot.webhook is not None
    assert harness.events.finished == [request.key]
    with pytest.raises(ProblemError) as refused:
        await actions.cancel(request.request_id, waiting.host)
    assert refused.value.code is ProblemCode.ALREADY_FINISHED


@pytest.mark.parametrize(
    ("host", "cancelled"),
    [
        ("a.example", 2),
        ("A.EXAMPLE", 2),
        ("a.example:80", 1),
        ("a.example:443", 1),
        ("a.example:81", 1),
        ("b.example", 0),
    ],
)
async def test_cancel_of_host_includes_both_schemes(
    tmp_path: Path, host: str, cancelled: int
) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(
            *("http://a.example/1.jpg", "https://a.example/1.jpg", "https://a.example:81/1.jpg")
        )
        if cancelled:
            await harness.service.actions.cancel(request.request_id, host)
        else:
            with pytest.raises(ProblemError, match=r"no unfinished images of b\.example"):
                await harness.service.actions.cancel(request.request_id, host)
        assert (await harness.snapshot(request)).progress.cancelled == cancelled


async def test_resume_continues_cancel_of_host_and_claims_none_of_its_images(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        gone = [origin.url(f"/{n}.jpg") for n in range(5)]
        good = on_localhost(origin.serve("/good.jpg", harness.script("good")))
        request = await harness.accept(*gone, good)
        await harness.db.job_store.start_cancel_host(request.request_id, host_of(gone[0]))
    async with open_scheduler(tmp_path, allowed_networks=LOOPBACK) as harness:

        async def is_completed() -> bool:
            return (await harness.snapshot(request)).progress.completed == 1

        await wait_until(is_completed, "the image of the other host")
        assert (await harness.snapshot(request)).progress.pending == 5
        await harness.service.actions.resume()
        finished = await harness.wait_finished(request)
        assert finished.progress == Progress(completed=1, cancelled=5)
        assert origin.hits() == 1


async def test_requeued_image_of_cancelled_host_is_cancelled(tmp_path: Path) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept("http://a.example/1.jpg", "http://b.example/1.jpg")
        claims = await harness.db.claim()
        await harness.db.job_store.start_cancel_host(request.request_id, "a.example")
        await harness.db.job_store.finish([Requeued(claim, 0) for claim in claims])
        assert (await harness.snapshot(request)).progress == Progress(pending=1, cancelled=1)


# --- retrying --------------------------------------------------------------------------------------


async def test_retry_wakes_scheduler_even_if_client_disconnects(
    harness: SchedulerHarness, actions: RequestActions, origin: Origin
) -> None:
    url = origin.script("/a.jpg", Reply(404), Reply(body=harness.script("a")))
    request = await finished_request(harness, url)
    assert request.progress == Progress(failed=1)
    harness.events.changed.clear()
    await disconnect(asyncio.create_task(actions.retry(request.request_id)))

    async def completed() -> bool:
        return (await harness.snapshot(request)).progress == Progress(completed=1)

    await wait_until(completed, "the retry")
    with pytest.raises(ProblemError) as refused:
        await actions.retry(request.request_id)
    assert refused.value.code is ProblemCode.NOTHING_FAILED


async def test_retry_includes_cancelled_images_if_asked(tmp_path: Path) -> None:
    limits = DatabaseLimits(bulk_slice=2)
    async with open_scheduler(tmp_path, start=False, database_limits=limits) as harness:
        store, actions = harness.db.job_store, harness.service.actions
        request = await harness.accept(*(f"http://a.example/{n}.jpg" for n in range(8)))
        done, failed, *_ = await harness.db.claim(limit=2)
        error = Failed(failed, 1, ImageErrorCode.TIMEOUT, "slow")
        await store.finish([completed(done), error])
        await actions.cancel(request.request_id)
        assert (await harness.snapshot(request)).progress == Progress(0, 0, 1, 1, 6)
        await actions.retry(request.request_id, include_cancelled=True)
        while await harness.db.claim(limit=1, capacity=0):
            pass
        snapshot = await harness.snapshot(request)
        assert snapshot.progress.pending >= 2
        assert (snapshot.measured_done, snapshot.finished_at) == (1, None)
        claims = [c for _ in range(5) for c in await harness.db.claim(limit=10)]
        assert len(claims) == 7
        assert {claim.attempts for claim in claims} == {0}
        await store.finish([completed(claim) for claim in claims])
        assert (await harness.snapshot(request)).progress == Progress(completed=8)


async def test_images_of_cancelled_host_can_be_retried_when_request_has_finished(
    tmp_path: Path,
) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept("http://a.example/1.jpg", "http://b.example/1.jpg")
        await harness.service.actions.cancel(request.request_id, "a.example")
        await harness.db.complete(await harness.db.claim())
        assert (await harness.snapshot(request)).progress == Progress(completed=1, cancelled=1)
        await harness.service.actions.retry(request.request_id, include_cancelled=True)
        await harness.db.complete(await harness.db.claim())
        assert (await harness.snapshot(request)).progress == Progress(completed=2)


async def test_retry_refuses_request_without_failed_or_cancelled_images(tmp_path: Path) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        actions = harness.service.actions
        request = await harness.accept("http://a.example/1.jpg")
        await actions.cancel(request.request_id)
        with pytest.raises(ProblemError, match="no failed images"):
            await actions.retry(request.request_id)
        await actions.retry(request.request_id, include_cancelled=True)
        await harness.db.complete(await harness.db.claim())
        with pytest.raises(ProblemError, match="no failed or cancelled images") as refused:
            await actions.retry(request.request_id, include_cancelled=True)
        assert refused.value.code is ProblemCode.NOTHING_FAILED


async def test_host_that_is_cancelled_during_retry_is_not_retried_further(tmp_path: Path) -> None:
    limits = DatabaseLimits(bulk_slice=2)
    async with open_scheduler(tmp_path, start=False, database_limits=limits) as harness:
        urls = [f"http://{host}.example/{n}.jpg" for n in range(3) for host in "ab"]
        request = await harness.accept(*urls)
        await harness.service.actions.cancel(request.request_id)
        await harness.service.actions.retry(request.request_id, include_cancelled=True)
        await harness.service.actions.cancel(request.request_id, "a.example")
        claims = [c for _ in range(5) for c in await harness.db.claim(limit=10)]
        await harness.db.complete(claims)
        finished = await harness.snapshot(request)
        assert finished.progress == Progress(completed=3, cancelled=3)
        assert finished.finished_at is not None


# --- deleting --------------------------------------------------------------------------------------


async def test_delete_removes_rows_and_unshared_files_even_if_client_disconnects(
    harness: SchedulerHarness, actions: RequestActions, origin: Origin
) -> None:
    mine = await finished_request(
        harness,
        origin.serve("/a.jpg", harness.script("a")),
        origin.serve("/b.jpg", harness.script("b")),
    )
    other = await finished_request(harness, origin.url("/b.jpg"))
    assert (len(harness.stored_files()), harness.attempts("b")) == (2, 1)
    await disconnect(asyncio.create_task(actions.delete(mine.request_id)))
    await wait_until(lambda: len(harness.stored_files()) == 1, "the deletion of the unshared file")
    with pytest.raises(ProblemError) as refused:
        await harness.snapshot(mine)
    assert refused.value.code is ProblemCode.NOT_FOUND
    await actions.delete(other.request_id)
    assert harness.stored_files() == set()


async def test_delete_refuses_unfinished_request(
    harness: SchedulerHarness, actions: RequestActions, origin: Origin
) -> None:
    request = await harness.accept(origin.script("/a.jpg", Reply(gate="a")))
    with pytest.raises(ProblemError) as refused:
        await actions.delete(request.request_id)
    assert refused.value.code is ProblemCode.NOT_FINISHED


@pytest.mark.parametrize("action", ["cancel", "retry", "delete"])
async def test_action_on_unknown_request_raises_not_found(
    actions: RequestActions, action: str
) -> None:
    with pytest.raises(ProblemError) as refused:
        await getattr(actions, action)("0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1")
    assert refused.value.code is ProblemCode.NOT_FOUND
