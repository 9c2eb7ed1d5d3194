"""Uploads are limited in number, in their rate, and in the memory of incomplete rows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from imgsvc.config import ServerConfig
from imgsvc.errors import ProblemError
from imgsvc.limits import ServiceLimits
from imgsvc.upload_limits import LARGE_BYTES, SMALL_BYTES, RowMemory
from imgsvc.web.limits import BodyLimits, ConnectionLimits
from tests.harness.http import HttpHarness, csv_body, open_http
from tests.waiting import wait_until

CSV = {"Content-Type": "text/csv"}
HEAD = (
    b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n"
)


async def begin(
    http: HttpHarness, body: bytes, count: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin an upload, and send the first `count` bytes of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write(HEAD % len(body) + body[:count])
    return reader, writer


async def test_more_uploads_than_allowed_get_503_until_one_has_ended(tmp_path: Path) -> None:
    body = csv_body()
    async with open_http(tmp_path, server={"max_uploads": 2}) as http:
        uploads = [await begin(http, body, 10) for _ in range(2)]
        await wait_until(
            lambda: http.service.intake._upload_slots.used == 2, "the uploads to begin"
        )
        refused = await http.post("/processImages", body, CSV)
        assert refused.status == 503
        assert refused.headers["Retry-After"] == "5"
        assert "server.max_uploads" in refused.problem()["detail"]
        uploads[0][1].write(body[10:])
        assert (await uploads[0][0].read()).startswith(b"HTTP/1.1 201 ")
        assert (await http.post("/processImages", body, CSV)).status == 201
        for _, writer in uploads:
            writer.close()
        await wait_until(lambda: http.service.intake._upload_slots.used == 0, "the upload to end")


async def test_upload_that_is_too_slow_returns_408(tmp_path: Path) -> None:
    limits = ServiceLimits(connections=ConnectionLimits(body=BodyLimits(period_seconds=0.4)))
    body = csv_body()
    async with open_http(tmp_path, limits=limits) as http:
        reader, writer = await begin(http, body, 0)
        response = asyncio.create_task(reader.read())
        for number in range(1_000):
            if response.done():
                break
            writer.write(body[number % 10 : number % 10 + 1])
            await asyncio.sleep(0.02)
        assert (await response).startswith(b"HTTP/1.1 408 ")
        assert b"too slow" in await response
        writer.close()


async def test_upload_that_brings_enough_in_each_period_is_accepted(tmp_path: Path) -> None:
    limits = ServiceLimits(
        connections=ConnectionLimits(body=BodyLimits(min_bytes=2, period_seconds=2.0))
    )
    body = csv_body()
    async with open_http(tmp_path, limits=limits) as http:
        reader, writer = await begin(http, body, 0)
        for byte in body:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
        writer.close()


def large_row(size: int) -> bytes:
    """Return a CSV whose only row has a cell of `size` bytes."""
    return csv_body([(1, "Lamp", ["http://a.example/1.jpg"], "x" * size)])


async def test_large_rows_are_read_one_after_the_other_and_accepted(tmp_path: Path) -> None:
    """With the smallest buffer, one large row fits."""
    body = large_row(2**20)
    async with open_http(tmp_path, server={"upload_buffer_bytes": 2**20}) as http:
        memory = http.service.intake._row_memory
        first = await begin(http, body, 2**19)
        await wait_until(memory.permits.locked, "the first row to be large")
        second = await begin(http, body, len(body))
        await wait_until(lambda: memory.waiting == 1, "the second upload to wait")
        small = await http.post("/processImages", csv_body(), CSV)
        assert small.status == 201
        first[1].write(body[2**19 :])
        for reader, writer in (first, second):
            assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
            writer.close()
        assert not memory.permits.locked()


async def test_upload_that_disconnects_in_a_large_row_releases_its_memory(tmp_path: Path) -> None:
    body = large_row(2**20)
    async with open_http(tmp_path, server={"upload_buffer_bytes": 2**20}) as http:
        memory = http.service.intake._row_memory
        _, writer = await begin(http, body, 2**19)
        await wait_until(memory.permits.locked, "the row to be large")
        writer.close()
        assert (await http.post("/processImages", body, CSV)).status == 201


async def test_long_first_row_counts_for_each_delimiter_that_is_tried(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"upload_buffer_bytes": 2**20}) as http:
        memory = http.service.intake._row_memory
        _, writer = await begin(http, b'"' + b"x" * 2**20, SMALL_BYTES // 4)
        await wait_until(memory.permits.locked, "the first row to be large")
        writer.close()


async def test_slow_large_row_is_refused_only_while_others_wait() -> None:
    memory = RowMemory(ServerConfig(upload_buffer_bytes=2**20), large_row_seconds=0)
    with memory.share() as slow:
        await slow.resize(SMALL_BYTES + 1)
        await slow.resize(SMALL_BYTES + 2)
        with memory.share() as other:
            waiting = asyncio.create_task(other.resize(SMALL_BYTES + 1))
            await wait_until(lambda: memory.waiting == 1, "the other upload to wait")
            with pytest.raises(ProblemError, match="too slowly"):
                await slow.resize(SMALL_BYTES + 3)
            await slow.resize(0)
            await waiting


@pytest.mark.parametrize(
    ("total", "rows"), [(2**20, 1), (64 * SMALL_BYTES + 2 * LARGE_BYTES, 2), (2**30, 42)]
)
def test_memory_decides_how_many_large_rows_are_read_at_once(total: int, rows: int) -> None:
    memory = RowMemory(ServerConfig(upload_buffer_bytes=total))
    assert memory.permits._value == rows
