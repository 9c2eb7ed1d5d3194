"""The connections of clients are limited in number, and in the time without a request."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from imgsvc.limits import ServiceLimits
from imgsvc.web.http.connections import connection_limit
from imgsvc.web.limits import ConnectionLimits
from tests.harness.http import HttpHarness, csv_body, open_http
from tests.waiting import wait_until

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPLOAD = (
    b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
    b"Content-Length: %d\r\n\r\n"
)


class Client:
    """A connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def call(self, request: bytes = LIVE) -> bytes:
        """Send a request and return the status line of its response."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        await self.reader.readexactly(int(length.split(b":")[1]))
        return head.split(b"\r\n")[0]

    async def is_closed(self) -> bool:
        """Wait until the service closes the connection without another byte. Return whether."""
        async with asyncio.timeout(20):
            return await self.reader.read() == b""


@asynccontextmanager
async def client(http: HttpHarness) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def test_idle_connections_are_closed_for_new_ones_the_longest_idle_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_http(tmp_path, server={"max_connections": 3}) as http,
        AsyncExitStack() as stack,
    ):
        first, second, third = [await stack.enter_async_context(client(http)) for _ in range(3)]
        for each in (third, second, first):
            assert b" 200 " in await each.call()
        fourth = await stack.enter_async_context(client(http))
        assert b" 200 " in await fourth.call()
        assert await third.is_closed()
        assert b" 200 " in await first.call()
        fifth = await stack.enter_async_context(client(http))
        assert b" 200 " in await fifth.call()
        assert await second.is_closed()
    assert "too many connections" in caplog.text


async def test_connection_with_call_in_progress_is_not_closed_and_new_one_gets_503(
    tmp_path: Path,
) -> None:
    body = csv_body()
    async with (
        open_http(tmp_path, server={"max_connections": 2}) as http,
        AsyncExitStack() as stack,
    ):
        uploads = [await stack.enter_async_context(client(http)) for _ in range(2)]
        for each in uploads:
            each.writer.write(UPLOAD % len(body) + body[:-1])
        connections = http.service
        await wait_until(lambda: len(connections.intake._tasks) == 2, "both uploads to begin")
        refused = await http.raw()
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"urn:imgsvc:problem:unavailable" in refused
        assert b"Retry-After: 5" in refused
        for each in uploads:
            assert b" 201 " in await each.call(body[-1:])
        assert (await http.get("/health/live")).status == 200


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: lo"])
async def test_head_must_arrive_in_time(tmp_path: Path, sent: bytes, is_used: bool) -> None:
    limits = ServiceLimits(connections=ConnectionLimits(head_seconds=0.3))
    async with (
        open_http(tmp_path, limits=limits) as http,
        client(http) as slow,
        client(http) as kept,
    ):
        if is_used:
            assert b" 200 " in await slow.call()
        slow.writer.write(sent)
        assert b" 200 " in await kept.call()
        if sent or not is_used:
            assert await slow.is_closed()
        else:  # It is idle between calls. A silent connection shows when the time is over.
            async with client(http) as silent:
                assert await silent.is_closed()
            assert b" 200 " in await slow.call()
        assert b" 200 " in await kept.call()


async def test_body_may_take_longer_than_the_head(tmp_path: Path) -> None:
    body = csv_body()
    limits = ServiceLimits(connections=ConnectionLimits(head_seconds=0.2))
    async with (
        open_http(tmp_path, limits=limits) as http,
        client(http) as slow,
        client(http) as idle,
    ):
        slow.writer.write(UPLOAD % len(body))
        assert await idle.is_closed()
        assert b" 201 " in await slow.call(body)


async def test_malformed_request_gets_http_1_1(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        response = await http.raw(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Connection: close\r\n" in response


async def test_problem_shows_only_the_start_of_a_long_path(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        for method in ("GET", "POST"):
            response = await http.call(method, "/" + "p" * 20_000)
            assert response.status == 404
            assert len(response.body) < 500


def test_connections_use_at_most_half_of_the_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert connection_limit(3) == 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, before[1]))
    try:
        assert connection_limit(4_096) == 250
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
