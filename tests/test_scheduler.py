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
from imgsvc.database.job_store import host_key
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.network.circuit_breaker import MAX_WAIT_SECONDS
from imgsvc.processing import scheduler
from tests.origin import Origin, Reply
from tests.scheduler_harness import SchedulerHarness, open_scheduler
from tests.waiting import wait_until

REFUSED = ImageError(ImageErrorCode.CONNECT_FAILED, "the server refuses connections")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    async with open_scheduler(tmp_path) as harness:
        yield harness


@pytest.fixture
def dead() -> Iterator[str]:
    """An origin that refuses every connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def open_breaker(harness: SchedulerHarness, origin: str, seconds_ago: float) -> None:
    for _ in range(10):
        harness.breakers.record_failure(host_key(origin), REFUSED, time.monotonic() - seconds_ago)


def hold_lock(folder: Path) -> sqlite3.Connection:
    """Lock the database against every other writer."""
    other = sqlite3.connect(folder / "imgsvc.db", isolation_level=None, timeout=20)
    other.execute("BEGIN IMMEDIATE")
    return other


# --- dead origins ------------------------------------------------------------------------------


async def test_an_origin_that_fails_ten_times_in_a_row_is_left_alone(
    tmp_path: Path, dead: str
) -> None:
    async with open_scheduler(tmp_path, per_host=1, attempts=100) as harness:
        harness.breakers.record_failure(host_key(dead), REFUSED, time.monotonic())
        request = await harness.accept(*(f"{dead}/{n}.jpg" for n in range(30)))
        await wait_until(lambda: harness.breakers.open_hosts() == [host_key(dead)], "the breaker")
        await wait_until(
            lambda: harness.queue.in_flight == 0, "what was claimed ahead to be put back"
        )
        await harness.stop()
        images = await harness.images(request)
        assert {status for status, *_ in images} == {"pending"}
        assert sum(attempts for _, attempts, *_ in images) == 9, "tries not made are not counted"
        assert {not_before for _, attempts, _, not_before in images if not attempts} == {0.0}


async def test_one_probe_at_a_time_finds_out_that_an_origin_is_back(
    harness: SchedulerHarness, origin: Origin
) -> None:
    urls = [
        origin.script(f"/{n}.jpg", Reply(gate="back", body=harness.script(f"image-{n}")))
        for n in range(5)
    ]
    open_breaker(harness, origin.base, seconds_ago=31)
    request = await harness.accept(*urls)
    await wait_until(lambda: origin.hits() == 1, "the probe")
    progress = (await harness.shown(request)).progress
    assert (progress.pending, progress.processing) == (4, 1)
    assert harness.queue.in_flight == 1
    origin.open_gate("back")
    assert (await harness.done(request)).progress.completed == 5
    assert harness.breakers.open_hosts() == []
    assert {attempts for _, attempts, *_ in await harness.images(request)} == {1}


async def test_a_probe_that_fails_costs_one_try_of_one_image(tmp_path: Path, dead: str) -> None:
    async with open_scheduler(tmp_path) as harness:
        open_breaker(harness, dead, seconds_ago=31)
        request = await harness.accept(*(f"{dead}/{n}.jpg" for n in range(5)))

        async def tried() -> bool:
            return any(attempts for _, attempts, *_ in await harness.images(request))

        await wait_until(tried, "the probe to be noted")
        await harness.stop()
        images = await harness.images(request)
        assert sorted(attempts for _, attempts, *_ in images) == [0, 0, 0, 0, 1]
        assert {status for status, *_ in images} == {"pending"}
        assert harness.breakers.open_hosts() == [host_key(dead)]


async def test_images_of_an_origin_that_stays_dead_fail_with_its_error(
    tmp_path: Path, dead: str, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "EXPIRY_CHECK_SECONDS", 0.02)
    monkeypatch.setattr(scheduler, "EXPIRY_SLICE", 2)
    async with open_scheduler(tmp_path, start=False) as harness:
        good = origin.serve("/good.jpg", harness.script("good"))
        fresh = await harness.accept(f"{dead}/fresh.jpg")
        old = await harness.accept(*(f"{dead}/{n}.jpg" for n in range(5)), good)
        await harness.db.database.write(
            lambda c: (
                c.execute(
                    "UPDATE requests SET created_at = created_at - ? WHERE key = ?",
                    (MAX_WAIT_SECONDS + 1, old.key),
                ).rowcount
            )
        )
        open_breaker(harness, dead, seconds_ago=MAX_WAIT_SECONDS + 1)
        harness.breakers.start_attempt(
            host_key(dead), time.monotonic()
        )  # the probe is under way elsewhere
        harness.start()
        ended = await harness.done(old)
        assert (ended.progress.failed, ended.progress.completed) == (5, 1)
        assert [f.code for f in ended.failures] == [ImageErrorCode.CONNECT_FAILED]
        assert [f.request_key for f in harness.finished] == [old.key]
        assert (await harness.shown(fresh)).progress.pending == 1, "it has not waited long enough"
        message = await harness.db.database.read(
            lambda c: c.execute(
                "SELECT error_message FROM images WHERE number = 0 AND request_key = ?", (old.key,)
            ).fetchone()[0]
        )
        assert message.endswith("Stopped trying after 10 minutes.")


# --- no room, no database ---------------------------------------------------------------------


async def test_nothing_is_claimed_while_the_disk_is_full(
    tmp_path: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(scheduler, "STORAGE_RETRY_SECONDS", 0.02)
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))
        harness.room_to_claim = False
        harness.start()
        await wait_until(lambda: "the disk is full" in caplog.text, "the queue to notice")
        assert harness.queue.in_flight == 0
        harness.room_to_claim = True
        assert (await harness.done(request)).progress.completed == 1
        assert origin.hits("/a.jpg") == 1


async def test_an_output_without_room_is_made_again_and_not_counted(
    harness: SchedulerHarness, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "REQUEUE_DELAY_SECONDS", 0.1)
    harness.room_to_store = False
    request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))
    await wait_until(lambda: harness.tries("a") >= 2, "a second try")
    assert (await harness.images(request))[0][1:3] == (0, None)
    assert harness.stored() == set()
    harness.room_to_store = True
    assert (await harness.done(request)).progress.completed == 1
    assert (await harness.images(request))[0][1] == 1
    assert len(harness.stored()) == 1


async def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_nothing_of_it(
    harness: SchedulerHarness, origin: Origin
) -> None:
    harness.room_to_store = False
    request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))

    async def rests() -> bool:
        return (await harness.images(request))[0][3] > 0

    await wait_until(rests, "the image to be put back")
    (image,) = await harness.images(request)
    assert image[:3] == ("pending", 0, None)
    assert 0 < image[3] - time.time() <= scheduler.REQUEUE_DELAY_SECONDS
    assert harness.stored() == set()


async def test_a_database_that_takes_no_write_for_a_while_loses_no_outcome(
    tmp_path: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(scheduler, "STORAGE_RETRY_SECONDS", 0.02)
    async with open_scheduler(tmp_path) as harness:
        good = origin.script("/good.jpg", Reply(gate="go", body=harness.script("good")))
        bad = origin.script("/bad.jpg", Reply(404, gate="go"))
        request = await harness.accept(good, bad)
        await wait_until(lambda: origin.hits() == 2, "both downloads")
        other = hold_lock(tmp_path)
        origin.open_gate("go")
        await wait_until(lambda: "could not be committed" in caplog.text, "a commit that fails")
        assert (await harness.shown(request)).progress.done == 0
        other.execute("ROLLBACK")
        other.close()
        ended = await harness.done(request)
        assert (ended.progress.completed, ended.progress.failed) == (1, 1)
        assert (origin.hits(), harness.tries("good")) == (2, 1), "nothing is done twice"
        assert [f.request_key for f in harness.finished] == [request.key]


async def test_claims_go_on_when_the_database_takes_writes_again(
    tmp_path: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.02)
    monkeypatch.setattr(connection, "LOCKED_SECONDS", 0.0)
    monkeypatch.setattr(scheduler, "STORAGE_RETRY_SECONDS", 0.02)
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))
        other = hold_lock(tmp_path)
        harness.start()
        await wait_until(lambda: "claiming failed" in caplog.text, "a claim that fails")
        other.execute("ROLLBACK")
        other.close()
        assert (await harness.done(request)).progress.completed == 1


async def test_an_error_of_our_own_fails_the_image_once(
    harness: SchedulerHarness, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    harness.bug = LookupError("nobody thought of this")
    request = await harness.accept(origin.serve("/a.jpg", harness.script("a")))
    assert (await harness.done(request)).progress.failed == 1
    assert (await harness.images(request))[0][:3] == ("failed", 1, "internal")
    assert (origin.hits("/a.jpg"), harness.tries("a")) == (1, 1)
    assert harness.stored() == set()
    assert "nobody thought of this" in caplog.text
    harness.bug = None
    after = await harness.accept(origin.serve("/b.jpg", harness.script("b")))
    assert (await harness.done(after)).progress.completed == 1, "the queue goes on"


async def test_files_that_cannot_be_deleted_hold_up_nobody(
    harness: SchedulerHarness, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """The output's place is taken by a folder: it can be neither stored nor deleted."""
    request = await harness.accept(
        origin.script(
            "/a.jpg", Reply(gate="a", body=harness.script("a", f"wait={harness.path('go')}"))
        )
    )
    await wait_until(lambda: harness.queue.in_flight == 1, "the claim")
    (job,) = harness.queue._jobs.values()
    harness.files.path(f"{job.claim.token}.jpg").mkdir(parents=True)
    origin.open_gate("a")
    harness.path("go").touch()
    assert (await harness.done(request)).progress.failed == 1
    assert (await harness.images(request))[0][2] == ImageErrorCode.STORAGE_FAILED
    assert "could not be deleted" in caplog.text


