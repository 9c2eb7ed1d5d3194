"""Tests of the query plans: no statement scans a large table."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from imgsvc.access import Caller, Role
from imgsvc.database import connection
from imgsvc.database.job_store import host_key
from imgsvc.database.session_store import SessionStore
from imgsvc.errors import ImageError, ImageErrorCode, ProblemError
from imgsvc.image_types import CompressionSettings
from imgsvc.models import (
    Failed,
    RequestOptions,
    RequestStatus,
    Requeued,
    Validators,
)
from imgsvc.urls import url_key
from tests.harness.database import TABLE, DatabaseHarness, completed, open_database

SMALL = {
    "json_each",
    "pending_deletions",
    "p",
    "reservations",
    "instance",
    "forgotten_sources",
    "probe",
    "sessions",
    "clock",
    "cancelled_hosts",
    "all_requests",  # the totals of all requests
}
"""Tables that may be scanned: they are as large as the result, or tiny."""
PARTIAL = {
    "requests_claimable",
    "requests_unfinished",
    "requests_retrying",
    "deliveries_due",
    "images_in_flight",
    "waiting_hosts_open",
}
"""Indexes that may be scanned: they contain only unfinished work."""


async def run_everything(db: DatabaseHarness) -> None:
    """Run every operation once."""
    same = "http://a.example/same"
    rows = [[same, f"http://a.example/{n}", f"http://b.example/{n}"] for n in range(150)]
    request = await db.accept(rows, webhook="http://me/")
    key = await db.stage(rows)
    await db.request_store.accept(
        key,
        TABLE,
        RequestOptions(CompressionSettings()),
        max_waiting=10**6,
        idempotency=("key", "x"),
    )
    await db.request_store.find_idempotent("key")
    await db.request_store.find_idempotent("key", "owner")
    await db.request_store.skipped_errors(request.key, 10)
    one, two, three = (await db.claim(limit=20))[:3]
    validators = Validators(url_key(one.url), '"1"')
    done = replace(completed(one, "x"), validators=validators)
    await db.job_store.finish(
        [
            done,
            completed(two, "x"),
            Requeued(three, 1, 1e12 + 100, ImageError(ImageErrorCode.TIMEOUT, "x")),
        ]
    )
    (claim,) = await db.claim(limit=1)
    await db.token_store.reserve(claim, b"x" * 32)
    await db.job_store.next_due()
    await db.job_store.recover()
    host = host_key("http://b.example:80")
    await db.job_store.requests_waiting_for(host)
    error = ImageError(ImageErrorCode.TIMEOUT, "x")
    await db.job_store.hold_host(host, error, 9e12, [request.key])
    await db.job_store.fail_host(request.key, host, ImageErrorCode.TIMEOUT, "x", 10)
    assert (await db.queries.request(request.request_id)).waiting
    await db.job_store.release_host(host)
    claims = [c for _ in range(9) for c in await db.claim(limit=500, capacity=500)]
    mine = [c for c in claims if c.request_key == request.key]
    await db.job_store.finish([Failed(c, 1, ImageErrorCode.TIMEOUT, "x") for c in mine[:50]])
    await db.job_store.finish([completed(c) for c in mine[50:]])
    await db.job_store.fail_host(request.key, host, ImageErrorCode.TIMEOUT, "x", 10)
    await db.job_store.start_cancel((await db.queries.list_requests())[0][0].request_id)
    await db.job_store.cancelling()
    await db.job_store.cancel_slice(key, 1_000)
    await db.job_store.start_cancel(request.request_id)
    await db.job_store.cancel_slice(request.key, 1_000)
    await run_queries(db, request.request_id)
    await db.webhook_store.next_due(0.0)
    for delivery in await db.due_webhooks(1e12, 10):
        await db.webhook_store.record_failure(delivery.delivery_id, "x", 5.0)
        await db.webhook_store.record_success(delivery.delivery_id)
    await db.job_store.retry_failed(request.request_id)
    await db.job_store.start_cancel(request.request_id)
    await db.job_store.cancel_slice(request.key, 1_000)
    await db.request_store.mark_deleting(request.request_id)
    await db.request_store.discard(await db.stage(rows))
    await db.request_store.discard_abandoned()
    while await db.request_store.purge_slice(100):
        pass
    await db.request_store.hide_expired(1.0)
    await db.token_store.recover()
    assert await db.delete_marked()
    await db.database.probe()
    await run_sessions(db)


async def run_queries(db: DatabaseHarness, request_id: str) -> None:
    async with db.queries.open(request_id) as snapshot:
        rows = await snapshot.products(10, 50)
        for only_failed in (False, True):
            assert [page async for page in snapshot.pages(7, only_failed=only_failed)]
    files = [image.file for row in rows for image in row.images if image.file]
    assert await db.queries.public_file(files[0])
    await db.queries.version(request_id)
    await db.queries.backlog()
    await db.queries.totals()
    for status in (None, *RequestStatus):
        _, cursor = await db.queries.list_requests(status, 1)
        await db.queries.list_requests(status, 1, cursor)
        await db.queries.list_requests(status, 1, cursor, "name")
        await db.queries.list_requests(status, 1, cursor, "name", "owner")
    await db.queries.check_visible(request_id, Caller())
    with pytest.raises(ProblemError):
        await db.queries.check_visible(request_id, Caller("shop", "shop", Role.SUBMIT))


async def run_sessions(db: DatabaseHarness) -> None:
    sessions = SessionStore(db.database)
    token = await sessions.create(b"key", 0.0)
    await sessions.find(token, [b"key"], 0.0)
    await sessions.end(token)
    await sessions.recover([b"key"])


async def trace(db: DatabaseHarness, callback: Callable[[str], None]) -> None:
    """Call `callback` with every statement of all connections."""
    await db.database.write(lambda c: c.set_trace_callback(callback))
    async with AsyncExitStack() as stack:
        for _ in range(connection.LONG_READERS):
            read = await stack.enter_async_context(db.database.snapshot())
            await read(lambda c: c.set_trace_callback(callback))
        await db.database.read(lambda c: c.set_trace_callback(callback))


def plans(c: sqlite3.Connection, statements: set[str]) -> Iterator[tuple[str, str]]:
    for sql in statements:
        for *_, step in c.execute(f"EXPLAIN QUERY PLAN {sql}"):
            yield sql, step


def is_full_scan(step: str) -> bool:
    """Return whether this step of a query plan scans a large table."""
    scan = re.match(r"SCAN (\S+)(?: USING (?:COVERING )?INDEX (\S+))?", step)
    if scan is None or "VIRTUAL TABLE" in step or scan[1].startswith(("(", "CONSTANT")):
        return False
    return scan[1] not in SMALL and scan[2] not in PARTIAL


async def test_operations_scan_no_large_table(tmp_path: Path) -> None:
    statements: set[str] = set()
    async with open_database(tmp_path) as db:
        await trace(db, statements.add)
        await run_everything(db)
        await db.database.write(lambda c: c.set_trace_callback(None))
        explained = {
            sql
            for sql in statements
            if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|REPLACE)", sql) and "VALUES" not in sql
        }
        assert len(explained) > 60
        steps = await db.database.write(lambda c: list(plans(c, explained)))
    assert any("images_waiting" in step for _, step in steps)
    full_scans = {f"{step}: {' '.join(sql.split())}" for sql, step in steps if is_full_scan(step)}
    assert not full_scans, "\n".join(sorted(full_scans))


async def test_is_full_scan_detects_statement_without_index(tmp_path: Path) -> None:
    async with open_database(tmp_path) as db:
        sql = "SELECT count(*) FROM images WHERE status = 'failed' OR attempts = 3"
        steps = await db.database.read(lambda c: list(plans(c, {sql})))
    assert any(is_full_scan(step) for _, step in steps)
