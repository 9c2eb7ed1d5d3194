"""Tests of jobs: each content is compressed once, also for different requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.image_types import CompressionSettings
from imgsvc.models import Progress
from imgsvc.processing.job import Stage
from imgsvc.processing.limits import ProcessingLimits
from imgsvc.storage.filesystem import output_path
from tests.harness.service import SchedulerHarness, open_scheduler
from tests.origin import Origin, Reply
from tests.waiting import wait_until


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    async with open_scheduler(tmp_path) as harness:
        yield harness


async def test_content_of_concurrent_jobs_is_compressed_once(
    harness: SchedulerHarness, origin: Origin
) -> None:
    script = harness.script("same", f"wait={harness.path('go')}")
    urls = [origin.serve(f"/{n}.jpg", script) for n in range(6)]
    one = await harness.accept(*urls[:4])
    other = await harness.accept(*urls[4:])
    await wait_until(lambda: waiting_duplicates(harness) == 5, "five jobs to wait for the sixth")
    harness.path("go").touch()
    assert (await harness.wait_finished(one)).progress == Progress(completed=4)
    assert (await harness.wait_finished(other)).progress == Progress(completed=2)
    assert harness.attempts("same") == 1
    assert len(harness.stored_files()) == 1


async def test_same_content_with_other_settings_is_compressed_again(
    harness: SchedulerHarness, origin: Origin
) -> None:
    url = origin.serve("/a.jpg", harness.script("a"))
    first = await harness.accept(url)
    second = await harness.db.accept([[url]], settings=CompressionSettings(progressive=True))
    harness.scheduler.wake()
    await harness.wait_finished(first)
    await harness.wait_finished(second)
    assert harness.attempts("a") == 2
    assert len(harness.stored_files()) == 2


async def test_waiting_duplicate_compresses_content_after_first_job_failed(
    harness: SchedulerHarness, origin: Origin
) -> None:
    """The first job fails; the jobs that wait for its output do not fail with it."""
    actions = (
        f"once={harness.path('tried')} touch={harness.path('started')} "
        f"wait={harness.path('go')} refuse"
    )
    script = harness.script("same", actions)
    first = await harness.accept(origin.serve("/1.jpg", script))
    await wait_until(harness.path("started").exists, "the first job to start")
    others = await harness.accept(*(origin.serve(f"/{n}.jpg", script) for n in (2, 3, 4)))
    await wait_until(lambda: waiting_duplicates(harness) == 3, "the other jobs to wait for it")
    harness.path("go").touch()
    assert (await harness.wait_finished(first)).progress == Progress(failed=1)
    assert (await harness.wait_finished(others)).progress == Progress(completed=3)
    assert harness.attempts("same") == 2, "one of the other jobs compresses for all of them"


async def test_waiting_duplicate_compresses_content_after_first_job_found_disk_full(
    tmp_path: Path, origin: Origin
) -> None:
    limits = ProcessingLimits(requeue_delay_seconds=0.1)
    async with open_scheduler(tmp_path, limits=limits) as harness:
        actions = (
            f"once={harness.path('tried')} touch={harness.path('started')} "
            f"wait={harness.path('go')}"
        )
        script = harness.script("same", actions)
        first = await harness.accept(origin.serve("/1.jpg", script))
        await wait_until(harness.path("started").exists, "the first job to start")
        second = await harness.accept(origin.serve("/2.jpg", script))
        await wait_until(lambda: waiting_duplicates(harness) == 1, "the second job to wait for it")
        harness.store_disk.full = True
        harness.path("go").touch()
        await wait_until(lambda: harness.attempts("same") == 2, "the second job to compress")
        harness.store_disk.full = False
        assert (await harness.wait_finished(second)).progress == Progress(completed=1)
        assert (await harness.wait_finished(first)).progress == Progress(completed=1)
        assert len(harness.stored_files()) == 1


async def test_content_stored_by_earlier_process_is_not_compressed_again(
    tmp_path: Path, origin: Origin
) -> None:
    async with open_scheduler(tmp_path) as harness:
        first = await harness.accept(origin.serve("/1.jpg", harness.script("same")))
        await harness.wait_finished(first)
        stored = harness.stored_files()
    async with open_scheduler(tmp_path) as harness:
        second = await harness.accept(origin.serve("/2.jpg", harness.script("same")))
        assert (await harness.wait_finished(second)).progress == Progress(completed=1)
        assert (harness.attempts("same"), harness.stored_files()) == (1, stored)


async def test_error_of_html_page_contains_its_title(tmp_path: Path, origin: Origin) -> None:
    page = b"<html><title>Sign in</title></html>"
    async with open_scheduler(tmp_path, function="imgsvc.images.codec:compress_image") as harness:
        request = await harness.accept(origin.serve("/a.jpg", page, "text/html"), origin.photo(1))
        assert (await harness.wait_finished(request)).progress == Progress(completed=1, failed=1)
        message = await harness.db.database.read(
            lambda c: c.execute("SELECT error_message FROM images WHERE number = 0").fetchone()[0]
        )
        assert "Sign in" in message
        (name,) = harness.stored_files()
        assert (
            output_path(tmp_path, name).stat().st_size
            == (await harness.snapshot(request)).output_bytes
        )


async def test_permanent_fetch_and_compression_errors_fail_after_one_attempt(
    harness: SchedulerHarness, origin: Origin
) -> None:
    corrupt = origin.serve("/corrupt.jpg", harness.script("corrupt", "refuse"))
    missing = origin.script("/missing.jpg", Reply(404))
    request = await harness.wait_finished(await harness.accept(corrupt, missing))
    assert sorted(failure.code for failure in request.failures) == ["corrupt_image", "http_status"]
    assert [image[1] for image in await harness.image_rows(request)] == [1, 1]
    assert harness.stored_files() == set()


def waiting_duplicates(harness: SchedulerHarness) -> int:
    """Return the number of jobs that wait for the output of the one that is being compressed."""
    stages = [job.stage for job in harness.scheduler._jobs.values()]
    return stages.count(Stage.MATCHING) if stages.count(Stage.COMPRESSING) == 1 else 0
