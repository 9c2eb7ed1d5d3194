"""Routes, and what every answer has."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.processing.health import ServiceState
from imgsvc.web.static_files import STATIC
from tests.http_harness import ROWS, HttpHarness, body_of, open_http

UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"
CSV = {"Content-Type": "text/csv"}
EVERY = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/static/app.js"),
    ("GET", "/static/sample.csv"),
    ("GET", "/openapi.json"),
    ("GET", "/postman.json"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/listRequests"),
    ("GET", f"/checkStatus/{UNKNOWN}"),
    ("GET", f"/images/{'0' * 32}.jpg"),
    ("GET", "/nowhere"),
    ("PUT", "/"),
    ("POST", "/processImages"),
]


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


@pytest.mark.parametrize(("method", "path"), EVERY)
async def test_every_answer_is_hardened(http: HttpHarness, method: str, path: str) -> None:
    headers = (await http.call(method, path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Server"] == "imgsvc"
    assert "Cache-Control" in headers


async def test_the_pages_policy_lets_in_nothing_foreign(http: HttpHarness) -> None:
    policy = (await http.get("/")).headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/docs", "/static/app.js", "/static/base.css"])
async def test_pages_are_cached_and_asked_for_again(http: HttpHarness, path: str) -> None:
    answer = await http.get(path)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-cache"
    again = await http.get(path, {"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    head = await http.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(answer.body))


async def test_all_static_files_are_served_and_no_others(http: HttpHarness) -> None:
    for file in STATIC.rglob("*"):
        if file.is_file():
            answer = await http.get(f"/static/{file.relative_to(STATIC).as_posix()}")
            assert (answer.status, answer.body) == (200, file.read_bytes())
    for path in ("..%2fapp.py", "%2fetc%2fpasswd", "", "nothing"):
        assert (await http.get(f"/static/{path}")).status == 404


async def test_pages_link_to_what_is_there(http: HttpHarness) -> None:
    for page in ("/", "/docs"):
        text = (await http.get(page)).body.decode()
        for link in re.findall(r'(?:src|href)="([^"#]+)"', text):
            assert not re.match(r"[a-z]+:|/", link), "relative, so that a path prefix works"
            assert (await http.get(f"/{link.removeprefix('./')}")).status == 200, link


async def test_health(http: HttpHarness) -> None:
    for path in ("/health/live", "/health/ready"):
        answer = await http.get(path)
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("state", [ServiceState.STARTING, ServiceState.STOPPING])
async def test_while_it_starts_or_stops(http: HttpHarness, state: ServiceState) -> None:
    request_id = await http.upload()
    await http.complete(await http.claim())
    output = (await http.get(f"/checkStatus/{request_id}")).body.decode().split(http.url)[1]
    http.service.monitor.state = state
    for method, path in (
        ("POST", "/processImages"),
        ("GET", f"/checkStatus/{request_id}"),
        ("GET", f"/watchStatus/{request_id}"),
        ("GET", "/listRequests"),
        ("POST", f"/cancelRequest/{request_id}"),
        ("GET", "/health/ready"),
    ):
        answer = await http.call(method, path)
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert state in answer.problem()["detail"]
    for path in ("/health/live", "/metrics", "/", "/openapi.json", output.split(",")[0]):
        assert (await http.get(path)).status == 200, path
    http.service.monitor.state = ServiceState.RUNNING


async def test_ready_says_what_is_wrong(tmp_path: Path) -> None:
    async with open_http(tmp_path, storage={"min_free_bytes": 2**62}) as http:
        answer = await http.get("/health/ready")
        assert answer.status == 503
        assert "the disk is full" in answer.problem()["detail"]
        assert (await http.get("/listRequests")).status == 200, "reading goes on"


async def test_metrics(http: HttpHarness) -> None:
    await http.upload()
    answer = await http.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert b'imgsvc_uploads_total{outcome="accepted"} 1.0' in answer.body


async def test_a_path_prefix_is_there_with_and_without(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"public_url": "http://127.0.0.1/a/b/"}) as http:
        for prefix in ("/a/b", ""):
            assert (await http.get(f"{prefix}/listRequests")).status == 200
            assert (await http.get(f"{prefix}/")).status == 200
            assert (await http.get(f"{prefix}/static/app.js")).status == 200
            answer = await http.post(f"{prefix}/processImages", body_of(), CSV)
            assert answer.status == 201
            assert answer.headers["Location"].startswith("/a/b/checkStatus/")
            assert (await http.call("PUT", f"{prefix}/")).status == 405
        folder = await http.get("/a/b")
        assert (folder.status, folder.headers["Location"]) == (308, "/a/b/")
        assert (await http.get("/a")).status == 404


async def test_calls_share_a_connection(http: HttpHarness) -> None:
    call = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = call.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = await http.raw(call + call + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def test_a_refused_body_that_is_all_there_keeps_the_connection(http: HttpHarness) -> None:
    body = body_of(ROWS)
    call = f"PUT /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    last = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await http.raw(call.encode() + body + last)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert answer.count(b"HTTP/1.1 200 OK") == 1


async def test_a_query_is_not_for_pages(http: HttpHarness) -> None:
    assert (await http.get("/?utm_source=x")).status == 200
    assert (await http.get("/static/app.js?v=1")).status == 200


@pytest.mark.parametrize("path", ["/nothing", "//", "/%0d%0a", "/checkStatus/%0A/x", "/%FF", "/{}"])
async def test_no_path_gets_past_the_gate(http: HttpHarness, path: str) -> None:
    call = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nExpect: much\r\nConnection: close\r\n\r\n"
    answer = await http.raw(call.encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in answer
    foreign = await http.raw(call.replace("localhost", "evil.example").encode())
    assert foreign.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "head", ["NONSENSE /?sig=secret HTTP/1.1", "GET / HTTP/1.1\r\nX-API-Key: \0secret"]
)
async def test_malformed_http_gets_a_problem_and_tells_the_log_no_secret(
    http: HttpHarness, caplog: pytest.LogCaptureFixture, head: str
) -> None:
    caplog.set_level("INFO")
    answer = await http.raw(f"{head}\r\nHost: localhost\r\n\r\n".encode())
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b"application/problem+json" in answer
    (record,) = [r for r in caplog.records if r.getMessage() == "malformed HTTP"]
    assert "secret" not in str(vars(record))
