"""Tests of the access log: one line for each API call, with the name of the caller's key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from imgsvc.access import Caller
from imgsvc.processing.health import ServiceState
from imgsvc.web.http.access_log import AccessLog, AccessLogLimits
from imgsvc.web.http.api_keys import CALLER
from tests.harness.http import HttpHarness, csv_body, open_http
from tests.waiting import wait_until

KEY = {"name": "shop", "role": "submit", "key": "key-of-the-shop-tests"}
HEADERS = {"X-API-Key": KEY["key"], "Content-Type": "text/csv"}
UNKNOWN = "0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1"


class Lines(logging.Handler):
    """The fields of the lines in the access log, from the level `debug` on."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def fields(self, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(getattr(r, name, None) for name in names) for r in self.records]


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger, lines = logging.getLogger("imgsvc.access"), Lines()
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.removeHandler(lines)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
async def http(tmp_path: Path, lines: Lines) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path, server={"keys": [KEY]}) as http:
        yield http


async def test_line_has_the_call_its_result_and_the_name_of_the_key(
    http: HttpHarness, lines: Lines
) -> None:
    response = await http.post("/processImages?name=Secret", csv_body(), HEADERS)
    await http.get(f"/checkStatus/{UNKNOWN}", HEADERS)
    await http.get("/listRequests")
    await http.get("/listRequests", {"X-API-Key": "unknown-key-of-tests"})
    await http.post(
        "/session", b'{"apiKey": "key-of-the-shop-tests"}', {"Content-Type": "application/json"}
    )
    assert lines.fields("levelname", "method", "path", "status", "client", "key") == [
        ("INFO", "POST", "/processImages", 201, "127.0.0.1", "shop"),
        ("INFO", "GET", f"/checkStatus/{UNKNOWN}", 404, "127.0.0.1", "shop"),
        ("INFO", "GET", "/listRequests", 401, "127.0.0.1", None),
        ("INFO", "GET", "/listRequests", 401, "127.0.0.1", None),
        ("INFO", "POST", "/session", 204, "127.0.0.1", "shop"),
    ]
    (size, seconds), *_ = lines.fields("bytes", "seconds")
    assert size == len(response.body)
    assert 0 <= seconds < 60
    text = repr([vars(record) for record in lines.records])
    assert "Secret" not in text
    assert "key-of-" not in text


async def test_reads_that_need_no_key_are_logged_at_debug_unless_refused(
    http: HttpHarness, lines: Lines
) -> None:
    http.service.monitor.state = ServiceState.STARTING
    assert (await http.get("/health/ready")).status == 503
    for path in ("/health/live", "/static/app.js", "/", "/docs", "/static/unknown.js"):
        await http.get(path)
    assert lines.fields("levelname", "path") == [
        ("DEBUG", "/health/ready"),
        ("DEBUG", "/health/live"),
        ("DEBUG", "/static/app.js"),
        ("DEBUG", "/"),
        ("DEBUG", "/docs"),
        ("INFO", "/static/unknown.js"),
    ]


async def test_long_path_is_cut_and_stays_on_one_line(http: HttpHarness, lines: Lines) -> None:
    await http.get("/" + "a%0A" * 5_000)
    assert lines.fields("path") == [(("/" + "a%0A" * 5_000)[:200],)]


async def test_call_of_a_client_that_disconnects_is_logged(http: HttpHarness, lines: Lines) -> None:
    created = await http.post("/processImages", csv_body(), HEADERS)
    watching = asyncio.create_task(http.get(f"/watchStatus/{created.json()['requestId']}", HEADERS))
    await wait_until(lambda: http.service.events.watchers)
    watching.cancel()
    await wait_until(lambda: len(lines.records) == 2)
    assert lines.fields("path", "status", "key")[1][1:] == (499, "shop")


def call(access_log: AccessLog, method: str, status: int, now: float, name: str = "") -> None:
    request = make_mocked_request(method, "/x")
    if name:
        request[CALLER] = Caller(name)
    access_log.record(request, status, 0, now, now)


def test_number_of_lines_is_limited_but_changes_are_always_logged(lines: Lines) -> None:
    access_log = AccessLog(AccessLogLimits(lines=3, seconds=60))
    for _ in range(10):
        call(access_log, "GET", 401, 100.0)
        call(access_log, "GET", 200, 100.0, "shop")
    call(access_log, "DELETE", 204, 159.0, "shop")
    assert lines.fields("method", "status") == [
        ("GET", 401),
        ("GET", 200),
        ("GET", 401),
        ("DELETE", 204),
    ]
    call(access_log, "GET", 401, 160.0)
    left_out, last = lines.records[4:]
    assert (left_out.getMessage(), vars(left_out)["count"]) == ("access log lines left out", 17)
    assert vars(last)["status"] == 401
