"""The queue: what it claims, when it waits, and that it loses nothing on the way."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from imgsvc.database import connection
from imgsvc.database.work import origin_key
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.breaker import EXPIRY_SECONDS
from imgsvc.processing import queue
from tests.origin import Origin, Reply
from tests.workshop import Workshop, opened_workshop, until

REFUSED = ImageError(ImageErrorCode.CONNECT_FAILED, "the server refuses connections")


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Workshop]:
    async with opened_workshop(tmp_path) as shop:
        yield shop


@pytest.fixture
def dead() -> Iterator[str]:
    """An origin that refuses every connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def open_breaker(shop: Workshop, origin: str, seconds_ago: float) -> None:
    for _ in range(10):
        shop.breakers.failed(origin_key(origin), REFUSED, time.monotonic() - seconds_ago)


def hold_lock(folder: Path) -> sqlite3.Connection:
    """Lock the database against every other writer."""
    other = sqlite3.connect(folder / "imgsvc.db", isolation_level=None, timeout=20)
    other.execute("BEGIN IMMEDIATE")
    return other


# --- dead origins ------------------------------------------------------------------------------


async def test_an_origin_that_fails_ten_times_in_a_row_is_left_alone(
    tmp_path: Path, dead: str
) -> None:
    async with opened_workshop(tmp_path, per_host=1, attempts=100) as shop:
        shop.breakers.failed(origin_key(dead), REFUSED, time.monotonic())
        request = await shop.accept(*(f"{dead}/{n}.jpg" for n in range(30)))
        await until(lambda: shop.breakers.open_origins() == [origin_key(dead)], "the breaker")
        await until(lambda: shop.queue.in_flight == 0, "what was claimed ahead to be put back")
        await shop.stop()
        images = await shop.images(request)
        assert {status for status, *_ in images} == {"pending"}
        assert sum(attempts for _, attempts, *_ in images) == 9, "tries not made are not counted"
        assert {not_before for _, attempts, _, not_before in images if not attempts} == {0.0}


async def test_one_probe_at_a_time_finds_out_that_an_origin_is_back(
    shop: Workshop, origin: Origin
) -> None:
    urls = [
        origin.script(f"/{n}.jpg", Reply(gate="back", body=shop.script(f"image-{n}")))
        for n in range(5)
    ]
    open_breaker(shop, origin.base, seconds_ago=31)
    request = await shop.accept(*urls)
    await until(lambda: origin.hits() == 1, "the probe")
    progress = (await shop.shown(request)).progress
    assert (progress.pending, progress.processing) == (4, 1)
    assert shop.queue.in_flight == 1
    origin.open_gate("back")
    assert (await shop.done(request)).progress.completed == 5
    assert shop.breakers.open_origins() == []
    assert {attempts for _, attempts, *_ in await shop.images(request)} == {1}


async def test_a_probe_that_fails_costs_one_try_of_one_image(tmp_path: Path, dead: str) -> None:
    async with opened_workshop(tmp_path) as shop:
        open_breaker(shop, dead, seconds_ago=31)
        request = await shop.accept(*(f"{dead}/{n}.jpg" for n in range(5)))

        async def tried() -> bool:
            return any(attempts for _, attempts, *_ in await shop.images(request))

        await until(tried, "the probe to be noted")
        await shop.stop()
        images = await shop.images(request)
        assert sorted(attempts for _, attempts, *_ in images) == [0, 0, 0, 0, 1]
        assert {status for status, *_ in images} == {"pending"}
        assert shop.breakers.open_origins() == [origin_key(dead)]


async def test_images_of_an_origin_that_stays_dead_fail_with_its_error(
    tmp_path: Path, dead: str, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "EXPIRY_SECONDS", 0.02)
    monkeypatch.setattr(queue, "EXPIRY_SLICE", 2)
    async with opened_workshop(tmp_path, start=False) as shop:
        good = origin.serve("/good.jpg", shop.script("good"))
        fresh = await shop.accept(f"{dead}/fresh.jpg")
        old = await shop.accept(*(f"{dead}/{n}.jpg" for n in range(5)), good)
        await shop.books.database.write(
            lambda c: (
                c.execute(
                    "UPDATE requests SET created_at = created_at - ? WHERE key = ?",
                    (EXPIRY_SECONDS + 1, old.key),
                ).rowcount
            )
        )
        open_breaker(shop, dead, seconds_ago=EXPIRY_SECONDS + 1)
        shop.breakers.launch(origin_key(dead), time.monotonic())  # the probe is under way elsewhere
        shop.start()
        ended = await shop.done(old)
        assert (ended.progress.failed, ended.progress.completed) == (5, 1)
        assert [f.code for f in ended.failures] == [ImageErrorCode.CONNECT_FAILED]
        assert [f.request_key for f in shop.finished] == [old.key]
        assert (await shop.shown(fresh)).progress.pending == 1, "it has not waited long enough"
        message = await shop.books.database.read(
            lambda c: c.execute(
                "SELECT error_message FROM images WHERE number = 0 AND request_key = ?", (old.key,)
            ).fetchone()[0]
        )
        assert message.endswith("the host has kept failing for 10 minutes")


