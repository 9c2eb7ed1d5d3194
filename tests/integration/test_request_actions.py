"""Tests of cancel, retry and delete. Each continues after its caller has disconnected."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.config import StorageConfig
from imgsvc.database import connection
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.models import Progress, Request, RequestStatus
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.processing.maintenance import Maintenance
from imgsvc.processing.request_actions import RequestActions
from tests.origin import Origin, Reply
from tests.scheduler_harness import SchedulerHarness, open_scheduler
from tests.waiting import wait_until


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    async with open_scheduler(tmp_path) as harness:
        yield harness


@pytest.fixture
async def actions(harness: SchedulerHarness) -> AsyncIterator[RequestActions]:
    actions = make_actions(harness)
    yield actions
    await actions.close()


def make_actions(harness: SchedulerHarness) -> RequestActions:
    maintenance = Maintenance(
        harness.db.request_store, harness.db.token_store, harness.store, StorageConfig()
    )
    return RequestActions(
        harness.db.job_store,
        harness.db.request_store,
        harness.scheduler,
        maintenance,
        results=harness.processing.results,
        events=harness.events,
        limits=harness.limits,
    )


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
        actions = make_actions(harness)
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
        await make_actions(harness).resume()
        assert (await harness.snapshot(request)).progress == Progress(cancelled=5)
        assert origin.hits() == 0


async def test_cancel_continues_after_database_was_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    limits = ProcessingLimits(cancel_retry_seconds=0.02)
    async with open_scheduler(tmp_path, start=False, limits=limits) as harness:
        request = await harness.accept("http://a.example/1.jpg", "http://a.example/2.jpg")
        await harness.db.job_store.start_cancel(request.request_id)
        lock = sqlite3.connect(harness.db.database.path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        resuming = asyncio.create_task(make_actions(harness).resume())
        await wait_until(lambda: "cancelling waits" in caplog.text, "a failed slice")
        lock.execute("ROLLBACK")
        lock.close()
        await resuming
        assert (await harness.snapshot(request)).progress == Progress(cancelled=2)


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
