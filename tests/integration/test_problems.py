"""Tests that every error is a problem report, on any route."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import pytest

from imgsvc.database.connection import DatabaseFullError, DatabaseUnavailableError
from imgsvc.errors import FileError, FileErrorCode, ImageErrorCode, ProblemCode, ProblemError
from imgsvc.storage.base import StorageFullError, StorageUnavailableError
from imgsvc.web.http.problems import PROBLEMS, problem_response
from imgsvc.web.schema.problem_responses import ProblemReport
from tests.harness.http import HttpHarness, open_http

JSON = "application/problem+json"


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


def test_every_problem_code_has_status_and_title() -> None:
    assert set(PROBLEMS) == set(ProblemCode)
    for status, title in PROBLEMS.values():
        assert 400 <= HTTPStatus(status) < 600
        assert title


@pytest.mark.parametrize("code", ProblemCode)
def test_problem_response_matches_model(code: ProblemCode) -> None:
    error = FileError(
        FileErrorCode.TOO_LONG, "Shorten it.", row=3, column="Product Name", value="\ud800é"
    )
    response = problem_response(
        ProblemError(code, "Because.", errors=[error], error_count=200), "/img/docs"
    )
    assert response.headers["Content-Type"] == JSON
    assert isinstance(response.body, bytes)
    problem = ProblemReport.model_validate_json(response.body.replace(b"\\ud800", b""))
    assert problem.type == f"urn:imgsvc:problem:{code}"
    assert problem.status == response.status
    assert problem.help == f"/img/docs#errors-{code}"
    assert problem.error_count == 200
    assert ("Retry-After" in response.headers) is (response.status in {429, 503})


async def test_problems_link_to_help_below_the_path_prefix(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"public_url": "https://localhost/img"}) as http:
        for path in ("/nowhere", "/img/nowhere", "/checkStatus/x", "/listRequests?limit=0"):
            problem = (await http.get(path)).problem()
            assert problem["help"].startswith("/img/docs#errors-"), path
        malformed = await http.raw(b"nonsense\r\n\r\n")
        assert b'"help": "/img/docs#errors-bad-request"' in malformed
        page = await http.get(problem["help"].partition("#")[0])
        assert b'id="errors-invalid-option"' in page.body


async def test_docs_page_has_one_entry_for_each_error_code(http: HttpHarness) -> None:
    page = (await http.get("/docs")).body.decode()
    entries = re.findall(r'id="errors-([^"]+)"', page)
    codes = {str(code) for kind in (ProblemCode, FileErrorCode, ImageErrorCode) for code in kind}
    assert sorted(entries) == sorted(codes)
    assert "Add rows with full image URLs." in page
    assert '<span class="muted">413 Too many images</span>' in page
    assert "`" not in page


async def test_unknown_path_returns_404_problem(http: HttpHarness) -> None:
    for path in ("/nowhere", "/processImages/", "/static/nothing.js", "/checkStatus", "//", "/%00"):
        response = await http.get(path)
        assert response.status == 404, path
        assert response.problem()["type"] == "urn:imgsvc:problem:not-found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/processImages", "POST"),
        ("PUT", "/processImages", "POST"),
        ("OPTIONS", "/processImages", "POST"),
        ("TRACE", "/listRequests", "GET, HEAD"),
        ("POST", "/checkStatus/x", "GET, HEAD"),
        ("PATCH", "/session", "POST, GET, HEAD, DELETE"),
        ("GET", "/deleteRequest/x", "DELETE"),
        ("POST", "/", "GET, HEAD"),
        ("PROPFIND", "/", "GET, HEAD"),
    ],
)
async def test_wrong_method_returns_405_with_allow(
    http: HttpHarness, method: str, path: str, allow: str
) -> None:
    response = await http.call(method, path)
    assert response.status == 405
    assert response.headers["Allow"] == allow
    response.problem()


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        (
            b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        ),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_malformed_http_returns_400_problem(
    http: HttpHarness, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    response = await http.raw(sent)
    assert response.split(b" ", 2)[1] == b"400"
    assert f"Content-Type: {JSON}".encode() in response
    assert b'"type": "urn:imgsvc:problem:bad-request"' in response
    assert b"nosniff" in response
    assert b"Python" not in response
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "case",
    [
        (RuntimeError("secret detail"), 500, "internal"),
        (TimeoutError("secret detail"), 500, "internal"),
        (DatabaseUnavailableError("secret detail"), 503, "unavailable"),
        (DatabaseFullError("secret detail"), 503, "storage-full"),
        (StorageFullError("secret detail"), 503, "storage-full"),
        (StorageUnavailableError("secret detail"), 503, "unavailable"),
    ],
)
async def test_internal_errors_are_logged_and_not_shown_to_client(
    http: HttpHarness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    case: tuple[Exception, int, str],
) -> None:
    error, status, code = case

    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(http.service.queries, "list_requests", fail)
    response = await http.get("/listRequests")
    assert response.status == status
    assert response.problem()["type"] == f"urn:imgsvc:problem:{code}"
    assert ("Retry-After" in response.headers) is (status == 503)
    assert b"secret" not in response.body
    assert b"Traceback" not in response.body
    assert "secret detail" in caplog.text
    assert ("Traceback" in caplog.text) is (status == 500)


@pytest.mark.parametrize(
    ("error", "is_bug"), [(RuntimeError("why"), True), (FileNotFoundError("why"), False)]
)
async def test_response_is_aborted_when_error_occurs_after_start(
    http: HttpHarness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    is_bug: bool,
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    request_id = await http.upload()
    monkeypatch.setattr("imgsvc.web.handlers.requests.RequestsHandler._event", fail)
    api_call = f"GET /watchStatus/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    response = b""
    with suppress(ConnectionResetError):
        response = await http.raw(api_call.encode())
    assert response.count(b"HTTP/1.1 ") <= 1
    assert b"0\r\n\r\n" not in response
    (record,) = [each for each in caplog.records if "response aborted" in each.getMessage()]
    assert (record.exc_info is not None) is is_bug
    assert is_bug or "why" in record.getMessage()
