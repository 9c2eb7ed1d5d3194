"""Tests of the access log: one line for each API call, with the name of the caller's key."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgsvc.logs import JsonFormatter
from imgsvc.processing.health import ServiceState
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
    await http.call("DELETE", f"/deleteRequest/{UNKNOWN}", headers=HEADERS)
    assert lines.fields("msg", "method", "path", "status", "key") == [
        ("change", "POST", "/processImages", 201, "shop"),
        ("api call", "GET", f"/checkStatus/{UNKNOWN}", 404, "shop"),
        ("api call", "GET", "/listRequests", 401, None),
        ("api call", "GET", "/listRequests", 401, None),
        ("change", "POST", "/session", 204, "shop"),
        ("api call", "DELETE", f"/deleteRequest/{UNKNOWN}", 404, "shop"),
    ]
    assert set(lines.fields("levelname", "client")) == {("INFO", "127.0.0.1")}
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
    (record,) = lines.records
    (line,) = JsonFormatter().format(record).splitlines()
    path = json.loads(line)["path"]
    assert path == ("/" + "a%0A" * 5_000)[:199] + "…"


async def test_call_of_a_client_that_disconnects_is_logged(http: HttpHarness, lines: Lines) -> None:
    created = await http.post("/processImages", csv_body(), HEADERS)
    watching = asyncio.create_task(http.get(f"/watchStatus/{created.json()['requestId']}", HEADERS))
    await wait_until(lambda: http.service.events.watchers)
    watching.cancel()
    await wait_until(lambda: len(lines.records) == 2)
    assert lines.fields("path", "status", "key")[1][1:] == (499, "shop")
