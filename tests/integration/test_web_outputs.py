"""Tests of image downloads, one by one or as a ZIP."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.http import HttpHarness, open_http

DATA = bytes(range(256)) * 4


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def output_paths(http: HttpHarness, request_id: str) -> list[str]:
    """Return the URL paths of all outputs of a request."""
    status = (await http.get(f"/checkStatus/{request_id}?format=json")).json()
    urls = [image["outputUrl"] for product in status["products"] for image in product["images"]]
    return [url.removeprefix(http.url) for url in urls if url]


@pytest.fixture
async def output(http: HttpHarness) -> str:
    """Return the URL path of one output."""
    request_id = await http.upload()
    await http.complete((await http.claim())[:1], DATA)
    return (await output_paths(http, request_id))[0]


async def test_image_returns_output_with_headers_and_supports_head(
    http: HttpHarness, output: str
) -> None:
    response = await http.get(output)
    assert (response.status, response.body) == (200, DATA)
    assert response.headers["Content-Type"] == "image/jpeg"
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert response.headers["Accept-Ranges"] == "bytes"
    head = await http.call("HEAD", output)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Cache-Control"):
        assert head.headers[name] == response.headers[name]


async def test_image_returns_304_when_etag_matches(http: HttpHarness, output: str) -> None:
    etag = (await http.get(output)).headers["ETag"]
    for header in (etag, f"W/{etag}", "*", f'"x", {etag}'):
        response = await http.get(output, {"If-None-Match": header})
        assert (response.status, response.body) == (304, b"")
        assert response.headers["ETag"] == etag
        assert "immutable" in response.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("range_header", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=1000-", 1000, 1023), ("bytes=-1", 1023, 1023)],
)
async def test_image_returns_requested_range(
    http: HttpHarness, output: str, range_header: str, first: int, last: int
) -> None:
    response = await http.get(output, {"Range": range_header})
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/1024"
    assert response.body == DATA[first : last + 1]


async def test_image_returns_416_when_range_is_outside_file(http: HttpHarness, output: str) -> None:
    response = await http.get(output, {"Range": "bytes=1024-"})
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */1024"
    response.problem()


async def test_image_ignores_range_when_if_range_differs(http: HttpHarness, output: str) -> None:
    etag = (await http.get(output)).headers["ETag"]
    same = await http.get(output, {"Range": "bytes=0-9", "If-Range": etag})
    other = await http.get(output, {"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status, other.status, other.body) == (206, 200, DATA)


async def test_image_streams_large_output(http: HttpHarness) -> None:
    data = bytes(i * 7 % 256 for i in range(1_000_003))
    request_id = await http.upload()
    await http.complete(await http.claim(), data)
    for path in await output_paths(http, request_id):
        assert (await http.get(path)).body == data
        part = await http.get(path, {"Range": "bytes=300000-900000"})
        assert part.body == data[300_000:900_001]


@pytest.mark.parametrize("name", ["lamp-desk-1", "x", "a.b", "%C3%A9", "%0A", "-" * 500])
async def test_image_accepts_any_slug(http: HttpHarness, output: str, name: str) -> None:
    token = output.split("/")[2]
    response = await http.get(f"/images/{token}/{name}.jpg")
    assert (response.status, response.body) == (200, DATA)
    assert response.headers["Content-Type"] == "image/jpeg"
    assert (await http.get(f"/images/{token}/{name}.png")).status == 404
    assert (await http.get(f"/images/{'0' * 32}/{name}.jpg")).status == 404


async def test_image_is_served_without_a_slug(http: HttpHarness, output: str) -> None:
    token = output.split("/")[2]
    assert (await http.get(f"/images/{token}.jpg")).body == DATA
    assert (await http.get(f"/images/{token}.png")).status == 404


@pytest.mark.parametrize(
    "file",
    [
        "0" * 32 + ".jpg",
        "0" * 32 + "/.jpg",
        "0" * 32 + "/lamp",
        "0" * 32,
        "x",
        "..%2f..%2fimgsvc.db",
        "%00",
        "a/b",
    ],
)
async def test_image_returns_404_for_unknown_file(http: HttpHarness, file: str) -> None:
    response = await http.get(f"/images/{file}")
    assert response.status == 404
    response.problem()


async def test_image_returns_404_for_other_extension(http: HttpHarness, output: str) -> None:
    assert (await http.get(output.replace(".jpg", ".png"))).status == 404


async def test_image_returns_404_when_stored_file_is_missing(
    http: HttpHarness, output: str
) -> None:
    for path in (http.service.config.storage.data_dir / "outputs").rglob("*.jpg"):
        path.unlink()
    response = await http.get(output)
    assert response.status == 404
    response.problem()
    assert (await http.call("HEAD", output)).status == 404


ROWS = (
    (1, "Lamp", ["http://a.example/1.jpg", "http://a.example/2.jpg"], ""),
    (2, "Lamp", "http://a.example/3.jpg", ""),
    (3, "../../etc/passwd", "http://a.example/4.jpg", ""),
    (4, "Łódź 字", "http://a.example/5.jpg", ""),
)


async def test_zip_contains_outputs_and_errors_csv(http: HttpHarness) -> None:
    request_id = await http.upload(ROWS)
    claims = {claim.url[-5]: claim for claim in await http.claim()}
    for number in "1345":
        await http.complete([claims[number]], number.encode() * 300_000)
    await http.fail([claims["2"]], "404 Not Found, from the host")
    response = await http.get(f"/downloadImages/{request_id}")
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/zip"
    assert response.headers["Content-Disposition"] == (
        f'attachment; filename="{request_id}-images.zip"'
    )
    with zipfile.ZipFile(io.BytesIO(response.body)) as zipped:
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
        ["1", "Lamp", "2", "http://a.example/2.jpg", "http_status", "404 Not Found, from the host"],
    ]


async def test_zip_is_empty_when_no_image_is_finished(http: HttpHarness) -> None:
    request_id = await http.upload()
    response = await http.get(f"/downloadImages/{request_id}")
    with zipfile.ZipFile(io.BytesIO(response.body)) as zipped:
        assert zipped.namelist() == []
    head = await http.call("HEAD", f"/downloadImages/{request_id}")
    assert (head.status, head.headers["Content-Type"]) == (200, "application/zip")


@pytest.mark.parametrize("new_content", [b"x", b"x" * 500])
async def test_zip_is_aborted_when_output_file_has_changed(
    http: HttpHarness, new_content: bytes
) -> None:
    request_id = await http.upload(ROWS)
    await http.complete(await http.claim(), b"x" * 400)
    for path in (http.service.config.storage.data_dir / "outputs").rglob("*.jpg"):
        path.write_bytes(new_content)
    api_call = f"GET /downloadImages/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        response = await http.raw(api_call.encode())
    except ConnectionResetError:
        return
    head, _, body = response.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(body) < length
