"""Tests of listing, watching, cancelling, retrying and deleting requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from imgsvc.limits import ServiceLimits
from imgsvc.web.handlers import requests
from imgsvc.web.limits import EventStreamLimits
from tests.harness.http import ROWS, HttpHarness, open_http
from tests.waiting import wait_until

UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


def parse_events(stream: bytes) -> list[dict[str, Any]]:
    """Return the server-sent events of a stream, with parsed data. Comments are skipped."""
    events = []
    for block in stream.decode().split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if "data" in fields:
            events.append({**fields, "data": json.loads(fields["data"])})
    return events


async def test_list_requests_returns_newest_first(http: HttpHarness) -> None:
    ids = [await http.upload() for _ in range(5)]
    response = await http.get("/listRequests")
    body = response.json()
    assert [each["requestId"] for each in body["requests"]] == ids[::-1]
    assert body["nextCursor"] is None
    assert body["requests"][0].keys() == {
        "requestId",
        "name",
        "status",
        "createdAt",
        "finishedAt",
        "progress",
        "bytes",
    }


async def test_list_requests_pages_with_cursor(http: HttpHarness) -> None:
    ids = [await http.upload() for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"&cursor={cursor}" if cursor else ""
        page = (await http.get(f"/listRequests?limit=2{query}")).json()
        seen += [each["requestId"] for each in page["requests"]]
        cursor = page["nextCursor"]
    assert seen == ids[::-1]


async def test_list_requests_has_totals_of_all_requests(http: HttpHarness) -> None:
    empty = (await http.get("/listRequests")).json()
    assert empty["totals"] == {"requests": 0, "images": 0, "inputBytes": 0, "outputBytes": 0}
    await http.upload()
    await http.complete(await http.claim())
    await http.upload()
    await http.fail((await http.claim())[:1])
    page = (await http.get("/listRequests?limit=1&status=completed&name=nothing")).json()
    assert page["requests"] == []
    assert page["totals"] == {"requests": 2, "images": 4, "inputBytes": 2_000, "outputBytes": 800}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SPRING", ["spring 100%.csv"]),
        ("straße", ["STRASSE_1"]),
        ("ÉTÉ", ["e\u0301te\u0301"]),
        ("İ", ["i\u0307zmir"]),
        ("%", ["spring 100%.csv"]),
        ("_", ["STRASSE_1"]),
        ("*", []),
        ("\N{FULLWIDTH DIGIT ONE}", ["STRASSE_1", "spring 100%.csv"]),
    ],
)
async def test_list_requests_finds_names_in_any_case_and_literally(
    http: HttpHarness, text: str, names: list[str]
) -> None:
    for name in ("spring 100%.csv", "STRASSE_1", "e\u0301te\u0301", "i\u0307zmir"):
        await http.upload(query=f"?name={quote(name)}")
    await http.upload()
    found = (await http.get(f"/listRequests?name={quote(text)}")).json()["requests"]
    assert [each["name"] for each in found] == names


async def test_list_requests_finds_no_name_with_invalid_text(http: HttpHarness) -> None:
    await http.upload(query="?name=x")
    for text in ("%ED%A0%80", "%FF", "%00"):
        response = await http.get(f"/listRequests?name={text}")
        assert (response.status, response.json()["requests"]) == (200, [])


async def test_list_requests_filters_by_status(http: HttpHarness) -> None:
    done = await http.upload()
    await http.complete(await http.claim())
    pending = await http.upload()
    for status, ids in (("completed", [done]), ("pending", [pending]), ("failed", [])):
        page = (await http.get(f"/listRequests?status={status}")).json()
        assert [each["requestId"] for each in page["requests"]] == ids


@pytest.mark.parametrize(
    "query", ["status=done", "limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=", "page=2"]
)
async def test_list_requests_rejects_invalid_options(http: HttpHarness, query: str) -> None:
    response = await http.get(f"/listRequests?{query}")
    assert response.status == 400
    assert response.problem()["type"] == "urn:imgsvc:problem:invalid-option"


async def test_watch_streams_progress_until_finished(http: HttpHarness) -> None:
    request_id = await http.upload()
    claims = await http.claim()
    watch = asyncio.create_task(http.get(f"/watchStatus/{request_id}"))
    await wait_until(lambda: http.service.events.watchers)
    await http.complete(claims[:1])
    async with http.service.events.watch(request_id) as subscription:
        async for snapshot in subscription:
            if snapshot.progress.completed:
                break
    await http.complete(claims[1:])
    response = await watch
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.body.startswith(b"retry: ")
    events = parse_events(response.body)
    assert [event["event"] for event in events][-1] == "finished"
    assert {event["event"] for event in events[:-1]} == {"progress"}
    last = events[-1]["data"]
    status = (await http.get(f"/checkStatus/{request_id}?format=json&products=false")).json()
    assert last == status
    versions = [int(event["id"]) for event in events]
    assert versions == sorted(set(versions))


async def test_watch_returns_204_when_client_reconnects_to_finished_request(
    http: HttpHarness,
) -> None:
    request_id = await http.upload()
    await http.complete(await http.claim())
    events = parse_events((await http.get(f"/watchStatus/{request_id}")).body)
    assert [event["event"] for event in events] == ["finished"]
    again = await http.get(f"/watchStatus/{request_id}", {"Last-Event-ID": events[0]["id"]})
    assert (again.status, again.body) == (204, b"")


async def test_watch_sends_comments_when_nothing_changes(tmp_path: Path) -> None:
    limits = ServiceLimits(event_stream=EventStreamLimits(comment_seconds=0.05))
    async with open_http(tmp_path, limits=limits) as http:
        request_id = await http.upload()
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        writer.write(f"GET /watchStatus/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b"event: progress" in await reader.readuntil(b"\r\n: keep-alive\n\n")
        writer.close()
        await wait_until(lambda: not http.service.events.watchers)


async def test_watch_disconnects_client_that_receives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ServiceLimits(event_stream=EventStreamLimits(0.0001, 0.2))
    monkeypatch.setattr(
        requests.RequestsHandler, "_event", lambda *_: b"data: " + b"x" * 4_000_000 + b"\n\n"
    )
    async with open_http(tmp_path, limits=limits) as http:
        request_id = await http.upload()
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port, limit=1_000)
        writer.write(f"GET /watchStatus/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"\r\n")
        await wait_until(lambda: http.service.events.watchers)
        await wait_until(lambda: not http.service.events.watchers)
        writer.close()


async def test_cancel_cancels_pending_images_once(http: HttpHarness) -> None:
    request_id = await http.upload()
    await http.complete((await http.claim(1))[:1])
    response = await http.post(f"/cancelRequest/{request_id}")
    assert response.status == 200
    assert response.json()["status"] == "cancelled"
    assert response.json()["progress"]["cancelled"] == 1
    assert response.json()["productsTotal"] == 1
    again = await http.post(f"/cancelRequest/{request_id}")
    assert again.status == 409
    assert again.problem()["type"] == "urn:imgsvc:problem:already-finished"


async def test_retry_failed_requires_finished_request_with_failed_images(http: HttpHarness) -> None:
    request_id = await http.upload()
    early = await http.post(f"/retryFailed/{request_id}")
    assert (early.status, early.problem()["type"][-12:]) == (409, "not-finished")
    await http.fail(await http.claim())
    response = await http.post(f"/retryFailed/{request_id}")
    assert response.status == 202
    assert response.json()["progress"]["pending"] == 2
    assert response.json()["finishedAt"] is None
    await http.complete(await http.claim())
    late = await http.post(f"/retryFailed/{request_id}")
    assert late.status == 409
    assert late.problem()["type"] == "urn:imgsvc:problem:nothing-failed"


async def test_cancel_of_host_cancels_its_images_and_refuses_when_none_is_unfinished(
    http: HttpHarness,
) -> None:
    request_id = await http.upload()
    path = f"/cancelRequest/{request_id}?host="
    response = await http.post(f"{path}a.example")
    assert response.status == 200
    progress = response.json()["progress"]
    assert (progress["pending"], progress["cancelled"]) == (1, 1)
    again = await http.post(f"{path}a.example")
    assert again.status == 409
    assert again.problem()["type"] == "urn:imgsvc:problem:already-finished"
    assert (await http.post(f"{path}b.example:80")).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    "host", ["", "a.example/1.jpg", "http://a.example", "me@a.example", "a..b", "a:99999", "%23"]
)
async def test_cancel_rejects_invalid_host(http: HttpHarness, host: str) -> None:
    request_id = await http.upload()
    response = await http.post(f"/cancelRequest/{request_id}?host={host}")
    assert response.status == 400
    (error,) = response.problem()["errors"]
    assert error["option"] == "host"


async def test_retry_includes_cancelled_images_if_asked(http: HttpHarness) -> None:
    request_id = await http.upload()
    await http.post(f"/cancelRequest/{request_id}")
    assert (await http.post(f"/retryFailed/{request_id}")).status == 409
    response = await http.post(f"/retryFailed/{request_id}?include=cancelled")
    assert response.status == 202
    assert response.json()["progress"]["pending"] == 2
    await http.complete(await http.claim())
    late = await http.post(f"/retryFailed/{request_id}?include=cancelled")
    assert late.status == 409
    assert (await http.post(f"/retryFailed/{request_id}?include=x")).status == 400


async def test_delete_removes_finished_request_and_its_outputs(http: HttpHarness) -> None:
    request_id = await http.upload()
    early = await http.call("DELETE", f"/deleteRequest/{request_id}")
    assert early.status == 409
    await http.complete(await http.claim())
    status = (await http.get(f"/checkStatus/{request_id}?format=json")).json()
    output = status["products"][0]["images"][0]["outputUrl"].removeprefix(http.url)
    assert (await http.get(output)).status == 200
    response = await http.call("DELETE", f"/deleteRequest/{request_id}")
    assert (response.status, response.body) == (204, b"")
    assert (await http.get(output)).status == 404
    assert (await http.get(f"/checkStatus/{request_id}")).status == 404
    assert (await http.call("DELETE", f"/deleteRequest/{request_id}")).status == 404


async def test_output_that_cannot_be_deleted_fails_no_deletion_of_a_request(
    http: HttpHarness,
) -> None:
    first, second = [await http.upload() for _ in range(2)]
    await http.complete(await http.claim())
    outputs = http.service.config.storage.data_dir / "outputs"
    blocked = next(outputs.rglob("*.jpg"))
    blocked.unlink()
    blocked.mkdir()
    for request_id in (first, second):
        response = await http.call("DELETE", f"/deleteRequest/{request_id}")
        assert (response.status, response.body) == (204, b"")
        assert (await http.get(f"/checkStatus/{request_id}")).status == 404
    assert list(outputs.rglob("*.jpg")) == [blocked]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/watchStatus/"),
        ("POST", "/cancelRequest/"),
        ("POST", "/retryFailed/"),
        ("POST", "/repeatRequest/"),
        ("DELETE", "/deleteRequest/"),
        ("GET", "/downloadImages/"),
        ("HEAD", "/downloadImages/"),
    ],
)
async def test_unknown_request_id_returns_404(http: HttpHarness, method: str, path: str) -> None:
    response = await http.call(method, path + UNKNOWN)
    assert response.status == 404
    assert (await http.call(method, f"{path}{UNKNOWN}?x=1")).status == 400


async def test_cancel_ignores_request_body(http: HttpHarness) -> None:
    request_id = await http.upload(ROWS)
    assert (await http.post(f"/cancelRequest/{request_id}", b"x" * 100_000)).status == 200
