"""Tests of `GET /checkStatus/{requestId}`."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import stat
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from imgsvc.models import ProductRow
from imgsvc.table.cells import split_urls
from imgsvc.web.handlers import status as status_handler
from tests.harness.http import ROWS, HttpHarness, HttpResponse, csv_body, open_http
from tests.waiting import wait_until

JSON = {"Accept": "application/json"}
TWO_ROWS = (
    *ROWS,
    (2, ' "Shelf"\n', ["http://a.example/3.jpg", "http://a.example/4.jpg"], "=1+1"),
)


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


def csv_rows(response: HttpResponse) -> list[list[str]]:
    """Return the rows of a CSV response, including the header."""
    return list(csv.reader(io.StringIO(response.body.decode(), newline="")))


async def half_done(http: HttpHarness) -> str:
    """Create a request with two completed, one failed and one claimed image. Return its ID."""
    request_id = await http.upload(TWO_ROWS)
    claims = {claim.url: claim for claim in await http.claim()}
    await http.complete(
        [claims["http://a.example/w_1,h_1/1.jpg"], claims["http://a.example/3.jpg"]]
    )
    await http.fail([claims["http://b.example/2.jpg"]])
    return request_id


async def test_csv_has_all_columns_and_headers(http: HttpHarness) -> None:
    request_id = await half_done(http)
    response = await http.get(f"/checkStatus/{request_id}")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert response.headers["Content-Disposition"].startswith("attachment; ")
    assert response.headers["X-Request-Status"] == "processing"
    assert response.headers["X-Progress"] == "3/4"
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Vary"] == "Accept"
    assert response.body.count(b"\r\n") == 3
    header, first, second = csv_rows(response)
    assert header == [
        "S. No.",
        "Product Name",
        "Input Image Urls",
        "Output Image Urls",
        "Request Id",
        "Status",
        "Error",
        "Colour",
    ]
    assert first[:2] == ["1", "Lamp, desk"]
    assert split_urls(first[2]) == ["http://a.example/w_1,h_1/1.jpg", "http://b.example/2.jpg"]
    output, missing = first[3].split(",")
    assert output.startswith(f"{http.url}/images/")
    assert output.endswith("/lamp-desk-1.jpg")
    assert missing == ""
    assert first[4:] == [request_id, "partial", "2: http_status: 404 Not Found", "red"]
    assert second[3].endswith(",")
    assert second[5:] == ["processing", "", "=1+1"]


async def test_json_has_all_fields(http: HttpHarness) -> None:
    request_id = await half_done(http)
    response = await http.get(f"/checkStatus/{request_id}", JSON)
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    status = response.json()
    assert status["status"] == "processing"
    assert status["progress"] | {"etaSeconds": 0} == {
        "total": 4,
        "pending": 0,
        "processing": 1,
        "completed": 2,
        "failed": 1,
        "cancelled": 0,
        "percent": 75,
        "etaSeconds": 0,
        "reused": {"downloaded": 2, "notModified": 0, "sameBytes": 0, "sameUrl": 0},
    }
    assert response.headers["X-Reused"] == "downloaded=2, notModified=0, sameBytes=0, sameUrl=0"
    assert status["bytes"] == {"input": 2_000, "output": 800, "savedPercent": 60.0}
    assert status["failures"] == [{"host": "b.example", "code": "http_status", "count": 1}]
    assert status["webhook"] is None
    assert "expiresAt" not in status
    assert status["productsTotal"] == 2
    first = status["products"][0]["images"]
    assert first[0]["outputUrl"].startswith(f"{http.url}/images/")
    assert first[0] | {"outputUrl": ""} == {
        "inputUrl": "http://a.example/w_1,h_1/1.jpg",
        "outputUrl": "",
        "status": "completed",
        "error": None,
        "attempts": 1,
        "inputBytes": 1_000,
        "outputBytes": 400,
        "width": 30,
        "height": 20,
        "inputFormat": "jpeg",
        "outputFormat": "jpeg",
        "sourceQuality": 90,
        "quality": 45,
        "kept": False,
        "notes": [],
        "reused": None,
    }
    assert first[1]["error"] == {"code": "http_status", "message": "404 Not Found"}
    assert first[1]["outputUrl"] is None


async def test_json_pages_products(http: HttpHarness) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{n}.jpg", "") for n in range(450)]
    request_id = await http.upload(rows)
    path = f"/checkStatus/{request_id}?format=json"

    async def names(query: str) -> list[str]:
        status = (await http.get(path + query)).json()
        assert status["productsTotal"] == 450
        return [product["productName"] for product in status["products"]]

    assert await names("") == [f"P{n}" for n in range(100)]
    assert await names("&offset=440") == [f"P{n}" for n in range(440, 450)]
    assert await names("&offset=5&limit=300") == [f"P{n}" for n in range(5, 305)]
    assert await names("&limit=1000") == [f"P{n}" for n in range(450)]
    assert await names("&offset=450") == []
    without = (await http.get(f"{path}&products=false")).json()
    assert "products" not in without
    assert "productsTotal" not in without


async def test_csv_keeps_unnamed_columns_that_are_not_empty(http: HttpHarness) -> None:
    first, second, third = (f"http://a.example/{n}.jpg" for n in range(3))
    uploaded = (
        f",Product Name,,Input Image Urls,Colour,,,\n,Lamp,,{first},red\n"
        f",Shelf,,{second},,,note\n7,Desk, ,{third},,,, \n"
    )

    async def upload_and_fail(body: bytes) -> str:
        """Upload a CSV, fail all its images, and return the path of its status."""
        response = await http.post("/processImages", body, {"Content-Type": "text/csv"})
        assert response.status == 201, response.body
        await http.fail(await http.claim())
        return f"/checkStatus/{response.json()['requestId']}"

    path = await upload_and_fail(uploaded.encode())
    status = await http.get(path)
    header, *rows = csv_rows(status)
    assert header[6:] == ["Error", "", "Colour", ""]
    assert [row[7:] for row in rows] == [["", "red", ""], ["", "", "note"], ["7", "", ""]]

    failed = await http.get(f"{path}?only=failed")
    assert csv_rows(failed) == [
        ["", "Product Name", "", "Input Image Urls", "Colour", "", "", ""],
        ["", "Lamp", "", first, "red", "", "", ""],
        ["", "Shelf", "", second, "", "", "note", ""],
        ["7", "Desk", " ", third, "", "", "", " "],
    ]
    again = await http.get(f"{await upload_and_fail(failed.body)}?only=failed")
    assert again.body == failed.body

    path = await upload_and_fail(status.body)
    assert [row[7:] for row in csv_rows(await http.get(path))] == [
        row[7:] for row in [header, *rows]
    ]


async def test_unnamed_column_is_not_parsed_as_overflow_urls(http: HttpHarness) -> None:
    """In the status CSV, imgsvc's own columns are between the URLs and the unnamed column."""
    url = "http://a.example/1.jpg"
    body = f"Product Name,Input Image Urls,Status,\nLamp,{url},failed,note\n".encode()
    bodies = []
    for _ in range(2):
        response = await http.post("/processImages", body, {"Content-Type": "text/csv"})
        await http.fail(await http.claim())
        path = f"/checkStatus/{response.json()['requestId']}?only=failed"
        body = (await http.get(path)).body
        bodies.append(body)
    row = f"Product Name,Input Image Urls,Status,\r\nLamp,{url},failed,note\r\n"
    assert bodies == [row.encode()] * 2


