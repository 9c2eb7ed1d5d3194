"""One image's way, and what twins save: equal content is compressed once, whoever brings it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.image_types import CompressionSettings
from imgsvc.models import Progress
from imgsvc.processing import scheduler
from tests.origin import Origin, Reply
from tests.scheduler_harness import SchedulerHarness, open_scheduler
from tests.waiting import wait_until


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    async with open_scheduler(tmp_path) as harness:
        yield harness


async def test_content_that_is_under_way_is_compressed_once(
    harness: SchedulerHarness, origin: Origin
) -> None:
    script = harness.script("same", f"wait={harness.path('go')}")
    urls = [origin.serve(f"/{n}.jpg", script) for n in range(6)]
    one = await harness.accept(*urls[:4])
    other = await harness.accept(*urls[4:])
    await wait_until(lambda: waiting_twins(harness) == 5, "five to wait for the sixth")
    harness.path("go").touch()
    assert (await harness.done(one)).progress == Progress(completed=4)
    assert (await harness.done(other)).progress == Progress(completed=2)
    assert harness.tries("same") == 1
    assert len(harness.stored()) == 1


async def test_other_settings_make_another_output(
    harness: SchedulerHarness, origin: Origin
) -> None:
    url = origin.serve("/a.jpg", harness.script("a"))
    first = await harness.accept(url)
    second = await harness.db.accept([[url]], settings=CompressionSettings(progressive=True))
    harness.queue.wake()
    await harness.done(first)
    await harness.done(second)
    assert harness.tries("a") == 2
    assert len(harness.stored()) == 2


async def test_a_twin_takes_over_from_one_that_fails(
    harness: SchedulerHarness, origin: Origin
) -> None:
    """The first try fails; the images that waited for it do not fail with it."""
    acts = f"once={harness.path('tried')} touch={harness.path('begun')} wait={harness.path('go')} refuse"
    script = harness.script("same", acts)
    first = await harness.accept(origin.serve("/1.jpg", script))
    await wait_until(harness.path("begun").exists, "the first of the twins")
    others = await harness.accept(*(origin.serve(f"/{n}.jpg", script) for n in (2, 3, 4)))
    await wait_until(lambda: waiting_twins(harness) == 3, "the others to wait for it")
    harness.path("go").touch()
    assert (await harness.done(first)).progress == Progress(failed=1)
    assert (await harness.done(others)).progress == Progress(completed=3)
    assert harness.tries("same") == 2, "one of the others takes over, for all of them"


async def test_a_twin_takes_over_from_one_that_found_no_room(
    harness: SchedulerHarness, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "REQUEUE_DELAY_SECONDS", 0.1)
    acts = f"once={harness.path('tried')} touch={harness.path('begun')} wait={harness.path('go')}"
    script = harness.script("same", acts)
    first = await harness.accept(origin.serve("/1.jpg", script))
    await wait_until(harness.path("begun").exists, "the first of the twins")
    second = await harness.accept(origin.serve("/2.jpg", script))
    await wait_until(lambda: waiting_twins(harness) == 1, "the other to wait for it")
    harness.room_to_store = False
    harness.path("go").touch()
    await wait_until(lambda: harness.tries("same") == 2, "the other's turn")
    harness.room_to_store = True
    assert (await harness.done(second)).progress == Progress(completed=1)
    assert (await harness.done(first)).progress == Progress(completed=1)
    assert len(harness.stored()) == 1


async def test_content_that_was_stored_before_is_not_compressed_again(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(tmp_path) as harness:
        first = await harness.accept(origin.serve("/1.jpg", harness.script("same")))
        await harness.done(first)
        stored = harness.stored()
    async with open_scheduler(tmp_path) as harness:
        second = await harness.accept(origin.serve("/2.jpg", harness.script("same")))
        assert (await harness.done(second)).progress == Progress(completed=1)
        assert (harness.tries("same"), harness.stored()) == (1, stored)


async def test_a_page_in_place_of_a_picture_is_described(tmp_path: Path, origin: Origin) -> None:
    page = b"<html><title>Sign in</title></html>"
    async with open_scheduler(tmp_path, function="imgsvc.images.codec:compress_image") as harness:
        request = await harness.accept(origin.serve("/a.jpg", page, "text/html"), origin.photo(1))
        assert (await harness.done(request)).progress == Progress(completed=1, failed=1)
        message = await harness.db.database.read(
            lambda c: c.execute("SELECT error_message FROM images WHERE number = 0").fetchone()[0]
        )
        assert "Sign in" in message
        (name,) = harness.stored()
        assert (
            harness.files.path(name).stat().st_size == (await harness.shown(request)).output_bytes
        )


async def test_a_failed_fetch_is_put_down_to_its_origin_and_a_failed_picture_is_not(
    harness: SchedulerHarness, origin: Origin
) -> None:
    corrupt = origin.serve("/corrupt.jpg", harness.script("corrupt", "refuse"))
    missing = origin.script("/missing.jpg", Reply(404))
    request = await harness.done(await harness.accept(corrupt, missing))
    assert sorted(failure.code for failure in request.failures) == ["corrupt_image", "http_status"]
    assert [image[1] for image in await harness.images(request)] == [1, 1]
    assert harness.stored() == set()


def waiting_twins(harness: SchedulerHarness) -> int:
    """How many flights have their bytes, and wait for another's output."""
    flights = harness.queue._jobs.values()
    return sum(job.fetched and job.content is None for job in flights)
