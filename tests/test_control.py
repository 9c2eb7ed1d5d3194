"""Cancel, retry, delete: each is done to its end, whoever has gone meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.config import StorageConfig
from imgsvc.database import connection
from imgsvc.errors import Refusal, RefusalCode
from imgsvc.models import Progress, Request, Status
from imgsvc.processing import control as module
from imgsvc.processing.control import Control
from imgsvc.processing.housekeeping import Housekeeping
from tests.origin import Origin, Reply
from tests.workshop import Workshop, opened_workshop, until


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Workshop]:
    async with opened_workshop(tmp_path) as shop:
        yield shop


@pytest.fixture
async def control(shop: Workshop) -> AsyncIterator[Control]:
    control = make_control(shop)
    yield control
    await control.close()


def make_control(shop: Workshop) -> Control:
    housekeeping = Housekeeping(shop.books.uploads, shop.files, StorageConfig())
    return Control(
        shop.books.work, shop.books.uploads, shop.queue, housekeeping, touch=shop.touched.extend
    )


async def leave(work: asyncio.Task[None]) -> None:
    """Go away as a client does whose connection breaks: at the first pause of what it asked for."""
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def finished(shop: Workshop, *urls: str) -> Request:
    return await shop.done(await shop.accept(*urls))


async def test_who_waits_for_a_wish_is_told_of_a_stop(
    shop: Workshop, control: Control, origin: Origin
) -> None:
    request = await finished(shop, origin.script("/x.jpg", Reply(404)))
    other = sqlite3.connect(shop.books.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    deleting = asyncio.create_task(control.delete(request.request_id))
    await asyncio.sleep(0)
    await control.close()
    other.execute("ROLLBACK")
    other.close()
    for wish in (deleting, control.retry(request.request_id)):
        with pytest.raises(Refusal) as refusal:
            await wish
        assert refusal.value.code is RefusalCode.UNAVAILABLE


# --- cancelling -----------------------------------------------------------------------------------


async def test_cancelling_spares_what_a_worker_has(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCEL_SLICE", 2)
    async with opened_workshop(tmp_path, per_host=3) as shop:
        control = make_control(shop)
        script = shop.script("at-work", f"touch={shop.path('begun')} wait={shop.path('go')}")
        held = [origin.script(f"/{n}.jpg", Reply(gate="held")) for n in range(9)]
        request = await shop.accept(origin.serve("/work.jpg", script), *held)
        await until(shop.path("begun").exists, "the worker")
        await until(lambda: origin.hits() == 4, "the downloads")
        await control.cancel(request.request_id)
        shown = await shop.shown(request)
        assert shown.progress == Progress(processing=1, cancelled=9)
        labels = {"status": "cancelled", "code": ""}
        assert shop.metrics.registry.get_sample_value("imgsvc_images_total", labels) == 9
        assert shown.finished_at is None
        shop.path("go").touch()
        ended = await shop.done(request)
        assert ended.progress == Progress(completed=1, cancelled=9)
        assert ended.progress.status is Status.CANCELLED
        assert [f.request_key for f in shop.finished] == [request.key]
        assert origin.hits() == 4, "nothing more is fetched"
        with pytest.raises(Refusal) as refused:
            await control.cancel(request.request_id)
        assert refused.value.code is RefusalCode.ALREADY_FINISHED


async def test_an_image_that_is_to_be_tried_again_is_cancelled_too(
    shop: Workshop, control: Control, origin: Origin
) -> None:
    busy = origin.script("/busy.jpg", Reply(503, {"Retry-After": "200"}))
    request = await shop.accept(busy)

    async def rests() -> bool:
        return (await shop.images(request))[0][3] > 0

    await until(rests, "the pause before the second try")
    await control.cancel(request.request_id)
    assert (await shop.shown(request)).progress == Progress(cancelled=1)


async def test_a_download_that_fails_while_it_is_cancelled_is_cancelled(
    shop: Workshop, control: Control, origin: Origin
) -> None:
    request = await shop.accept(origin.script("/a.jpg", Reply(503, gate="a")))
    await until(lambda: origin.hits() == 1, "the download")
    cancelling = asyncio.create_task(control.cancel(request.request_id))
    origin.open_gate("a")
    await cancelling
    assert (await shop.done(request)).progress == Progress(cancelled=1)


async def test_cancelling_goes_on_without_the_one_who_asked(
    shop: Workshop, control: Control, origin: Origin
) -> None:
    request = await shop.accept(origin.script("/a.jpg", Reply(gate="never")))
    await until(lambda: origin.hits() == 1, "the download")
    await leave(asyncio.create_task(control.cancel(request.request_id)))
    assert (await shop.done(request)).progress == Progress(cancelled=1)


async def test_cancelling_goes_on_at_the_next_start(tmp_path: Path, origin: Origin) -> None:
    async with opened_workshop(tmp_path, start=False) as shop:
        request = await shop.accept(*(origin.url(f"/{n}.jpg") for n in range(5)))
        await shop.books.work.begin_cancel(request.request_id)
    async with opened_workshop(tmp_path) as shop:
        assert (await shop.shown(request)).finished_at is None
        await make_control(shop).resume()
        assert (await shop.shown(request)).progress == Progress(cancelled=5)
        assert origin.hits() == 0


async def test_cancelling_goes_on_when_the_database_takes_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(module, "REST_SECONDS", 0.02)
    async with opened_workshop(tmp_path, start=False) as shop:
        request = await shop.accept("http://a.example/1.jpg", "http://a.example/2.jpg")
        await shop.books.work.begin_cancel(request.request_id)
        other = sqlite3.connect(shop.books.database.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        resuming = asyncio.create_task(make_control(shop).resume())
        await until(lambda: "cancelling waits" in caplog.text, "a slice that fails")
        other.execute("ROLLBACK")
        other.close()
        await resuming
        assert (await shop.shown(request)).progress == Progress(cancelled=2)


# --- retrying --------------------------------------------------------------------------------------


async def test_retrying_wakes_the_queue_even_if_the_one_who_asked_has_gone(
    shop: Workshop, control: Control, origin: Origin
) -> None:
    url = origin.script("/a.jpg", Reply(404), Reply(body=shop.script("a")))
    request = await finished(shop, url)
    assert request.progress == Progress(failed=1)
    shop.touched.clear()
    await leave(asyncio.create_task(control.retry(request.request_id)))

    async def completed() -> bool:
        return (await shop.shown(request)).progress == Progress(completed=1)

    await until(completed, "the retry")
    with pytest.raises(Refusal) as refused:
        await control.retry(request.request_id)
    assert refused.value.code is RefusalCode.NOTHING_FAILED


# --- deleting --------------------------------------------------------------------------------------


async def test_deleting_removes_rows_and_files_even_if_the_one_who_asked_has_gone(
    shop: Workshop, control: Control, origin: Origin
) -> None:
    mine = await finished(
        shop, origin.serve("/a.jpg", shop.script("a")), origin.serve("/b.jpg", shop.script("b"))
    )
    other = await finished(shop, origin.url("/b.jpg"))
    assert (len(shop.stored()), shop.tries("b")) == (2, 1)
    await leave(asyncio.create_task(control.delete(mine.request_id)))
    await until(lambda: len(shop.stored()) == 1, "the file that only this request used")
    with pytest.raises(Refusal) as refused:
        await shop.shown(mine)
    assert refused.value.code is RefusalCode.NOT_FOUND
    await control.delete(other.request_id)
    assert shop.stored() == set()


async def test_what_is_unfinished_is_not_deleted(
    shop: Workshop, control: Control, origin: Origin
) -> None:
    request = await shop.accept(origin.script("/a.jpg", Reply(gate="a")))
    with pytest.raises(Refusal) as refused:
        await control.delete(request.request_id)
    assert refused.value.code is RefusalCode.NOT_FINISHED


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete"])
async def test_what_is_not_there_is_said_so(control: Control, verb: str) -> None:
    with pytest.raises(Refusal) as refused:
        await getattr(control, verb)("0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1")
    assert refused.value.code is RefusalCode.NOT_FOUND