async def test_only_failed_returns_rows_that_can_be_uploaded_again(http: HttpHarness) -> None:
    request_id = await half_done(http)
    response = await http.get(f"/checkStatus/{request_id}?only=failed")
    assert csv_rows(response) == [
        ["S. No.", "Product Name", "Input Image Urls", "Colour"],
        ["1", "Lamp, desk", "http://b.example/2.jpg", "red"],
    ]
    again = await http.post("/processImages", response.body, {"Content-Type": "text/csv"})
    assert again.status == 201
    as_json = (await http.get(f"/checkStatus/{request_id}?only=failed&format=json")).json()
    assert as_json["productsTotal"] == 1
    assert [i["inputUrl"] for p in as_json["products"] for i in p["images"]] == [
        "http://b.example/2.jpg"
    ]


async def test_only_failed_json_pages_products(http: HttpHarness) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{n}.jpg", "") for n in range(250)]
    request_id = await http.upload(rows)
    claims = await http.claim()
    await http.fail([claim for claim in claims if int(claim.url[17:-4]) % 2])
    path = f"/checkStatus/{request_id}?only=failed&format=json&offset=100&limit=10"
    status = (await http.get(path)).json()
    assert status["productsTotal"] == 125
    assert [p["productName"] for p in status["products"]] == [f"P{n}" for n in range(201, 221, 2)]


