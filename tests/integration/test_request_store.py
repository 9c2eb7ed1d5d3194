"""Tests of `RequestStore`: staging, accepting and deleting requests; and of its helpers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.database import migrate
from imgsvc.database.bloom_filter import BloomFilter
from imgsvc.database.index_keys import host_key
from imgsvc.errors import ImageErrorCode, ProblemCode, ProblemError
from imgsvc.image_types import CompressionSettings, OutputFormat, Quality
from imgsvc.models import (
    Backlog,
    Failed,
    Progress,
    Request,
    RequestOptions,
    RequestStatus,
)
from imgsvc.table_types import (
    ColumnRole,
    Columns,
    InputTable,
    Product,
)
from imgsvc.urls import host_name, host_url_of, parse_url
from tests.harness.database import (
    COLUMNS,
    TABLE,
    DatabaseHarness,
    completed,
    open_database,
    product,
)

OPTIONS = RequestOptions(CompressionSettings())


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[DatabaseHarness]:
    async with open_database(tmp_path) as db:
        yield db


async def row_counts(db: DatabaseHarness) -> dict[str, int]:
    """Return the number of rows of each table."""
    tables = (
        "requests",
        "request_columns",
        "products",
        "images",
        "files",
        "failures",
        "deliveries",
    )
    return await db.database.read(
        lambda c: {t: c.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}
    )


async def test_accept_keeps_staged_columns_options_and_products_unchanged(
    db: DatabaseHarness,
) -> None:
    settings = CompressionSettings(Quality.parse("70"), OutputFormat("webp"), progressive=True)
    options = RequestOptions(settings, "https://me.example/hook?a=1")
    rows = [
        Product(2, "=1+1", " é\n", product(0, ["http://a.example/1 2.jpg"]).images, ("", '"')),
        Product(3, "", "B", product(0, ["https://b.example/", "http://c:81/x?"]).images, ("x", "")),
    ]
    columns = Columns((*COLUMNS.names, "Size"), (*COLUMNS.roles, ColumnRole.EXTRA), (0, 1))
    key = await db.request_store.begin()
    await db.request_store.stage(key, rows)
    before = time.time()
    request = await db.request_store.accept(key, InputTable(columns), options, max_waiting=3)
    assert request.key == key
    assert before <= request.created_at <= time.time()
    assert (request.table.columns, request.options) == (columns, options)
    assert (request.products, request.progress) == (2, Progress(pending=3))
    assert request.webhook is not None
    assert request.webhook.status == "pending"
    async with db.queries.open(request.request_id) as snapshot:
        assert snapshot.request == request
        found = await snapshot.products(0, 10)
    for number, (row, source) in enumerate(zip(found, rows, strict=True)):
        values = (row.number, row.serial_number, row.name, row.extra)
        assert values == (number, source.serial_number, source.name, source.extra)
        assert [image.url for image in row.images] == [image.text for image in source.images]
    claims = await db.claim()
    assert {c.url for c in claims} == {image.fetch_url for row in rows for image in row.images}
    assert {c.host_url for c in claims} == {image.host_url for row in rows for image in row.images}
    assert {c.settings for c in claims} == {settings}
    await db.complete(claims)


async def test_accept_drops_cells_of_columns_without_extra_position(db: DatabaseHarness) -> None:
    cells = [("", "red", "", "", ""), (" ", "", "", "XL"), ("", "", "", "", "")]
    rows = [product(n, [f"http://a.example/{n}"])._replace(extra=e) for n, e in enumerate(cells)]
    columns = Columns((*COLUMNS.names, ""), (*COLUMNS.roles, ColumnRole.EXTRA), (1, 3))
    key = await db.request_store.begin()
    await db.request_store.stage(key, rows)
    request = await db.request_store.accept(key, InputTable(columns), OPTIONS, max_waiting=3)
    async with db.queries.open(request.request_id) as snapshot:
        found = await snapshot.products(0, 10)
    assert [row.extra for row in found] == [("red", ""), ("", "XL"), ("", "")]
    stored = await db.database.read(
        lambda c: c.execute("SELECT extra FROM products ORDER BY number").fetchall()
    )
    assert stored == [('["", "red"]',), ('[" ", "", "", "XL"]',), (None,)]


async def test_open_reads_columns_of_schema_version_1(tmp_path: Path) -> None:
    settings, url = CompressionSettings(), "http://a.example/1"
    with contextlib.closing(sqlite3.connect(tmp_path / "imgsvc.db")) as c:
        c.executescript(migrate._migrations()[0])
        c.execute("PRAGMA user_version = 1")
        c.execute(
            "INSERT INTO requests (key, request_id, stage, created_at, products, pending, settings) "
            "VALUES (1, 'old', 'accepted', 2.0, 1, 1, ?)",
            (str(settings),),
        )
        columns = json.dumps([COLUMNS.names, COLUMNS.roles])
        c.execute("INSERT INTO headers VALUES (1, ?)", (columns,))
        c.execute("INSERT INTO products VALUES (1, 0, '1', 'Product 0', '[\"colour 0\"]', 0, 1)")
        c.execute(
            "INSERT INTO images (request_key, number, product, url, origin_key) "
            "VALUES (1, 0, 0, ?, ?)",
            (url, host_key(host_url_of(url))),
        )
        c.commit()
    async with open_database(tmp_path) as db, db.queries.open("old") as snapshot:
        assert snapshot.request == Request(
            key=1,
            request_id="old",
            created_at=2.0,
            started_at=None,
            finished_at=None,
            version=1,
            products=1,
            progress=Progress(pending=1),
            input_bytes=0,
            output_bytes=0,
            table=InputTable(COLUMNS),
            options=RequestOptions(settings),
        )
        (row,) = await snapshot.products(0, 10)
    assert row.extra == ("colour 0",)


async def test_staged_request_is_invisible_and_not_claimed(db: DatabaseHarness) -> None:
    key = await db.stage([["http://a/1"]])
    (request_id,) = await db.database.read(
        lambda c: c.execute("SELECT request_id FROM requests WHERE key = ?", (key,)).fetchone()
    )
    for method in (db.queries.request, db.queries.version, db.request_store.mark_deleting):
        with pytest.raises(ProblemError) as refusal:
            await method(request_id)
        assert refusal.value.code is ProblemCode.NOT_FOUND
    assert await db.queries.list_requests() == ([], None)
    assert await db.claim() == []
    assert await db.queries.backlog() == Backlog(0, 0, 0, 0)
    view = await db.database.read(lambda c: c.execute("SELECT * FROM ProcessImage").fetchall())
    assert view == []


async def test_stage_numbers_products_continuously_over_several_calls(db: DatabaseHarness) -> None:
    rows = [[f"http://a/{row}/{n}" for n in range(row % 4 + 1)] for row in range(1_000)]
    request = await db.request_store.accept(
        await db.stage(rows, size=337), TABLE, OPTIONS, max_waiting=10_000
    )
    async with db.queries.open(request.request_id) as snapshot:
        found = await snapshot.products(0, 2_000)
    assert [[image.url for image in row.images] for row in found] == rows
    assert [row.number for row in found] == list(range(1_000))


async def test_accept_refuses_request_when_too_many_images_are_pending(db: DatabaseHarness) -> None:
    first = await db.accept([["http://a/1"], ["http://a/2"]])
    key = await db.stage([["http://a/3"]])
    with pytest.raises(ProblemError) as refusal:
        await db.request_store.accept(key, TABLE, OPTIONS, max_waiting=2)
    assert refusal.value.code is ProblemCode.TOO_MUCH_WAITING
    assert refusal.value.retry_after is not None
    await db.complete(await db.claim())
    assert (await db.queries.request(first.request_id)).finished_at is not None
    await db.request_store.accept(key, TABLE, OPTIONS, max_waiting=1)


async def test_accept_binds_idempotency_key_until_request_is_deleted(db: DatabaseHarness) -> None:
    one, two = await db.stage([["http://a/1"]]), await db.stage([["http://a/1"]])
    assert await db.request_store.find_idempotent("key") is None
    request = await db.request_store.accept(
        one, TABLE, OPTIONS, max_waiting=9, idempotency=("key", "fingerprint")
    )
    with pytest.raises(ProblemError) as refusal:
        await db.request_store.accept(
            two, TABLE, OPTIONS, max_waiting=9, idempotency=("key", "other")
        )
    assert refusal.value.code is ProblemCode.IDEMPOTENCY_KEY_BUSY
    assert await db.request_store.find_idempotent("key") == ("fingerprint", request)
    await db.complete(await db.claim())
    await db.request_store.mark_deleting(request.request_id)
    assert await db.request_store.find_idempotent("key") is None
    await db.request_store.accept(two, TABLE, OPTIONS, max_waiting=9, idempotency=("key", "other"))


@pytest.mark.parametrize("way", ["discard", "restart"])
async def test_purge_slice_deletes_discarded_request_in_slices(
    db: DatabaseHarness, way: str
) -> None:
    key = await db.stage([[f"http://a/{n}"] for n in range(5_000)])
    if way == "discard":
        await db.request_store.discard(key)
        assert await db.request_store.discard_abandoned() == 0
    else:
        assert await db.request_store.discard_abandoned() == 1
    with pytest.raises(LookupError):
        await db.request_store.accept(key, TABLE, OPTIONS, max_waiting=10_000)
    slices = 1
    while await db.request_store.purge_slice(1_000):
        slices += 1
    assert slices > 10, "one slice deletes only some rows"
    assert set((await row_counts(db)).values()) == {0}


async def test_discard_does_not_change_accepted_request(db: DatabaseHarness) -> None:
    request = await db.accept([["http://a/1"]])
    await db.request_store.discard(request.key)
    assert await db.queries.request(request.request_id) == request


async def test_stage_stores_all_products_or_none_when_cancelled(db: DatabaseHarness) -> None:
    key = await db.request_store.begin()
    products = [product(n, [f"http://a/{n}"]) for n in range(1_000)]
    for _ in range(5):
        task = asyncio.create_task(db.request_store.stage(key, products))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    request = await db.request_store.accept(key, TABLE, OPTIONS, max_waiting=10_000)
    assert request.progress.total == request.products
    assert request.products % 1_000 == 0


async def test_mark_deleting_refuses_unfinished_and_unknown_requests(db: DatabaseHarness) -> None:
    request = await db.accept([["http://a/1"]])
    for _ in range(2):
        with pytest.raises(ProblemError) as refusal:
            await db.request_store.mark_deleting(request.request_id)
        assert refusal.value.code is ProblemCode.NOT_FINISHED
        await db.claim()
    with pytest.raises(ProblemError) as refusal:
        await db.request_store.mark_deleting("nonsense")
    assert refusal.value.code is ProblemCode.NOT_FOUND


async def test_purge_slice_marks_only_outputs_that_no_other_request_uses(
    db: DatabaseHarness,
) -> None:
    one = await db.accept([["http://a/shared"], ["http://a/own"]])
    first = [completed(claim, claim.url) for claim in await db.claim()]
    await db.job_store.finish(first)
    two = await db.accept([["http://a/shared"]])
    await db.job_store.finish([completed(claim, claim.url) for claim in await db.claim()])
    own, shared = [await db.output_name(outcome) for outcome in reversed(first)]
    assert await public_names(db, one.request_id) == [shared, own]

    await db.request_store.mark_deleting(one.request_id)
    while await db.request_store.purge_slice(1):
        pass
    assert await db.queries.public_file(own) is None
    assert await db.delete_marked() == [own]
    assert await db.delete_marked() == []

    assert await public_names(db, two.request_id) == [shared]
    assert await db.queries.public_file(shared) is not None
    await db.request_store.mark_deleting(two.request_id)
    while await db.request_store.purge_slice():
        pass
    assert await db.delete_marked() == [shared]
    assert set((await row_counts(db)).values()) == {0}


async def public_names(db: DatabaseHarness, request_id: str) -> list[str]:
    async with db.queries.open(request_id) as snapshot:
        rows = await snapshot.products(0, 100)
    return [image.file for row in rows for image in row.images if image.file is not None]


async def test_hide_expired_hides_only_requests_that_finished_before_time(
    db: DatabaseHarness,
) -> None:
    old = await db.accept([["http://a/1"]])
    (claim,) = await db.claim()
    await db.job_store.finish([Failed(claim, 1, ImageErrorCode.TIMEOUT, "slow")])
    running = await db.accept([["http://a/1"]])
    assert await db.request_store.hide_expired(old.created_at) == 0
    assert await db.request_store.hide_expired(time.time() + 1) == 1
    assert [r.key for r in (await db.queries.list_requests())[0]] == [running.key]
    while await db.request_store.purge_slice():
        pass
    assert (await row_counts(db))["failures"] == 0


async def test_begin_never_reuses_key_of_deleted_request(db: DatabaseHarness) -> None:
    key = await db.stage([["http://a/1"]])
    await db.request_store.discard(key)
    while await db.request_store.purge_slice():
        pass
    assert await db.stage([["http://a/1"]]) > key


async def test_process_image_view_shows_urls_and_status_of_each_product(
    db: DatabaseHarness,
) -> None:
    request = await db.accept(
        [["http://a/1", "http://a/2"], ["http://a/3"], ["http://a/4"]], webhook=None
    )
    claims = {claim.url[-1]: claim for claim in await db.claim(limit=3)}
    done = completed(claims["2"])
    await db.job_store.finish([done])
    await db.job_store.finish([Failed(claims["3"], 1, ImageErrorCode.TIMEOUT, "slow")])

    def query(c: sqlite3.Connection) -> list[tuple[object, ...]]:
        return c.execute(
            "SELECT productName, inputImageUrls, outputImageUrls, requestId, status "
            "FROM ProcessImage"
        ).fetchall()

    assert await db.database.read(query) == [
        (
            "Product 0",
            "http://a/1,http://a/2",
            f",{(await db.output_name(done)).replace('.', '/product-0-2.')}",
            request.request_id,
            "processing",
        ),
        ("Product 1", "http://a/3", "", request.request_id, "failed"),
        ("Product 2", "http://a/4", "", request.request_id, "pending"),
    ]
    stored = await db.queries.request(request.request_id)
    assert stored.progress.status is RequestStatus.PROCESSING


@given(st.lists(st.text(max_size=3), max_size=300))
def test_bloom_filter_add_returns_true_for_every_known_text(texts: list[str]) -> None:
    seen = BloomFilter()
    before: set[str] = set()
    for text in texts:
        assert seen.add(text) or text not in before
        before.add(text)


def test_bloom_filter_add_has_few_false_positives() -> None:
    seen = BloomFilter()
    false_positives = sum(seen.add(f"https://a.example/{n}") for n in range(200_000))
    assert false_positives < 10_000
    assert all(seen.add(f"https://a.example/{n}") for n in range(200_000))


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        "https://A.example/x?y#z",
        "http://a.example:81?x",
        "https://a.example:443/",
        "http://[2001:db8::1]/x",
        "http://[2001:db8::1]:8080/x:1",
        "https://bücher.example/ü",
    ],
)
def test_host_url_of_equals_host_url_of_parsed_url(url: str) -> None:
    parsed = parse_url(url)
    assert host_url_of(parsed.fetch_url) == parsed.host_url


def test_host_name_omits_default_port() -> None:
    assert host_name("http://a:80") == host_name("https://a:443") == "a"
    assert host_name("http://a:443") == "a:443"
    assert host_name("http://a:8080") == "a:8080"
    assert host_name("https://[::1]:443") == "[::1]"
