"""Tests of `Queries`: results, pages, and consistent snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.errors import ImageErrorCode, ProblemCode, ProblemError
from imgsvc.image_types import CompressionSettings, StoredFile
from imgsvc.models import (
    Backlog,
    Failed,
    FailureCount,
    ImageRow,
    ImageStatus,
    ProductRow,
    RequestOptions,
    RequestStatus,
    Requeued,
)
from imgsvc.table_types import ColumnRole, Columns, InputTable
from tests.harness.database import (
    IMAGE_INFO,
    TABLE,
    DatabaseHarness,
    completed,
    open_database,
    product,
)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


def table_rows(count: int, images: int = 1) -> list[list[str]]:
    return [[f"http://a.example/{row}/{n}" for n in range(images)] for row in range(count)]


async def all_pages(
    db: DatabaseHarness, request_id: str, size: int = 500, *, only_failed: bool = False
) -> list[list[ProductRow]]:
    async with db.queries.open(request_id) as snapshot:
        return [page async for page in snapshot.pages(size, only_failed=only_failed)]


async def test_products_show_status_attempts_and_error_of_each_image(db: DatabaseHarness) -> None:
    request = await db.accept(table_rows(1, 5))
    done, bad, again, _ = await db.claim(limit=4)
    outcome = completed(done)
    await db.job_store.finish(
        [
            outcome,
            Failed(bad, 3, ImageErrorCode.HTTP_STATUS, "404 Not Found"),
            Requeued(again, 2, 9e12),
        ]
    )
    async with db.queries.open(request.request_id) as snapshot:
        ((row,),) = [await snapshot.products(0, 10)]
    urls = table_rows(1, 5)[0]
    assert row.images == (
        ImageRow(
            urls[0],
            ImageStatus.COMPLETED,
            1,
            await db.output_name(outcome),
            IMAGE_INFO,
            slug="product-0-1",
        ),
        ImageRow(
            urls[1],
            ImageStatus.FAILED,
            3,
            error_code=ImageErrorCode.HTTP_STATUS,
            error_message="404 Not Found",
        ),
        ImageRow(urls[2], ImageStatus.PENDING, 2),
        ImageRow(urls[3], ImageStatus.PROCESSING, 0),
        ImageRow(urls[4], ImageStatus.PENDING, 0),
    )


async def test_pages_contain_each_row_once_in_order(
    db: DatabaseHarness,
) -> None:
    request = await db.accept(table_rows(25, 3))
    pages = await all_pages(db, request.request_id, 10)
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [row.number for page in pages for row in page] == list(range(25))
    async with db.queries.open(request.request_id) as snapshot:
        assert [row.number for row in await snapshot.products(20, 100)] == list(range(20, 25))
        assert [row.number for row in await snapshot.products(3, 4)] == [3, 4, 5, 6]
        assert await snapshot.products(25, 10) == []
    pages = await all_pages(db.with_limits(page_images=7), request.request_id, 10)
    assert max(map(len, pages)) == 3, "rows with many images make short pages"
    assert [row.number for page in pages for row in page] == list(range(25))
    short = db.with_limits(page_characters=1)
    assert [len(page) for page in await all_pages(short, request.request_id)] == [1] * 25
    async with short.queries.open(request.request_id) as snapshot:
        assert [row.number for row in await snapshot.products(20, 100)] == [20]


async def test_pages_end_early_after_rows_with_long_text(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(page_characters=500)
    rows = [product(number, [f"http://a.example/{number}"]) for number in range(3)]
    long = ("x" * 500,)
    rows += [rows[0]._replace(serial_number=long[0]), rows[1]._replace(extra=long), rows[2]]
    key = await db.request_store.begin()
    await db.request_store.stage(key, rows)
    request = await db.request_store.accept(
        key, TABLE, RequestOptions(CompressionSettings()), max_waiting=10
    )
    assert list(map(len, await all_pages(db, request.request_id))) == [4, 1, 1]
    await db.job_store.finish(
        [Failed(c, 1, ImageErrorCode.TIMEOUT, "slow") for c in await db.claim()]
    )
    pages = await all_pages(db, request.request_id, only_failed=True)
    assert list(map(len, pages)) == [4, 1, 1]
    assert [row.images[0].url[-1] for page in pages for row in page] == list("012012")


async def test_pages_end_early_after_rows_with_many_cells_even_if_empty(
    db: DatabaseHarness,
) -> None:
    db = db.with_limits(page_characters=500)
    roles = (ColumnRole.NAME, ColumnRole.IMAGE, *[ColumnRole.EXTRA] * 100)
    key = await db.request_store.begin()
    await db.request_store.stage(key, [product(n, [f"http://a.example/{n}"]) for n in range(4)])
    request = await db.request_store.accept(
        key,
        InputTable(Columns(("x",) * len(roles), roles, tuple(range(100)))),
        RequestOptions(CompressionSettings()),
        max_waiting=10,
    )
    pages = await all_pages(db, request.request_id)
    assert list(map(len, pages)) == [2, 2]
    assert {len(row.extra) for page in pages for row in page} == {100}


@pytest.mark.parametrize(
    ("max_images", "max_characters"), [(5_000, 2_000_000), (7, 2_000_000), (5_000, 1)]
)
async def test_pages_with_only_failed_contain_only_failed_images(
    db: DatabaseHarness, max_images: int, max_characters: int
) -> None:
    db = db.with_limits(page_images=max_images, page_characters=max_characters)
    request = await db.accept(table_rows(30, 4))
    bad, good = set(), []
    claims = await db.claim(limit=200, capacity=200)
    for claim in claims:
        row_number, _, number = claim.url.removeprefix("http://a.example/").partition("/")
        if int(row_number) % 3 == 0 and int(number) % 2:
            bad.add(claim)
        else:
            good.append(claim)
    await db.job_store.finish([Failed(c, 1, ImageErrorCode.TIMEOUT, "slow") for c in bad])
    await db.complete(good)
    pages = await all_pages(db, request.request_id, 4, only_failed=True)
    assert max(map(len, pages)) <= 4
    found = [row for page in pages for row in page]
    assert [row.number for row in found] == list(range(0, 30, 3))
    for row in found:
        assert [image.url for image in row.images] == [
            f"http://a.example/{row.number}/{n}" for n in (1, 3)
        ]
        assert row.extra == (f"colour {row.number}",)
    other = await db.accept(table_rows(3))
    assert await all_pages(db, other.request_id, only_failed=True) == []
    await db.complete(await db.claim())


async def test_snapshot_does_not_change_when_request_is_deleted(db: DatabaseHarness) -> None:
    request = await db.accept(table_rows(3))
    async with db.queries.open(request.request_id) as snapshot:
        await db.complete(await db.claim())
        await db.request_store.mark_deleting(request.request_id)
        while await db.request_store.purge_slice():
            pass
        assert snapshot.request == request
        assert [row.progress.pending for row in await snapshot.products(0, 9)] == [1, 1, 1]
    with pytest.raises(ProblemError):
        await db.queries.request(request.request_id)


async def test_version_increases_with_every_change(db: DatabaseHarness) -> None:
    request = await db.accept(table_rows(2), webhook="http://me/")
    versions = [await db.queries.version(request.request_id)]

    async def changed() -> None:
        versions.append(await db.queries.version(request.request_id))
        assert versions[-1][0] > versions[-2][0]

    (one,) = await db.claim(limit=1)
    await changed()
    await db.job_store.finish([Requeued(one, 1)])
    await changed()
    claims = await db.claim()
    await changed()
    await db.job_store.finish([Failed(claim, 2, ImageErrorCode.TIMEOUT, "x") for claim in claims])
    await changed()
    assert [finished for _, finished in versions] == [False, False, False, False, True]
    (delivery,) = await db.due_webhooks(1e12, 1)
    await db.webhook_store.record_failure(delivery.delivery_id, "no", 5.0)
    await changed()
    await db.webhook_store.record_success(delivery.delivery_id)
    await changed()
    await db.job_store.retry_failed(request.request_id)
    await changed()
    await db.job_store.start_cancel(request.request_id)
    await changed()
    await db.job_store.cancel_slice(request.key, 10)
    await changed()


@pytest.mark.parametrize("request_id", ["", "nonsense", "' OR 1=1 --", "\ud800", "\0"])
async def test_request_raises_not_found_when_id_is_unknown(
    db: DatabaseHarness, request_id: str
) -> None:
    await db.accept(table_rows(1))
    for method in (db.queries.request, db.queries.version):
        with pytest.raises(ProblemError) as refusal:
            await method(request_id)
        assert refusal.value.code is ProblemCode.NOT_FOUND
    with pytest.raises(ProblemError):
        async with db.queries.open(request_id):
            pass


async def test_list_requests_returns_newest_first_and_continues_at_cursor(
    db: DatabaseHarness,
) -> None:
    accepted = [(await db.accept(table_rows(1))).request_id for _ in range(7)]
    await db.stage(table_rows(1))
    found: list[str] = []
    cursor = None
    while True:
        requests, cursor = await db.queries.list_requests(limit=3, cursor=cursor)
        found += [request.request_id for request in requests]
        if cursor is None:
            break
        if len(found) == 3:
            await db.accept(table_rows(1))  # a newer request does not change the following pages
    assert found == accepted[::-1]


async def test_list_requests_filters_by_status(db: DatabaseHarness) -> None:
    pending = await db.accept(table_rows(1))
    while claims := await db.claim():
        await db.complete(claims)
    done = pending.request_id
    bad = (await db.accept(table_rows(1))).request_id
    await db.job_store.finish([Failed(c, 1, ImageErrorCode.TIMEOUT, "x") for c in await db.claim()])
    mixed = (await db.accept(table_rows(2))).request_id
    one, two = await db.claim()
    await db.job_store.finish([completed(one), Failed(two, 1, ImageErrorCode.TIMEOUT, "x")])
    gone = await db.accept(table_rows(1))
    await db.job_store.start_cancel(gone.request_id)
    await db.job_store.cancel_slice(gone.key, 10)
    half = (await db.accept(table_rows(2))).request_id
    await db.complete(await db.claim(limit=1))
    waits = (await db.accept(table_rows(1))).request_id
    expected = {
        RequestStatus.COMPLETED: done,
        RequestStatus.FAILED: bad,
        RequestStatus.PARTIAL: mixed,
        RequestStatus.CANCELLED: gone.request_id,
        RequestStatus.PROCESSING: half,
        RequestStatus.PENDING: waits,
    }
    for status in RequestStatus:
        requests, cursor = await db.queries.list_requests(status, 10)
        assert [(r.request_id, r.progress.status) for r in requests] == [(expected[status], status)]
        assert cursor is None


@pytest.mark.parametrize(
    "cursor", ["", "x", "A" * 21, "A" * 23, "!" * 22, "f_gAAAAAAAAAAAAAAAAAAA", "é" * 22]
)
async def test_list_requests_refuses_invalid_cursor(db: DatabaseHarness, cursor: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        await db.queries.list_requests(cursor=cursor)
    assert refusal.value.code is ProblemCode.INVALID_OPTION


async def test_public_file_finds_stored_file_by_public_name_only(db: DatabaseHarness) -> None:
    await db.accept(table_rows(3))
    one, two, three = [completed(claim, claim.url[-5:]) for claim in await db.claim()]
    await db.job_store.finish([one, two])
    names = [await db.output_name(outcome) for outcome in (one, two, three)]
    for name in names[:2]:
        assert await db.queries.public_file(name) == StoredFile(name, IMAGE_INFO)
    token = names[0].removesuffix(".jpg")
    wrong = [f"{token}.png", token, names[2], f"{token.upper()}.jpg"]
    wrong += [f"../{token}.jpg", f"{token}.jpg/", f"{token}.jpg\n", "", "\ud800.jpg"]
    for name in wrong:
        assert await db.queries.public_file(name) is None


async def test_request_shows_only_largest_failure_counts(db: DatabaseHarness) -> None:
    request = await db.accept(
        [[f"http://h{host}.example/{n}" for n in range(1 + (host == 77))] for host in range(150)]
    )
    claims = await db.claim(limit=200)
    await db.job_store.finish([Failed(c, 1, ImageErrorCode.TIMEOUT, "x") for c in claims])
    failures = (await db.queries.request(request.request_id)).failures
    assert len(failures) == 100
    assert failures[0] == FailureCount("h77.example", ImageErrorCode.TIMEOUT, 2)


async def test_backlog_includes_only_unfinished_requests_and_webhooks_to_send(
    db: DatabaseHarness,
) -> None:
    assert await db.queries.backlog() == Backlog(0, 0, 0, 0)
    await db.accept(table_rows(3), webhook="http://me/")
    claims = await db.claim(limit=1)
    assert await db.queries.backlog() == Backlog(1, 2, 1, 0)
    while claims:
        await db.complete(claims)
        claims = await db.claim()
    assert await db.queries.backlog() == Backlog(0, 0, 0, 1)