async def test_only_failed_json_page_spans_database_pages(http: HttpHarness) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{n}.jpg", "") for n in range(1_200)]
    request_id = await http.upload(rows)
    await http.fail(await http.claim(1_200))
    path = f"/checkStatus/{request_id}?only=failed&format=json&offset=100&limit=700"
    status = (await http.get(path)).json()
    assert status["productsTotal"] == 1_200
    assert [p["productName"] for p in status["products"]] == [f"P{n}" for n in range(100, 800)]


async def test_bom_option_adds_byte_order_mark(http: HttpHarness) -> None:
    request_id = await http.upload()
    response = await http.get(f"/checkStatus/{request_id}?bom=true")
    assert response.body.startswith(b"\xef\xbb\xbfS. No.,")
    assert not (await http.get(f"/checkStatus/{request_id}")).body.startswith(b"\xef")


async def test_status_returns_304_until_request_changes(http: HttpHarness) -> None:
    request_id = await http.upload()
    paths = [
        f"/checkStatus/{request_id}{query}"
        for query in (
            "",
            "?only=failed",
            "?bom=true",
            "?format=json",
            "?format=json&products=false",
            "?format=json&offset=1",
            "?format=json&limit=1",
            "?format=json&only=failed",
        )
    ]
    etags = [(await http.get(path)).headers["ETag"] for path in paths]
    assert len(set(etags)) == len(paths)
    for path, etag in zip(paths, etags, strict=True):
        for header in (etag, f'"x", {etag}', etag.removeprefix("W/"), "*"):
            response = await http.get(path, {"If-None-Match": header})
            assert (response.status, response.body) == (304, b"")
            assert response.headers["ETag"] == etag
            assert response.headers["X-Progress"] == "0/2"
            assert "Retry-After" in response.headers
        assert (await http.get(path, {"If-None-Match": '"x"'})).status == 200
    await http.complete((await http.claim())[:1])
    for path, etag in zip(paths, etags, strict=True):
        assert (await http.get(path, {"If-None-Match": etag})).status == 200


async def test_format_option_overrides_accept(http: HttpHarness) -> None:
    path = f"/checkStatus/{await http.upload()}"
    content_types = {
        (): "text/csv",
        (("Accept", "application/json"),): "application/json",
        (("Accept", "image/png"),): "text/csv",
    }
    for headers, content_type in content_types.items():
        assert (
            (await http.get(path, dict(headers))).headers["Content-Type"].startswith(content_type)
        )
    response = await http.get(f"{path}?format=csv", JSON)
    assert response.headers["Content-Type"].startswith("text/csv")


async def test_head_returns_same_headers_without_body(http: HttpHarness) -> None:
    request_id = await http.upload()
    for query in ("", "?format=json", "?format=json&products=false"):
        path = f"/checkStatus/{request_id}{query}"
        head, get = await http.call("HEAD", path), await http.get(path)
        assert (head.status, head.body) == (200, b"")
        for name in ("ETag", "Content-Type", "X-Progress", "X-Request-Status", "Vary"):
            assert head.headers[name] == get.headers[name]


async def test_unknown_request_id_returns_404(http: HttpHarness) -> None:
    for request_id in ("0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1", "x", "%00", "%27", "%E2%82%AC"):
        for query in ("", "?format=json", "?wait=5"):
            response = await http.get(f"/checkStatus/{request_id}{query}")
            assert response.status == 404
            response.problem()


