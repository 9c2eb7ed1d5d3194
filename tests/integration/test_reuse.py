"""Tests of the weekly run: what was done before is not done again, and URLs stay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.image_types import CompressionSettings
from imgsvc.models import (
    ImageRow,
    Progress,
    Request,
    RequestOptions,
    Reuse,
    ReuseCounts,
)
from tests.harness.database import TABLE
from tests.harness.service import SchedulerHarness, open_scheduler
from tests.origin import Origin, Reply
from tests.waiting import wait_until


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SchedulerHarness]:
    async with open_scheduler(tmp_path) as harness:
        yield harness


def serve(harness: SchedulerHarness, origin: Origin, name: str, version: int = 1) -> str:
    """Serve a version of an image that has an ETag. Return its URL."""
    headers = {"ETag": f'"{name}-{version}"'}
    body = harness.script(f"{name}-{version}")
    return origin.script(f"/{name}.jpg", Reply(headers=headers, body=body))


async def images(harness: SchedulerHarness, request: Request) -> list[ImageRow]:
    async with harness.db.queries.open(request.request_id) as snapshot:
        return [image for row in await snapshot.products(0, 100) for image in row.images]


async def run(
    harness: SchedulerHarness, *urls: str, options: RequestOptions | None = None
) -> tuple[Request, list[ImageRow]]:
    """Run a request of these URLs to its end. Return its snapshot and images."""
    key = await harness.db.stage([[url] for url in urls])
    request = await harness.db.request_store.accept(
        key, TABLE, options or RequestOptions(CompressionSettings()), max_waiting=10**6
    )
    harness.scheduler.wake()
    finished = await harness.wait_finished(request)
    return finished, await images(harness, finished)


async def delete(harness: SchedulerHarness, request: Request) -> None:
    """Delete a request and its outputs, as the maintenance does."""
    await harness.db.request_store.mark_deleting(request.request_id)
    while await harness.db.request_store.purge_slice():
        pass
    names, last = await harness.db.token_store.begin_deletion(1_000)
    assert last is None
    await harness.store.delete(names)
    await harness.db.token_store.end_deletion(names)


async def test_second_run_downloads_and_compresses_only_changed_images(
    harness: SchedulerHarness, origin: Origin
) -> None:
    urls = [serve(harness, origin, f"image{n}") for n in range(20)]
    first, before = await run(harness, *urls)
    assert first.reused == ReuseCounts()
    serve(harness, origin, "image3", version=2)
    second, after = await run(harness, *urls)
    assert second.progress == Progress(completed=20)
    assert second.reused == ReuseCounts(not_modified=19)
    assert (second.input_bytes, second.output_bytes) == (first.input_bytes, first.output_bytes)
    changed = [n for n in range(20) if before[n].file != after[n].file]
    assert changed == [3]
    assert [image.reused for image in after] == [
        None if n == 3 else Reuse.NOT_MODIFIED for n in range(20)
    ]
    assert [harness.attempts(f"image{n}-1") for n in range(20)] == [1] * 20
    assert origin.hits() == 40
    assert len(harness.stored_files()) == 21


async def test_urls_stay_when_first_request_is_deleted(
    harness: SchedulerHarness, origin: Origin
) -> None:
    url = serve(harness, origin, "a")
    first, before = await run(harness, url)
    second, after = await run(harness, url)
    await delete(harness, first)
    assert before[0].file == after[0].file
    assert harness.stored_files() == {str(after[0].file)}
    assert await harness.db.queries.public_file(str(after[0].file)) is not None
    await delete(harness, second)
    assert harness.stored_files() == set()
    third, again = await run(harness, url)
    assert again[0].file == before[0].file
    assert third.reused == ReuseCounts(), "nothing is remembered without an output"
    assert harness.stored_files() == {str(again[0].file)}
    assert "if-none-match" not in origin.seen("/a.jpg")[-1].headers


async def test_slug_stays_when_products_are_renamed_or_moved(
    harness: SchedulerHarness, origin: Origin
) -> None:
    a, b = serve(harness, origin, "a"), serve(harness, origin, "b")
    _, before = await run(harness, a, b)
    assert [image.slug for image in before] == ["product-0-1", "product-1-1"]
    serve(harness, origin, "a", version=2)
    _, after = await run(harness, b, a)
    assert [image.slug for image in after] == ["product-1-1", "product-0-1"]
    assert after[0].public_path == before[1].public_path
    _, moved = await run(harness, serve(harness, origin, "c"), b)
    assert [image.slug for image in moved] == ["product-0-1", "product-1-1"]


async def test_slug_of_source_without_validators_is_remembered_until_its_output_is_deleted(
    harness: SchedulerHarness, origin: Origin
) -> None:
    other = serve(harness, origin, "other")
    url = origin.script("/a.jpg", Reply(body=harness.script("a")))
    first, before = await run(harness, url)
    second, after = await run(harness, other, url, url)
    assert before[0].slug == "product-0-1"
    assert [image.slug for image in after] == ["product-0-1"] * 3
    await delete(harness, first)
    await delete(harness, second)
    _, again = await run(harness, other, url, url)
    assert [image.slug for image in again] == ["product-0-1", "product-1-1", "product-1-1"]


async def test_slug_is_remembered_when_an_older_version_of_the_source_is_deleted(
    harness: SchedulerHarness, origin: Origin
) -> None:
    other, url = serve(harness, origin, "other"), serve(harness, origin, "a")
    first, _ = await run(harness, other, url)
    serve(harness, origin, "a", version=2)
    second, _ = await run(harness, url)
    await delete(harness, first)
    _, after = await run(harness, url)
    assert [image.slug for image in after] == ["product-1-1"]
    await delete(harness, second)


async def test_other_settings_download_source_whole(
    harness: SchedulerHarness, origin: Origin
) -> None:
    url = serve(harness, origin, "a")
    _, before = await run(harness, url)
    options = RequestOptions(CompressionSettings(progressive=True))
    other, after = await run(harness, url, options=options)
    assert (other.reused, after[0].reused) == (ReuseCounts(), None)
    assert before[0].file != after[0].file
    assert "if-none-match" not in origin.seen("/a.jpg")[-1].headers


async def test_fresh_request_sends_no_conditions(harness: SchedulerHarness, origin: Origin) -> None:
    """The host says 304 although its bytes have changed."""
    url = origin.script("/a.jpg", Reply(headers={"ETag": '"1"'}, body=harness.script("old")))
    _, before = await run(harness, url)
    origin.script("/a.jpg", Reply(headers={"ETag": '"1"'}, body=harness.script("new")))
    _, stale = await run(harness, url)
    assert stale[0].file == before[0].file
    options = RequestOptions(CompressionSettings(), fresh=True)
    request, after = await run(harness, url, options=options)
    assert request.options.fresh
    assert request.reused == ReuseCounts()
    assert after[0].file != before[0].file
    _, later = await run(harness, url)
    assert (later[0].file, later[0].reused) == (after[0].file, Reuse.NOT_MODIFIED)


async def test_etag_that_always_changes_reuses_output_of_same_bytes(
    harness: SchedulerHarness, origin: Origin
) -> None:
    body = harness.script("a")
    url = origin.script("/a.jpg", *(Reply(headers={"ETag": f'"{n}"'}, body=body) for n in range(3)))
    _, before = await run(harness, url)
    second, after = await run(harness, url)
    assert (second.reused, after[0].reused) == (ReuseCounts(same_bytes=1), Reuse.SAME_BYTES)
    assert before[0].file == after[0].file
    assert harness.attempts("a") == 1


async def test_same_url_in_request_is_counted_once_as_downloaded(
    harness: SchedulerHarness, origin: Origin
) -> None:
    url, other = serve(harness, origin, "a"), serve(harness, origin, "b")
    first, rows = await run(harness, url, other, url, url)
    assert first.reused == ReuseCounts(same_url=2)
    assert [row.reused for row in rows] == [None, None, Reuse.SAME_URL, Reuse.SAME_URL]
    second, rows = await run(harness, url, other, url, url)
    assert second.reused == ReuseCounts(not_modified=2, same_url=2)
    assert len({row.file for row in rows}) == 2


async def test_source_is_downloaded_whole_if_its_output_is_deleted_before_the_304(
    harness: SchedulerHarness, origin: Origin
) -> None:
    url = serve(harness, origin, "a")
    first, before = await run(harness, url)
    body = harness.script("a-1")
    headers = {"ETag": '"a-1"'}
    origin.script("/a.jpg", Reply(headers=headers, body=body, gate="go"))
    request = await harness.accept(url)
    await wait_until(lambda: origin.hits("/a.jpg") == 2, "the conditional request")
    await delete(harness, first)
    origin.open_gate("go")
    finished = await harness.wait_finished(request)
    assert (finished.progress, finished.reused) == (Progress(completed=1), ReuseCounts())
    (image,) = await images(harness, finished)
    assert (image.file, image.attempts) == (before[0].file, 1)
    assert harness.stored_files() == {str(image.file)}
    conditional = ["if-none-match" in seen.headers for seen in origin.seen("/a.jpg")]
    assert conditional == [False, True, False]


async def test_sources_are_forgotten_with_their_last_output(
    harness: SchedulerHarness, origin: Origin
) -> None:
    body = harness.script("same")
    urls = [
        origin.script(f"/{n}.jpg", Reply(headers={"ETag": f'"{n}"'}, body=body)) for n in range(5)
    ]
    first, _ = await run(harness, *urls)
    options = RequestOptions(CompressionSettings(progressive=True))
    second, _ = await run(harness, *urls, options=options)

    async def remembered() -> tuple[int, int]:
        return await harness.db.database.read(
            lambda c: c.execute(
                "SELECT (SELECT count(*) FROM sources), (SELECT count(*) FROM source_slugs)"
            ).fetchone()
        )

    await delete(harness, first)
    assert await remembered() == (5, 5)
    await delete(harness, second)
    assert await remembered() == (0, 0)