# --- cutting short ---------------------------------------------------------------------------------


async def test_abandoned_downloads_are_cancelled_and_that_is_noted(
    harness: SchedulerHarness, origin: Origin
) -> None:
    held = [origin.script(f"/{n}.jpg", Reply(gate="held")) for n in range(3)]
    other = await harness.accept(origin.script("/x.jpg", Reply(gate="x", body=harness.script("x"))))
    request = await harness.accept(*held)
    await wait_until(lambda: origin.hits() == 4, "the downloads")
    await harness.queue.cancel_downloads(request.key)
    assert (await harness.shown(request)).progress.cancelled == 3
    assert harness.queue.in_flight == 1
    origin.open_gate("x")
    assert (await harness.done(other)).progress.completed == 1


async def test_what_was_claimed_a_moment_ago_can_be_abandoned(
    tmp_path: Path, origin: Origin
) -> None:
    """Its task has not made its first step: nothing in it would notice."""
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(origin.url("/a.jpg"), origin.url("/b.jpg"))
        harness.start()
        for claim in await harness.db.claim():
            harness.queue._start_job(claim)
        async with asyncio.timeout(20):
            await harness.queue.cancel_downloads(request.key)
        assert (await harness.shown(request)).progress.cancelled == 2
        assert origin.hits() == 0