# --- no room, no database ---------------------------------------------------------------------


async def test_nothing_is_claimed_while_the_disk_is_full(
    tmp_path: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(queue, "FULL_SECONDS", 0.02)
    async with opened_workshop(tmp_path, start=False) as shop:
        request = await shop.accept(origin.serve("/a.jpg", shop.script("a")))
        shop.room_to_claim = False
        shop.start()
        await until(lambda: "the disk is full" in caplog.text, "the queue to notice")
        assert shop.queue.in_flight == 0
        shop.room_to_claim = True
        assert (await shop.done(request)).progress.completed == 1
        assert origin.hits("/a.jpg") == 1


async def test_an_output_without_room_is_made_again_and_not_counted(
    shop: Workshop, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "REST_SECONDS", 0.1)
    shop.room_to_store = False
    request = await shop.accept(origin.serve("/a.jpg", shop.script("a")))
    await until(lambda: shop.tries("a") >= 2, "a second try")
    assert (await shop.images(request))[0][1:3] == (0, None)
    assert shop.stored() == set()
    shop.room_to_store = True
    assert (await shop.done(request)).progress.completed == 1
    assert (await shop.images(request))[0][1] == 1
    assert len(shop.stored()) == 1


async def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_nothing_of_it(
    shop: Workshop, origin: Origin
) -> None:
    shop.room_to_store = False
    request = await shop.accept(origin.serve("/a.jpg", shop.script("a")))

    async def rests() -> bool:
        return (await shop.images(request))[0][3] > 0

    await until(rests, "the image to be put back")
    (image,) = await shop.images(request)
    assert image[:3] == ("pending", 0, None)
    assert 0 < image[3] - time.time() <= queue.REST_SECONDS
    assert shop.stored() == set()


async def test_a_database_that_takes_no_write_for_a_while_loses_no_outcome(
    tmp_path: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(queue, "FULL_SECONDS", 0.02)
    async with opened_workshop(tmp_path) as shop:
        good = origin.script("/good.jpg", Reply(gate="go", body=shop.script("good")))
        bad = origin.script("/bad.jpg", Reply(404, gate="go"))
        request = await shop.accept(good, bad)
        await until(lambda: origin.hits() == 2, "both downloads")
        other = hold_lock(tmp_path)
        origin.open_gate("go")
        await until(lambda: "could not be committed" in caplog.text, "a commit that fails")
        assert (await shop.shown(request)).progress.done == 0
        other.execute("ROLLBACK")
        other.close()
        ended = await shop.done(request)
        assert (ended.progress.completed, ended.progress.failed) == (1, 1)
        assert (origin.hits(), shop.tries("good")) == (2, 1), "nothing is done twice"
        assert [f.request_key for f in shop.finished] == [request.key]


async def test_claims_go_on_when_the_database_takes_writes_again(
    tmp_path: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(queue, "FULL_SECONDS", 0.02)
    async with opened_workshop(tmp_path, start=False) as shop:
        request = await shop.accept(origin.serve("/a.jpg", shop.script("a")))
        other = hold_lock(tmp_path)
        shop.start()
        await until(lambda: "claiming failed" in caplog.text, "a claim that fails")
        other.execute("ROLLBACK")
        other.close()
        assert (await shop.done(request)).progress.completed == 1


async def test_an_error_of_our_own_fails_the_image_once(
    shop: Workshop, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    shop.bug = LookupError("nobody thought of this")
    request = await shop.accept(origin.serve("/a.jpg", shop.script("a")))
    assert (await shop.done(request)).progress.failed == 1
    assert (await shop.images(request))[0][:3] == ("failed", 1, "internal")
    assert (origin.hits("/a.jpg"), shop.tries("a")) == (1, 1)
    assert shop.stored() == set()
    assert "nobody thought of this" in caplog.text
    shop.bug = None
    after = await shop.accept(origin.serve("/b.jpg", shop.script("b")))
    assert (await shop.done(after)).progress.completed == 1, "the queue goes on"


async def test_files_that_cannot_be_deleted_hold_up_nobody(
    shop: Workshop, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """The output's place is taken by a folder: it can be neither stored nor deleted."""
    request = await shop.accept(
        origin.script("/a.jpg", Reply(gate="a", body=shop.script("a", f"wait={shop.path('go')}")))
    )
    await until(lambda: shop.queue.in_flight == 1, "the claim")
    (flight,) = shop.queue._flights.values()
    shop.files.path(f"{flight.claim.token}.jpg").mkdir(parents=True)
    origin.open_gate("a")
    shop.path("go").touch()
    assert (await shop.done(request)).progress.failed == 1
    assert (await shop.images(request))[0][2] == ImageErrorCode.STORAGE_FAILED
    assert "could not be deleted" in caplog.text


# --- cutting short ---------------------------------------------------------------------------------


async def test_abandoned_downloads_are_cancelled_and_that_is_noted(
    shop: Workshop, origin: Origin
) -> None:
    held = [origin.script(f"/{n}.jpg", Reply(gate="held")) for n in range(3)]
    other = await shop.accept(origin.script("/x.jpg", Reply(gate="x", body=shop.script("x"))))
    request = await shop.accept(*held)
    await until(lambda: origin.hits() == 4, "the downloads")
    await shop.queue.abandon(request.key)
    assert (await shop.shown(request)).progress.cancelled == 3
    assert shop.queue.in_flight == 1
    origin.open_gate("x")
    assert (await shop.done(other)).progress.completed == 1


async def test_what_was_claimed_a_moment_ago_can_be_abandoned(
    tmp_path: Path, origin: Origin
) -> None:
    """Its task has not made its first step: nothing in it would notice."""
    async with opened_workshop(tmp_path, start=False) as shop:
        request = await shop.accept(origin.url("/a.jpg"), origin.url("/b.jpg"))
        shop.start()
        for claim in await shop.books.claim():
            shop.queue._launch(claim)
        async with asyncio.timeout(20):
            await shop.queue.abandon(request.key)
        assert (await shop.shown(request)).progress.cancelled == 2
        assert origin.hits() == 0


async def test_a_stop_waits_for_downloads_that_land_meanwhile(
    shop: Workshop, origin: Origin
) -> None:
    request = await shop.accept(origin.script("/a.jpg", Reply(gate="a", body=shop.script("a"))))
    await until(lambda: origin.hits() == 1, "the download")
    stopping = asyncio.create_task(shop.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    origin.open_gate("a")
    await stopping
    assert [image[:2] for image in await shop.images(request)] == [("completed", 1)]


async def test_a_stop_puts_back_downloads_that_do_not_land(shop: Workshop, origin: Origin) -> None:
    request = await shop.accept(origin.script("/a.jpg", Reply(gate="a")))
    await until(lambda: origin.hits() == 1, "the download")
    await shop.stop(grace=0.1)
    assert await shop.images(request) == [("pending", 0, None, 0.0)]


async def test_a_stop_puts_back_what_a_worker_does_not_finish_in_time(
    shop: Workshop, origin: Origin
) -> None:
    request = await shop.accept(
        origin.serve("/a.jpg", shop.script("a", f"touch={shop.path('begun')} hang"))
    )
    await until(shop.path("begun").exists, "the worker to begin")
    await shop.stop(grace=0.1)
    assert await shop.images(request) == [("pending", 0, None, 0.0)]
    assert shop.stored() == set()


async def test_what_is_claimed_as_a_stop_begins_is_put_back(tmp_path: Path, origin: Origin) -> None:
    async with opened_workshop(tmp_path, start=False) as shop:
        request = await shop.accept(origin.script("/a.jpg", Reply(gate="never")))
        other = hold_lock(tmp_path)
        shop.start()
        await asyncio.sleep(0)  # the queue asks for a claim, which waits for the lock
        stopping = asyncio.create_task(shop.stop())
        await asyncio.sleep(0)
        other.execute("ROLLBACK")
        other.close()
        await stopping
        assert await shop.images(request) == [("pending", 0, None, 0.0)]


async def test_an_image_that_fails_transiently_waits_and_is_tried_so_often(
    tmp_path: Path, origin: Origin
) -> None:
    async with opened_workshop(tmp_path, attempts=2) as shop:
        request = await shop.accept(origin.script("/a.jpg", Reply(503)))
        assert (await shop.done(request)).progress.failed == 1
        assert (await shop.images(request))[0][:3] == ("failed", 2, "http_status")
        assert origin.hits("/a.jpg") == 2
        assert set(shop.touched) == {request.key}
