"""No statement reads a large table from end to end, whatever is asked."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from imgsvc.database import connection
from imgsvc.database.work import origin_key
from imgsvc.errors import ImageErrorCode
from imgsvc.models import Failed, PutBack, RequestOptions, Status
from imgsvc.pictures import Settings
from tests.books import COLUMNS, Books, completed, opened

SMALL = {"json_each", "doomed", "probe"}
"""What may be read whole: it is as large as the answer, or tiny."""
PARTIAL = {
    "requests_claimable",
    "requests_unfinished",
    "requests_retrying",
    "deliveries_due",
    "images_in_flight",
}
"""Indexes that hold only what is under way."""


async def everything(books: Books) -> None:
    """Do each thing there is to do once."""
    same = "http://a.example/same"
    rows = [[same, f"http://a.example/{n}", f"http://b.example/{n}"] for n in range(150)]
    request = await books.accept(rows, webhook="http://me/")
    key = await books.stage(rows)
    await books.uploads.accept(
        key, COLUMNS, RequestOptions(Settings()), max_waiting=10**6, idempotency=("key", "x")
    )
    await books.uploads.find_idempotent("key")
    one, two, three = (await books.claim(limit=20))[:3]
    await books.work.finish([completed(one, "x"), completed(two, "x"), PutBack(three, 1, 9e12)])
    await books.work.find_file(b"x" * 32, Settings())
    await books.work.next_due()
    await books.work.waiting()
    await books.work.in_flight()
    await books.work.recover()
    origin = origin_key("http://b.example:80")
    await books.work.waiting_for(origin)
    await books.work.fail_origin(request.key, origin, ImageErrorCode.TIMEOUT, "x", 10)
    claims = [c for _ in range(9) for c in await books.claim(limit=500, room=500)]
    mine = [c for c in claims if c.request_key == request.key]
    await books.work.finish([Failed(c, 1, ImageErrorCode.TIMEOUT, "x") for c in mine[:50]])
    await books.work.finish([completed(c) for c in mine[50:]])
    await books.work.fail_origin(request.key, origin, ImageErrorCode.TIMEOUT, "x", 10)
    await books.work.begin_cancel((await books.snapshots.list_requests())[0][0].request_id)
    await books.work.cancelling()
    await books.work.cancel_slice(key, 1_000)
    await books.work.begin_cancel(request.request_id)
    await books.work.cancel_slice(request.key, 1_000)
    await look(books, request.request_id)
    await books.deliveries.next_due(0.0)
    for delivery in await books.deliveries.due(1e12, 10):
        await books.deliveries.failed_attempt(delivery.delivery_id, "x", 5.0)
        await books.deliveries.delivered(delivery.delivery_id)
    await books.work.retry_failed(request.request_id)
    await books.work.begin_cancel(request.request_id)
    await books.work.cancel_slice(request.key, 1_000)
    await books.uploads.mark_deleting(request.request_id)
    await books.uploads.discard(await books.stage(rows))
    await books.uploads.abandon_staged()
    while (purged := await books.uploads.purge_slice(100)).more:
        pass
    await books.uploads.expired(1.0)
    await books.uploads.forget_doomed(await books.uploads.doomed())
    assert not purged.more
    await books.database.probe()


async def look(books: Books, request_id: str) -> None:
    async with books.snapshots.open(request_id) as snapshot:
        rows = await snapshot.products(10, 50)
        for only_failed in (False, True):
            assert [page async for page in snapshot.pages(7, only_failed=only_failed)]
    files = [image.file for row in rows for image in row.images if image.file]
    assert await books.snapshots.public_file(files[0])
    await books.snapshots.version(request_id)
    await books.snapshots.counts()
    for status in (None, *Status):
        _, cursor = await books.snapshots.list_requests(status, 1)
        await books.snapshots.list_requests(status, 1, cursor)


async def traced(books: Books, seen: Callable[[str], None]) -> None:
    """Let every connection tell its statements."""
    await books.database.write(lambda c: c.set_trace_callback(seen))
    async with AsyncExitStack() as stack:
        for _ in range(connection.LONG_READERS):
            read = await stack.enter_async_context(books.database.snapshot())
            await read(lambda c: c.set_trace_callback(seen))
        await books.database.read(lambda c: c.set_trace_callback(seen))


def plans(c: sqlite3.Connection, statements: set[str]) -> Iterator[tuple[str, str]]:
    for sql in statements:
        for *_, step in c.execute(f"EXPLAIN QUERY PLAN {sql}"):
            yield sql, step


def is_whole_read(step: str) -> bool:
    scan = re.match(r"SCAN (\S+)(?: USING (?:COVERING )?INDEX (\S+))?", step)
    if scan is None or "VIRTUAL TABLE" in step or scan[1].startswith(("(", "CONSTANT")):
        return False
    return scan[1] not in SMALL and scan[2] not in PARTIAL


async def test_nothing_is_read_from_end_to_end(tmp_path: Path) -> None:
    statements: set[str] = set()
    async with opened(tmp_path) as books:
        await traced(books, statements.add)
        await everything(books)
        await books.database.write(lambda c: c.set_trace_callback(None))
        looked = {
            sql
            for sql in statements
            if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|REPLACE)", sql) and "VALUES" not in sql
        }
        assert len(looked) > 60
        steps = await books.database.write(lambda c: list(plans(c, looked)))
    assert any("images_waiting" in step for _, step in steps)
    whole = {f"{step}: {' '.join(sql.split())}" for sql, step in steps if is_whole_read(step)}
    assert not whole, "\n".join(sorted(whole))


async def test_the_test_sees_a_statement_that_does(tmp_path: Path) -> None:
    async with opened(tmp_path) as books:
        sql = "SELECT count(*) FROM images WHERE status = 'failed' OR attempts = 3"
        steps = await books.database.read(lambda c: list(plans(c, {sql})))
    assert any(is_whole_read(step) for _, step in steps)