@pytest.mark.parametrize(
    "query",
    [
        "format=xml",
        "format=",
        "only=completed",
        "wait=-1",
        "wait=61",
        "wait=nan",
        "wait=1e2",
        "wait=1e999",
        "wait=-1e-300",
        "wait=",
        "bom=1",
        "products=no",
        "offset=-1",
        "offset=1.5",
        "limit=0",
        "limit=1001",
        "limit=99999999999999999999",
        "foramt=json",
        "format=csv&format=json",
    ],
)
async def test_invalid_option_returns_400_and_is_named(http: HttpHarness, query: str) -> None:
    request_id = await http.upload()
    response = await http.get(f"/checkStatus/{request_id}?{query}")
    assert response.status == 400
    assert query.partition("=")[0] in response.problem()["detail"]


async def test_wait_returns_at_once_when_etag_is_outdated(http: HttpHarness) -> None:
    request_id = await http.upload()
    path = f"/checkStatus/{request_id}?format=json&products=false"
    old_etag = (await http.get(path)).headers["ETag"]
    await http.complete((await http.claim())[:1])
    response = await http.get(f"{path}&wait=60", {"If-None-Match": old_etag})
    assert response.status == 200
    assert response.json()["progress"]["completed"] == 1


async def test_wait_returns_when_request_changes(http: HttpHarness) -> None:
    request_id = await http.upload()
    path = f"/checkStatus/{request_id}?format=json&products=false"
    etag = (await http.get(path)).headers["ETag"]
    claims = await http.claim()
    etag = (await http.get(path)).headers["ETag"]
    long_poll = asyncio.create_task(http.get(f"{path}&wait=60", {"If-None-Match": etag}))
    await wait_until(lambda: http.service.events.watchers)
    await http.complete(claims[:1])
    response = await long_poll
    assert response.status == 200
    assert response.json()["progress"]["completed"] == 1


async def test_wait_without_etag_returns_when_request_finishes(http: HttpHarness) -> None:
    request_id = await http.upload()
    claims = await http.claim()
    long_poll = asyncio.create_task(http.get(f"/checkStatus/{request_id}?wait=60"))
    await wait_until(lambda: http.service.events.watchers)
    async with http.service.events.watch(request_id) as subscription:
        await http.complete(claims[:1])
        async for snapshot in subscription:
            if snapshot.progress.completed:
                break
    for _ in range(20):
        await http.get("/health/live")
    assert not long_poll.done()
    await http.complete(claims[1:])
    response = await long_poll
    assert response.headers["X-Request-Status"] == "completed"
    assert "Retry-After" not in response.headers


async def test_wait_returns_200_or_304_after_timeout(http: HttpHarness) -> None:
    path = f"/checkStatus/{await http.upload()}"
    response = await http.get(f"{path}?wait=0.1")
    assert response.status == 200
    response = await http.get(f"{path}?wait=0.1", {"If-None-Match": response.headers["ETag"]})
    assert response.status == 304


async def test_wait_returns_at_once_when_request_has_finished(http: HttpHarness) -> None:
    path = f"/checkStatus/{await http.upload()}?format=json&products=false&wait=60"
    await http.complete(await http.claim())
    response = await http.get(path)
    assert response.json()["finishedAt"] is not None
    assert response.json()["progress"]["etaSeconds"] == 0
    assert (await http.get(path, {"If-None-Match": response.headers["ETag"]})).status == 304


def large_unnamed_files() -> list[int]:
    """Return the sizes of this process's open files that have no name and are no small buffers."""
    sizes = []
    for path in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the folder itself is closed
            info = os.fstat(int(path.name))
            if stat.S_ISREG(info.st_mode) and not info.st_nlink and info.st_size > 2**20:
                sizes.append(info.st_size)
    return sizes