async def test_a_stop_waits_for_downloads_that_land_meanwhile(
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
    assert [image[:2] for image in await harness.images(request)] == [("completed", 1)]


async def test_a_stop_puts_back_downloads_that_do_not_land(
    harness: SchedulerHarness, origin: Origin
) -> None:
    request = await harness.accept(origin.script("/a.jpg", Reply(gate="a")))
    await wait_until(lambda: origin.hits() == 1, "the download")
    await harness.stop(grace=0.1)
    assert await harness.images(request) == [("pending", 0, None, 0.0)]


async def test_a_stop_puts_back_what_a_worker_does_not_finish_in_time(
    harness: SchedulerHarness, origin: Origin
) -> None:
    request = await harness.accept(
        origin.serve("/a.jpg", harness.script("a", f"touch={harness.path('begun')} hang"))
    )
    await wait_until(harness.path("begun").exists, "the worker to begin")
    await harness.stop(grace=0.1)
    assert await harness.images(request) == [("pending", 0, None, 0.0)]
    assert harness.stored() == set()


async def test_what_is_claimed_as_a_stop_begins_is_put_back(tmp_path: Path, origin: Origin) -> None:
    async with open_scheduler(tmp_path, start=False) as harness:
        request = await harness.accept(origin.script("/a.jpg", Reply(gate="never")))
        other = hold_lock(tmp_path)
        harness.start()
        await asyncio.sleep(0)  # the queue asks for a claim, which waits for the lock
        stopping = asyncio.create_task(harness.stop())
        await asyncio.sleep(0)
        other.execute("ROLLBACK")
        other.close()
        await stopping
        assert await harness.images(request) == [("pending", 0, None, 0.0)]


async def test_an_image_that_fails_transiently_waits_and_is_tried_so_often(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(tmp_path, attempts=2) as harness:
        request = await harness.accept(origin.script("/a.jpg", Reply(503)))
        assert (await harness.done(request)).progress.failed == 1
        assert (await harness.images(request))[0][:3] == ("failed", 2, "http_status")
        assert origin.hits("/a.jpg") == 2
        assert set(harness.changed_requests) == {request.key}
