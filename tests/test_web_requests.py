"""Listing, watching, cancelling, retrying and deleting requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imgsvc.web import requests
from tests.http_harness import ROWS, HttpHarness, open_http
from tests.waiting import wait_until

UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


def events(stream: bytes) -> list[dict[str, Any]]:
    """Read what a stream of server-sent events says."""
    found = []
    for block in stream.decode().split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if "data" in fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


async def test_the_list_is_newest_first(http: HttpHarness) -> None:
    ids = [await http.upload() for _ in range(5)]
    answer = await http.get("/listRequests")
    body = answer.json()
    assert [each["requestId"] for each in body["requests"]] == ids[::-1]
    assert body["nextCursor"] is None
    assert body["requests"][0].keys() == {
        "requestId",
        "status",
        "createdAt",
        "finishedAt",
        "progress",
        "bytes",
    }


async def test_the_list_is_paged(http: HttpHarness) -> None:
    ids = [await http.upload() for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"&cursor={cursor}" if cursor else ""
        page = (await http.get(f"/listRequests?limit=2{query}")).json()
        seen += [each["requestId"] for each in page["requests"]]
        cursor = page["nextCursor"]
    assert seen == ids[::-1]


async def test_the_list_by_status(http: HttpHarness) -> None:
    done = await http.upload()
    await http.complete(await http.claim())
    waiting = await http.upload()
    for status, ids in (("completed", [done]), ("pending", [waiting]), ("failed", [])):
        page = (await http.get(f"/listRequests?status={status}")).json()
        assert [each["requestId"] for each in page["requests"]] == ids


@pytest.mark.parametrize(
    "query", ["status=done", "limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=", "page=2"]
)
async def test_a_list_that_cannot_be(http: HttpHarness, query: str) -> None:
    answer = await http.get(f"/listRequests?{query}")
    assert answer.status == 400
    assert answer.problem()["type"] == "urn:imgsvc:problem:invalid-option"


async def test_watching_ends_with_the_request(http: HttpHarness) -> None:
    request_id = await http.upload()
    claims = await http.claim()
    watching = asyncio.create_task(http.get(f"/watchStatus/{request_id}"))
    await wait_until(lambda: http.service.events.watchers)
    await http.complete(claims[:1])
    async with http.service.events.watch(request_id) as feed:
        async for seen in feed:
            if seen.progress.completed:
                break
    await http.complete(claims[1:])
    answer = await watching
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.body.startswith(b"retry: ")
    told = events(answer.body)
    assert [event["event"] for event in told][-1] == "finished"
    assert {event["event"] for event in told[:-1]} == {"progress"}
    last = told[-1]["data"]
    plain = (await http.get(f"/checkStatus/{request_id}?format=json&products=false")).json()
    assert last == plain
    versions = [int(event["id"]) for event in told]
    assert versions == sorted(set(versions))


async def test_a_finished_request_tells_an_event_source_not_to_come_back(http: HttpHarness) -> None:
    request_id = await http.upload()
    await http.complete(await http.claim())
    told = events((await http.get(f"/watchStatus/{request_id}")).body)
    assert [event["event"] for event in told] == ["finished"]
    again = await http.get(f"/watchStatus/{request_id}", {"Last-Event-ID": told[0]["id"]})
    assert (again.status, again.body) == (204, b"")


async def test_a_silent_request_is_kept_alive_by_comments(
    http: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "COMMENT_SECONDS", 0.05)
    request_id = await http.upload()
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write(f"GET /watchStatus/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b"event: progress" in await reader.readuntil(b"\r\n: still here\n\n")
    writer.close()
    await wait_until(lambda: not http.service.events.watchers)


async def test_a_watcher_that_takes_nothing_is_dropped(
    http: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "COMMENT_SECONDS", 0.0001)
    monkeypatch.setattr(requests, "DROP_SECONDS", 0.2)
    monkeypatch.setattr(
        requests.RequestsHandler, "_event", lambda *_: b"data: " + b"x" * 4_000_000 + b"\n\n"
    )
    request_id = await http.upload()
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port, limit=1_000)
    writer.write(f"GET /watchStatus/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"\r\n")
    await wait_until(lambda: http.service.events.watchers)
    await wait_until(lambda: not http.service.events.watchers)
    writer.close()


async def test_cancelling(http: HttpHarness) -> None:
    request_id = await http.upload()
    await http.complete((await http.claim(1))[:1])
    answer = await http.post(f"/cancelRequest/{request_id}")
    assert answer.status == 200
    assert answer.json()["status"] == "cancelled"
    assert answer.json()["progress"]["cancelled"] == 1
    assert answer.json()["productsTotal"] == 1
    again = await http.post(f"/cancelRequest/{request_id}")
    assert again.status == 409
    assert again.problem()["type"] == "urn:imgsvc:problem:already-finished"


async def test_retrying(http: HttpHarness) -> None:
    request_id = await http.upload()
    early = await http.post(f"/retryFailed/{request_id}")
    assert (early.status, early.problem()["type"][-12:]) == (409, "not-finished")
    await http.fail(await http.claim())
    answer = await http.post(f"/retryFailed/{request_id}")
    assert answer.status == 202
    assert answer.json()["progress"]["pending"] == 2
    assert answer.json()["finishedAt"] is None
    await http.complete(await http.claim())
    late = await http.post(f"/retryFailed/{request_id}")
    assert late.status == 409
    assert late.problem()["type"] == "urn:imgsvc:problem:nothing-failed"


async def test_deleting(http: HttpHarness) -> None:
    request_id = await http.upload()
    early = await http.call("DELETE", f"/deleteRequest/{request_id}")
    assert early.status == 409
    await http.complete(await http.claim())
    status = (await http.get(f"/checkStatus/{request_id}?format=json")).json()
    output = status["products"][0]["images"][0]["outputUrl"].removeprefix(http.url)
    assert (await http.get(output)).status == 200
    answer = await http.call("DELETE", f"/deleteRequest/{request_id}")
    assert (answer.status, answer.body) == (204, b"")
    assert (await http.get(output)).status == 404
    assert (await http.get(f"/checkStatus/{request_id}")).status == 404
    assert (await http.call("DELETE", f"/deleteRequest/{request_id}")).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/watchStatus/"),
        ("POST", "/cancelRequest/"),
        ("POST", "/retryFailed/"),
        ("DELETE", "/deleteRequest/"),
        ("GET", "/downloadImages/"),
        ("HEAD", "/downloadImages/"),
    ],
)
async def test_an_id_that_is_not_known(http: HttpHarness, method: str, path: str) -> None:
    answer = await http.call(method, path + UNKNOWN)
    assert answer.status == 404
    assert (await http.call(method, f"{path}{UNKNOWN}?x=1")).status == 400


async def test_changing_calls_ignore_a_body(http: HttpHarness) -> None:
    request_id = await http.upload(ROWS)
    assert (await http.post(f"/cancelRequest/{request_id}", b"x" * 100_000)).status == 200