async def test_slow_client_keeps_no_snapshot_open(http: HttpHarness) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{'x' * 8_000}{n}.jpg", "") for n in range(3_000)]
    request_id = await http.upload(rows)
    async with http.open("GET", f"/checkStatus/{request_id}") as response:
        await wait_until(large_unnamed_files)  # the client takes no more
        # Four snapshots, the maximum, can be opened: the client above keeps none open.
        responses = await asyncio.gather(
            *(http.get(f"/checkStatus/{request_id}?format=json&limit=1") for _ in range(4))
        )
        assert {response.status for response in responses} == {200}
        body = await response.read()
    assert body.count(b"\r\n") == 3_001
    await wait_until(lambda: not large_unnamed_files())


class GatedSlices:
    """The slices of rows to render, of which `count` rows are rendered. `gate` waits before `limit`."""

    def __init__(self, limit: int, error: Exception | None = None) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self._limit = limit
        self._error = error
        self._original = status_handler._slices

    async def __call__(
        self, pages: AsyncIterator[Sequence[ProductRow]]
    ) -> AsyncIterator[Sequence[ProductRow]]:
        async for products in self._original(pages):
            if self.count + len(products) > self._limit:
                await self.gate.wait()
                if self._error is not None:
                    raise self._error
            self.count += len(products)
            yield products


@pytest.mark.parametrize("query", ["", "?layout=input", "?format=json&limit=1000"])
async def test_status_starts_before_one_percent_of_rows_is_rendered(
    http: HttpHarness, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{n}.jpg", "") for n in range(20_000)]
    path = f"/checkStatus/{await http.upload(rows)}{query}"
    slices = GatedSlices(limit=200)
    monkeypatch.setattr(status_handler, "_slices", slices)
    async with http.open("GET", path) as response:
        assert await response.content.readany()
        assert 0 < slices.count <= 200
        slices.gate.set()
        await response.read()
    assert slices.count == (1_000 if "json" in query else 20_000)


async def test_error_while_rendering_aborts_the_connection(
    http: HttpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{n}.jpg", "") for n in range(2_000)]
    path = f"/checkStatus/{await http.upload(rows)}"
    slices = GatedSlices(limit=500, error=OSError("the disk fails"))
    monkeypatch.setattr(status_handler, "_slices", slices)
    async with http.open("GET", path) as response:
        assert await response.content.readany()
        slices.gate.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_urls_start_with_public_url(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"public_url": "https://img.example/a,b/"}) as http:
        response = await http.post("/processImages", csv_body(), {"Content-Type": "text/csv"})
        request_id = response.json()["requestId"]
        assert response.json()["statusUrl"] == (
            f"https://img.example/a%2Cb/checkStatus/{request_id}"
        )
        assert response.headers["Location"] == f"/a,b/checkStatus/{request_id}"
        await http.complete(await http.claim())
        status = await http.get(f"/checkStatus/{request_id}")
        outputs = csv_rows(status)[1][3]
        assert outputs.count(",") == 1
        assert all(
            url.startswith("https://img.example/a%2Cb/images/") for url in outputs.split(",")
        )
        file = outputs.rpartition("/images/")[2]
        assert (await http.get(f"/images/{file}")).status == 200
        assert (await http.get(f"/a,b/images/{file}")).status == 200


async def test_urls_ignore_forwarded_headers(http: HttpHarness) -> None:
    headers = {
        "Host": "localhost:99",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example;proto=https",
    }
    response = await http.post(
        "/processImages", csv_body(), {**headers, "Content-Type": "text/csv"}
    )
    assert response.json()["statusUrl"].startswith("http://localhost:99/checkStatus/")


async def test_expires_at_is_set_when_request_has_finished(tmp_path: Path) -> None:
    async with open_http(tmp_path, storage={"retention_days": 1}) as http:
        path = f"/checkStatus/{await http.upload()}?format=json&products=false"
        assert (await http.get(path)).json()["expiresAt"] is None
        await http.complete(await http.claim())
        status = (await http.get(path)).json()
        finished, expires = map(datetime.fromisoformat, (status["finishedAt"], status["expiresAt"]))
        assert expires - finished == timedelta(days=1)
