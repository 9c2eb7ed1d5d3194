"""Listing, watching, cancelling, retrying and deleting requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imgsvc.web import requests
from tests.site import ROWS, Site, opened, until

UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as site:
        yield site


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


async def test_the_list_is_newest_first(site: Site) -> None:
    ids = [await site.upload() for _ in range(5)]
    answer = await site.get("/listRequests")
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


async def test_the_list_is_paged(site: Site) -> None:
    ids = [await site.upload() for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"&cursor={cursor}" if cursor else ""
        page = (await site.get(f"/listRequests?limit=2{query}")).json()
        seen += [each["requestId"] for each in page["requests"]]
        cursor = page["nextCursor"]
    assert seen == ids[::-1]


async def test_the_list_by_status(site: Site) -> None:
    done = await site.upload()
    await site.complete(await site.claim())
    waiting = await site.upload()
    for status, ids in (("completed", [done]), ("pending", [waiting]), ("failed", [])):
        page = (await site.get(f"/listRequests?status={status}")).json()
        assert [each["requestId"] for each in page["requests"]] == ids


@pytest.mark.parametrize(
    "query", ["status=done", "limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=", "page=2"]
)
async def test_a_list_that_cannot_be(site: Site, query: str) -> None:
    answer = await site.get(f"/listRequests?{query}")
    assert answer.status == 400
    assert answer.problem()["type"] == "urn:imgsvc:problem:invalid-option"


async def test_watching_ends_with_the_request(site: Site) -> None:
    request_id = await site.upload()
    claims = await site.claim()
    watching = asyncio.create_task(site.get(f"/watchStatus/{request_id}"))
    await until(lambda: site.service.events.watchers)
    await site.complete(claims[:1])
    async with site.service.events.watch(request_id) as feed:
        async for seen in feed:
            if seen.progress.completed:
                break
    await site.complete(claims[1:])
    answer = await watching
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.body.startswith(b"retry: ")
    told = events(answer.body)
    assert [event["event"] for event in told][-1] == "finished"
    assert {event["event"] for event in told[:-1]} == {"progress"}
    last = told[-1]["data"]
    plain = (await site.get(f"/checkStatus/{request_id}?format=json&products=false")).json()
    assert last == plain
    versions = [int(event["id"]) for event in told]
    assert versions == sorted(set(versions))


async def test_a_finished_request_tells_an_event_source_not_to_come_back(site: Site) -> None:
    request_id = await site.upload()
    await site.complete(await site.claim())
    told = events((await site.get(f"/watchStatus/{request_id}")).body)
    assert [event["event"] for event in told] == ["finished"]
    again = await site.get(f"/watchStatus/{request_id}", {"Last-Event-ID": told[0]["id"]})
    assert (again.status, again.body) == (204, b"")


async def test_a_silent_request_is_kept_alive_by_comments(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "COMMENT_SECONDS", 0.05)
    request_id = await site.upload()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(f"GET /watchStatus/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b"event: progress" in await reader.readuntil(b"\r\n: still here\n\n")
    writer.close()
    await until(lambda: not site.service.events.watchers)


async def test_a_watcher_that_takes_nothing_is_dropped(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "COMMENT_SECONDS", 0.0001)
    monkeypatch.setattr(requests, "DROP_SECONDS", 0.2)
    monkeypatch.setattr(
        requests.RequestsApi, "_event", lambda *_: b"data: " + b"x" * 4_000_000 + b"\n\n"
    )
    request_id = await site.upload()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1_000)
    writer.write(f"GET /watchStatus/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"\r\n")
    await until(lambda: site.service.events.watchers)
    await until(lambda: not site.service.events.watchers)
    writer.close()


async def test_cancelling(site: Site) -> None:
    request_id = await site.upload()
    await site.complete((await site.claim(1))[:1])
    answer = await site.post(f"/cancelRequest/{request_id}")
    assert answer.status == 200
    assert answer.json()["status"] == "cancelled"
    assert answer.json()["progress"]["cancelled"] == 1
    assert answer.json()["productsTotal"] == 1
    again = await site.post(f"/cancelRequest/{request_id}")
    assert again.status == 409
    assert again.problem()["type"] == "urn:imgsvc:problem:already-finished"


async def test_retrying(site: Site) -> None:
    request_id = await site.upload()
    early = await site.post(f"/retryFailed/{request_id}")
    assert (early.status, early.problem()["type"][-12:]) == (409, "not-finished")
    await site.fail(await site.claim())
    answer = await site.post(f"/retryFailed/{request_id}")
    assert answer.status == 202
    assert answer.json()["progress"]["pending"] == 2
    assert answer.json()["finishedAt"] is None
    await site.complete(await site.claim())
    late = await site.post(f"/retryFailed/{request_id}")
    assert late.status == 409
    assert late.problem()["type"] == "urn:imgsvc:problem:nothing-failed"


async def test_deleting(site: Site) -> None:
    request_id = await site.upload()
    early = await site.call("DELETE", f"/deleteRequest/{request_id}")
    assert early.status == 409
    await site.complete(await site.claim())
    status = (await site.get(f"/checkStatus/{request_id}?format=json")).json()
    output = status["products"][0]["images"][0]["outputUrl"].removeprefix(site.url)
    assert (await site.get(output)).status == 200
    answer = await site.call("DELETE", f"/deleteRequest/{request_id}")
    assert (answer.status, answer.body) == (204, b"")
    assert (await site.get(output)).status == 404
    assert (await site.get(f"/checkStatus/{request_id}")).status == 404
    assert (await site.call("DELETE", f"/deleteRequest/{request_id}")).status == 404


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
async def test_an_id_that_is_not_known(site: Site, method: str, path: str) -> None:
    answer = await site.call(method, path + UNKNOWN)
    assert answer.status == 404
    assert (await site.call(method, f"{path}{UNKNOWN}?x=1")).status == 400


async def test_changing_calls_ignore_a_body(site: Site) -> None:
    request_id = await site.upload(ROWS)
    assert (await site.post(f"/cancelRequest/{request_id}", b"x" * 100_000)).status == 200
