"""Cancel, retry, delete: each is done to its end, whoever has gone meanwhile."""

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
from imgsvc.processing import request_actions as module
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
async def control(harness: SchedulerHarness) -> AsyncIterator[RequestActions]:
    control = make_control(harness)
    yield control
    await control.close()


def make_control(harness: SchedulerHarness) -> RequestActions:
    housekeeping = Maintenance(harness.db.uploads, harness.files, StorageConfig())
    return RequestActions(
        harness.db.work,
        harness.db.uploads,
        harness.queue,
        housekeeping,
        mark_changed=harness.changed_requests.extend,
    )


async def leave(work: asyncio.Task[None]) -> None:
    """Go away as a client does whose connection breaks: at the first pause of what it asked for."""
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def finished(harness: SchedulerHarness, *urls: str) -> Request:
    return await harness.done(await harness.accept(*urls))


async def test_who_waits_for_a_wish_is_told_of_a_stop(
    harness: SchedulerHarness, control: RequestActions, origin: Origin
) -> None:
    request = await finished(harness, origin.script("/x.jpg", Reply(404)))
    other = sqlite3.connect(harness.db.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    deleting = asyncio.create_task(control.delete(request.request_id))
    await asyncio.sleep(0)
    await control.close()
    other.execute("ROLLBACK")
    other.close()
    for wish in (deleting, control.retry(request.request_id)):
        with pytest.raises(ProblemError) as refusal:
            await wish
        assert refusal.value.code is ProblemCode.UNAVAILABLE


# --- cancelling -----------------------------------------------------------------------------------


async def test_cancelling_spares_what_a_worker_has(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCEL_SLICE", 2)
    async with open_scheduler(tmp_path, per_host=3) as harness:
        control = make_control(harness)
        script = harness.script(
            "at-work", f"touch={harness.path('begun')} wait={harness.path('go')}"
        )
        held = [origin.script(f"/{n}.jpg", Reply(gate="held")) for n in range(9)]
        request = await harness.accept(origin.serve("/work.jpg", script), *held)
        await wait_until(harness.path("begun").exists, "the worker")
        await wait_until(lambda: origin.hits() == 4, "the downloads")
        await control.cancel(request.request_id)
        shown = await harness.shown(request)
        assert shown.progress == Progress(processing=1, cancelled=9)
        labels = {"status": "cancelled", "code": ""}
        assert harness.metrics.registry.get_sample_value("imgsvc_images_total", labels) == 9
        assert shown.finished_at is None
        harness.path("go").touch()
        ended = await harness.done(request)
        assert ended.progress == Progress(completed=1, cancelled=9)
        assert ended.progress.status is RequestStatus.CANCELLED
        assert [f.request_key for f in harness.finished] == [request.key]
        assert origin.hits() == 4, "nothing more is fetched"
        with pytest.raises(ProblemError) as refused:
            await control.cancel(request.request_id)
        assert refused.value.code is ProblemCode.ALREADY_FINISHED


async def test_an_image_that_is_to_be_tried_again_is_cancelled_too(
    harness: SchedulerHarness, control: RequestActions, origin: Origin
) -> None:
    busy = origin.script("/busy.jpg", Reply(503, {"Retry-After": "200"}))
    request = await harness.accept(busy)

    async def rests() -> bool:
        return (await harness.images(request))[0][3] > 0

    await wait_until(rests, "the pause before the second try")
    await control.cancel(request.request_id)
    assert (await harness.shown(request)).progress == Progress(cancelled=1)


async def test_a_download_that_fails_while_it_is_cancelled_is_cancelled(
    harness: SchedulerHarness, control: RequestActions, origin: Origin
) -> None:
    request = await harness.accept(origin.script("/a.jpg", Reply(503, gate="a")))
    await wait_until(lambda: origin.hits() == 1, "the download")
    cancelling = asyncio.create_task(control.cancel(request.request_id))
    origin.open_gate("a")
    await cancelling
    assert (await harness.done(request)).progress == Progress(cancelled=1)


async def test_cancelling_goes_on_without_the_one_who_asked(
    harness: SchedulerHarness, control: RequestActions, origin: Origin
) -> None:
    request = await harness.accept(origin.script("/a.jpg", Reply(gate="never")))
    await wait_until(lambda: origin.hits() == 1, "the download")
    await leave(asyncio.create_task(control.cancel(request.request_id)))
    assert (await harness.done(request)).progress == Progress(cancelled=1)


async def test_cancelling_goes_on_at_the_next_start(tmp_path: Path, origin: Origin) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(*(origin.url(f"/{n}.jpg") for n in range(5)))
        await harness.db.work.start_cancel(request.request_id)
    async with open_scheduler(tmp_path) as harness:
        assert (await harness.shown(request)).finished_at is None
        await make_control(harness).resume()
        assert (await harness.shown(request)).progress == Progress(cancelled=5)
        assert origin.hits() == 0


async def test_cancelling_goes_on_when_the_database_takes_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(module, "DATABASE_RETRY_SECONDS", 0.02)
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept("http://a.example/1.jpg", "http://a.example/2.jpg")
        await harness.db.work.start_cancel(request.request_id)
        other = sqlite3.connect(harness.db.database.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        resuming = asyncio.create_task(make_control(harness).resume())
        await wait_until(lambda: "cancelling waits" in caplog.text, "a slice that fails")
        other.execute("ROLLBACK")
        other.close()
        await resuming
        assert (await harness.shown(request)).progress == Progress(cancelled=2)


# --- retrying --------------------------------------------------------------------------------------


async def test_retrying_wakes_the_queue_even_if_the_one_who_asked_has_gone(
    harness: SchedulerHarness, control: RequestActions, origin: Origin
) -> None:
    url = origin.script("/a.jpg", Reply(404), Reply(body=harness.script("a")))
    request = await finished(harness, url)
    assert request.progress == Progress(failed=1)
    harness.changed_requests.clear()
    await leave(asyncio.create_task(control.retry(request.request_id)))

    async def completed() -> bool:
        return (await harness.shown(request)).progress == Progress(completed=1)

    await wait_until(completed, "the retry")
    with pytest.raises(ProblemError) as refused:
        await control.retry(request.request_id)
    assert refused.value.code is ProblemCode.NOTHING_FAILED


# --- deleting --------------------------------------------------------------------------------------


async def test_deleting_removes_rows_and_files_even_if_the_one_who_asked_has_gone(
    harness: SchedulerHarness, control: RequestActions, origin: Origin
) -> None:
    mine = await finished(
        harness,
        origin.serve("/a.jpg", harness.script("a")),
        origin.serve("/b.jpg", harness.script("b")),
    )
    other = await finished(harness, origin.url("/b.jpg"))
    assert (len(harness.stored()), harness.tries("b")) == (2, 1)
    await leave(asyncio.create_task(control.delete(mine.request_id)))
    await wait_until(lambda: len(harness.stored()) == 1, "the file that only this request used")
    with pytest.raises(ProblemError) as refused:
        await harness.shown(mine)
    assert refused.value.code is ProblemCode.NOT_FOUND
    await control.delete(other.request_id)
    assert harness.stored() == set()


async def test_what_is_unfinished_is_not_deleted(
    harness: SchedulerHarness, control: RequestActions, origin: Origin
) -> None:
    request = await harness.accept(origin.script("/a.jpg", Reply(gate="a")))
    with pytest.raises(ProblemError) as refused:
        await control.delete(request.request_id)
    assert refused.value.code is ProblemCode.NOT_FINISHED


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete"])
async def test_what_is_not_there_is_said_so(control: RequestActions, verb: str) -> None:
    with pytest.raises(ProblemError) as refused:
        await getattr(control, verb)("0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1")
    assert refused.value.code is ProblemCode.NOT_FOUND
