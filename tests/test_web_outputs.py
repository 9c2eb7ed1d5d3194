"""Stored outputs: one by its URL, all of a request as a ZIP."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.http_harness import HttpHarness, open_http

DATA = bytes(range(256)) * 4


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def outputs(http: HttpHarness, request_id: str) -> list[str]:
    status = (await http.get(f"/checkStatus/{request_id}?format=json")).json()
    urls = [image["outputUrl"] for product in status["products"] for image in product["images"]]
    return [url.removeprefix(http.url) for url in urls if url]


@pytest.fixture
async def output(http: HttpHarness) -> str:
    """The path of one output."""
    request_id = await http.upload()
    await http.complete((await http.claim())[:1], DATA)
    return (await outputs(http, request_id))[0]


async def test_an_output(http: HttpHarness, output: str) -> None:
    answer = await http.get(output)
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Accept-Ranges"] == "bytes"
    head = await http.call("HEAD", output)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Cache-Control"):
        assert head.headers[name] == answer.headers[name]


async def test_an_output_that_is_known_costs_a_304(http: HttpHarness, output: str) -> None:
    etag = (await http.get(output)).headers["ETag"]
    for header in (etag, f"W/{etag}", "*", f'"x", {etag}'):
        answer = await http.get(output, {"If-None-Match": header})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == etag
        assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=1000-", 1000, 1023), ("bytes=-1", 1023, 1023)],
)
async def test_a_range(http: HttpHarness, output: str, asked: str, first: int, last: int) -> None:
    answer = await http.get(output, {"Range": asked})
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1024"
    assert answer.body == DATA[first : last + 1]


async def test_a_range_that_lies_outside(http: HttpHarness, output: str) -> None:
    answer = await http.get(output, {"Range": "bytes=1024-"})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */1024"
    answer.problem()


async def test_a_range_of_another_version_gives_all(http: HttpHarness, output: str) -> None:
    etag = (await http.get(output)).headers["ETag"]
    same = await http.get(output, {"Range": "bytes=0-9", "If-Range": etag})
    other = await http.get(output, {"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status, other.status, other.body) == (206, 200, DATA)


async def test_a_large_output_is_streamed(http: HttpHarness) -> None:
    data = bytes(i * 7 % 256 for i in range(1_000_003))
    request_id = await http.upload()
    await http.complete(await http.claim(), data)
    for path in await outputs(http, request_id):
        assert (await http.get(path)).body == data
        part = await http.get(path, {"Range": "bytes=300000-900000"})
        assert part.body == data[300_000:900_001]


@pytest.mark.parametrize(
    "file",
    [
        "0" * 32 + ".jpg",
        "0" * 32,
        "x",
        "..%2f..%2fimgsvc.db",
        "%00",
        "a/b",
    ],
)
async def test_what_is_no_output(http: HttpHarness, file: str) -> None:
    answer = await http.get(f"/images/{file}")
    assert answer.status == 404
    answer.problem()


async def test_another_extension_is_not_found(http: HttpHarness, output: str) -> None:
    assert (await http.get(output.replace(".jpg", ".png"))).status == 404


async def test_an_output_whose_file_is_gone(http: HttpHarness, output: str) -> None:
    for path in (http.service.config.storage.data_dir / "outputs").rglob("*.jpg"):
        path.unlink()
    answer = await http.get(output)
    assert answer.status == 404
    answer.problem()


ROWS = (
    (1, "Lamp", ["http://a.example/1.jpg", "http://a.example/2.jpg"], ""),
    (2, "Lamp", "http://a.example/3.jpg", ""),
    (3, "../../etc/passwd", "http://a.example/4.jpg", ""),
    (4, "Łódź 字", "http://a.example/5.jpg", ""),
)


async def test_all_outputs_as_a_zip(http: HttpHarness) -> None:
    request_id = await http.upload(ROWS)
    claims = {claim.url[-5]: claim for claim in await http.claim()}
    for number in "1345":
        await http.complete([claims[number]], number.encode() * 300_000)
    await http.fail([claims["2"]], "404 Not Found, said the host")
    answer = await http.get(f"/downloadImages/{request_id}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{request_id}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as zipped:
        assert zipped.testzip() is None
        assert zipped.namelist() == [
            "Lamp-1.jpg",
            "Lamp (2)-1.jpg",
            "_.._etc_passwd-1.jpg",
            "Łódź 字-1.jpg",
            "errors.csv",
        ]
        assert zipped.read("Lamp-1.jpg") == b"1" * 300_000
        assert zipped.read("Łódź 字-1.jpg") == b"5" * 300_000
        errors = list(csv.reader(io.StringIO(zipped.read("errors.csv").decode())))
    assert errors == [
        ["S. No.", "Product Name", "Image", "Input Image Url", "Code", "Error"],
        ["1", "Lamp", "2", "http://a.example/2.jpg", "http_status", "404 Not Found, said the host"],
    ]


async def test_a_zip_of_nothing_is_empty(http: HttpHarness) -> None:
    request_id = await http.upload()
    answer = await http.get(f"/downloadImages/{request_id}")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as zipped:
        assert zipped.namelist() == []
    head = await http.call("HEAD", f"/downloadImages/{request_id}")
    assert (head.status, head.headers["Content-Type"]) == (200, "application/zip")


@pytest.mark.parametrize("now", [b"x", b"x" * 500])
async def test_a_zip_whose_outputs_change_is_cut_short(http: HttpHarness, now: bytes) -> None:
    request_id = await http.upload(ROWS)
    await http.complete(await http.claim(), b"x" * 400)
    for path in (http.service.config.storage.data_dir / "outputs").rglob("*.jpg"):
        path.write_bytes(now)
    call = f"GET /downloadImages/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        answer = await http.raw(call.encode())
    except ConnectionResetError:
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(body) < length
