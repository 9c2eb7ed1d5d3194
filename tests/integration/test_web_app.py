"""Tests of the routes and of the headers of every response."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.processing.health import ServiceState
from imgsvc.web.handlers.static_files import FORMATS_MODULE, STATIC
from tests.harness.http import ROWS, HttpHarness, csv_body, open_http

UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"
CSV = {"Content-Type": "text/csv"}
ROUTES = [
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/static/app.js"),
    ("GET", "/sample/products.csv"),
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


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_response_has_security_headers(
    http: HttpHarness, method: str, path: str
) -> None:
    headers = (await http.call(method, path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Server"] == "imgsvc"
    assert "Cache-Control" in headers


async def test_page_csp_allows_only_own_scripts(http: HttpHarness) -> None:
    policy = (await http.get("/")).headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/docs", "/static/app.js", "/static/base.css"])
async def test_pages_are_revalidated_by_etag_and_support_head(http: HttpHarness, path: str) -> None:
    response = await http.get(path)
    assert response.status == 200
    assert response.headers["Cache-Control"] == "no-cache"
    again = await http.get(path, {"If-None-Match": response.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    head = await http.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(response.body))


async def test_static_route_serves_only_files_of_static_folder(http: HttpHarness) -> None:
    for file in STATIC.rglob("*"):
        if file.is_file() and file.name != "docs.html":  # it has generated parts
            response = await http.get(f"/static/{file.relative_to(STATIC).as_posix()}")
            assert (response.status, response.body) == (200, file.read_bytes())
    for path in ("..%2fapp.py", "%2fetc%2fpasswd", "", "nothing"):
        assert (await http.get(f"/static/{path}")).status == 404


async def test_page_gets_selectable_formats_from_server(http: HttpHarness) -> None:
    response = await http.get(f"/static/{FORMATS_MODULE}")
    assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
    match = re.fullmatch(r"export const OUTPUT_FORMATS = (.*);\n", response.body.decode())
    assert match is not None
    assert json.loads(match[1]) == [
        ["jpeg", "JPEG"],
        ["webp", "WebP"],
        ["avif", "AVIF"],
        ["png", "PNG"],
    ]
    assert FORMATS_MODULE in (STATIC / "options.js").read_text()


async def test_page_links_are_relative_and_resolve(http: HttpHarness) -> None:
    for page in ("/", "/docs"):
        text = (await http.get(page)).body.decode()
        for link in re.findall(r'(?:src|href)="([^"#]+)"', text):
            assert not re.match(r"[a-z]+:|/", link), "relative, so that a path prefix works"
            assert (await http.get(f"/{link.removeprefix('./')}")).status == 200, link


async def test_health_routes_return_ok_while_running(http: HttpHarness) -> None:
    for path in ("/health/live", "/health/ready"):
        response = await http.get(path)
        assert (response.status, response.json()) == (200, {"status": "ok"})
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("state", [ServiceState.STARTING, ServiceState.STOPPING])
async def test_api_routes_return_503_while_starting_or_stopping(
    http: HttpHarness, state: ServiceState
) -> None:
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
        response = await http.call(method, path)
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert state in response.problem()["detail"]
    for path in ("/health/live", "/metrics", "/", "/openapi.json", output.split(",")[0]):
        assert (await http.get(path)).status == 200, path
    http.service.monitor.state = ServiceState.RUNNING


async def test_ready_returns_503_with_reason_when_disk_is_full(tmp_path: Path) -> None:
    async with open_http(tmp_path, storage={"min_free_bytes": 2**62}) as http:
        response = await http.get("/health/ready")
        assert response.status == 503
        assert "the disk is full" in response.problem()["detail"]
        assert (await http.get("/listRequests")).status == 200, "reading is still possible"


async def test_metrics_route_returns_prometheus_text(http: HttpHarness) -> None:
    await http.upload()
    response = await http.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain")
    assert b'imgsvc_uploads_total{outcome="accepted"} 1.0' in response.body


async def test_routes_work_with_and_without_path_prefix(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"public_url": "http://127.0.0.1/a/b/"}) as http:
        for prefix in ("/a/b", ""):
            assert (await http.get(f"{prefix}/listRequests")).status == 200
            assert (await http.get(f"{prefix}/")).status == 200
            assert (await http.get(f"{prefix}/static/app.js")).status == 200
            response = await http.post(f"{prefix}/processImages", csv_body(), CSV)
            assert response.status == 201
            assert response.headers["Location"].startswith("/a/b/checkStatus/")
            assert (await http.call("PUT", f"{prefix}/")).status == 405
        redirect = await http.get("/a/b")
        assert (redirect.status, redirect.headers["Location"]) == (308, "/a/b/")
        assert (await http.get("/a")).status == 404


async def test_pipelined_api_calls_share_one_connection(http: HttpHarness) -> None:
    api_call = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = api_call.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    response = await http.raw(api_call + api_call + last)
    assert response.count(b"HTTP/1.1 200 OK") == 3


async def test_connection_stays_open_after_error_when_body_was_received(http: HttpHarness) -> None:
    body = csv_body(ROWS)
    api_call = (
        f"PUT /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    last = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    response = await http.raw(api_call.encode() + body + last)
    assert response.startswith(b"HTTP/1.1 405 ")
    assert response.count(b"HTTP/1.1 200 OK") == 1


async def test_pages_ignore_query_string(http: HttpHarness) -> None:
    assert (await http.get("/?utm_source=x")).status == 200
    assert (await http.get("/static/app.js?v=1")).status == 200


@pytest.mark.parametrize("path", ["/nothing", "//", "/%0d%0a", "/checkStatus/%0A/x", "/%FF", "/{}"])
async def test_unknown_paths_are_checked_and_return_404(http: HttpHarness, path: str) -> None:
    api_call = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nExpect: much\r\nConnection: close\r\n\r\n"
    )
    response = await http.raw(api_call.encode())
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in response
    foreign = await http.raw(api_call.replace("localhost", "evil.example").encode())
    assert foreign.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "head", ["NONSENSE /?sig=secret HTTP/1.1", "GET / HTTP/1.1\r\nX-API-Key: \0secret"]
)
async def test_malformed_http_returns_problem_and_logs_no_secrets(
    http: HttpHarness, caplog: pytest.LogCaptureFixture, head: str
) -> None:
    caplog.set_level("INFO")
    response = await http.raw(f"{head}\r\nHost: localhost\r\n\r\n".encode())
    assert b" 400 " in response.partition(b"\r\n")[0]
    assert b"application/problem+json" in response
    (record,) = [r for r in caplog.records if r.getMessage() == "malformed HTTP"]
    assert "secret" not in str(vars(record))
