"""Stored outputs: one by its URL, all of a request as a ZIP."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.site import Site, opened

DATA = bytes(range(256)) * 4


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as site:
        yield site


async def outputs(site: Site, request_id: str) -> list[str]:
    status = (await site.get(f"/checkStatus/{request_id}?format=json")).json()
    urls = [image["outputUrl"] for product in status["products"] for image in product["images"]]
    return [url.removeprefix(site.url) for url in urls if url]


@pytest.fixture
async def output(site: Site) -> str:
    """The path of one output."""
    request_id = await site.upload()
    await site.complete((await site.claim())[:1], DATA)
    return (await outputs(site, request_id))[0]


async def test_an_output(site: Site, output: str) -> None:
    answer = await site.get(output)
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Accept-Ranges"] == "bytes"
    head = await site.call("HEAD", output)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Cache-Control"):
        assert head.headers[name] == answer.headers[name]


async def test_an_output_that_is_known_costs_a_304(site: Site, output: str) -> None:
    etag = (await site.get(output)).headers["ETag"]
    for header in (etag, f"W/{etag}", "*", f'"x", {etag}'):
        answer = await site.get(output, {"If-None-Match": header})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == etag
        assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=1000-", 1000, 1023), ("bytes=-1", 1023, 1023)],
)
async def test_a_range(site: Site, output: str, asked: str, first: int, last: int) -> None:
    answer = await site.get(output, {"Range": asked})
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1024"
    assert answer.body == DATA[first : last + 1]


async def test_a_range_that_lies_outside(site: Site, output: str) -> None:
    answer = await site.get(output, {"Range": "bytes=1024-"})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */1024"
    answer.problem()


async def test_a_range_of_another_version_gives_all(site: Site, output: str) -> None:
    etag = (await site.get(output)).headers["ETag"]
    same = await site.get(output, {"Range": "bytes=0-9", "If-Range": etag})
    other = await site.get(output, {"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status, other.status, other.body) == (206, 200, DATA)


async def test_a_large_output_is_streamed(site: Site) -> None:
    data = bytes(i * 7 % 256 for i in range(1_000_003))
    request_id = await site.upload()
    await site.complete(await site.claim(), data)
    for path in await outputs(site, request_id):
        assert (await site.get(path)).body == data
        part = await site.get(path, {"Range": "bytes=300000-900000"})
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
async def test_what_is_no_output(site: Site, file: str) -> None:
    answer = await site.get(f"/images/{file}")
    assert answer.status == 404
    answer.problem()


async def test_another_extension_is_not_found(site: Site, output: str) -> None:
    assert (await site.get(output.replace(".jpg", ".png"))).status == 404


async def test_an_output_whose_file_is_gone(site: Site, output: str) -> None:
    for path in (site.service.config.storage.data_dir / "outputs").rglob("*.jpg"):
        path.unlink()
    answer = await site.get(output)
    assert answer.status == 404
    answer.problem()


ROWS = (
    (1, "Lamp", ["http://a.example/1.jpg", "http://a.example/2.jpg"], ""),
    (2, "Lamp", "http://a.example/3.jpg", ""),
    (3, "../../etc/passwd", "http://a.example/4.jpg", ""),
    (4, "Łódź 字", "http://a.example/5.jpg", ""),
)


async def test_all_outputs_as_a_zip(site: Site) -> None:
    request_id = await site.upload(ROWS)
    claims = {claim.url[-5]: claim for claim in await site.claim()}
    for number in "1345":
        await site.complete([claims[number]], number.encode() * 300_000)
    await site.fail([claims["2"]], "404 Not Found, said the host")
    answer = await site.get(f"/downloadImages/{request_id}")
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


async def test_a_zip_of_nothing_is_empty(site: Site) -> None:
    request_id = await site.upload()
    answer = await site.get(f"/downloadImages/{request_id}")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as zipped:
        assert zipped.namelist() == []
    head = await site.call("HEAD", f"/downloadImages/{request_id}")
    assert (head.status, head.headers["Content-Type"]) == (200, "application/zip")


@pytest.mark.parametrize("now", [b"x", b"x" * 500])
async def test_a_zip_whose_outputs_change_is_cut_short(site: Site, now: bytes) -> None:
    request_id = await site.upload(ROWS)
    await site.complete(await site.claim(), b"x" * 400)
    for path in (site.service.config.storage.data_dir / "outputs").rglob("*.jpg"):
        path.write_bytes(now)
    call = f"GET /downloadImages/{request_id} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        answer = await site.raw(call.encode())
    except ConnectionResetError:
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(body) < length
