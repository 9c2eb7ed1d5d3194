"""`GET /checkStatus/{requestId}`, sentence by sentence."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from imgsvc.table.cells import split_urls
from tests.http_harness import ROWS, Answer, HttpHarness, body_of, open_http
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


def table(answer: Answer) -> list[list[str]]:
    return list(csv.reader(io.StringIO(answer.body.decode(), newline="")))


async def half_done(http: HttpHarness) -> str:
    """A request of four images: completed, failed, completed, pending."""
    request_id = await http.upload(TWO_ROWS)
    claims = {claim.url: claim for claim in await http.claim()}
    await http.complete(
        [claims["http://a.example/w_1,h_1/1.jpg"], claims["http://a.example/3.jpg"]]
    )
    await http.fail([claims["http://b.example/2.jpg"]])
    return request_id


async def test_the_csv(http: HttpHarness) -> None:
    request_id = await half_done(http)
    answer = await http.get(f"/checkStatus/{request_id}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert answer.headers["X-Request-Status"] == "processing"
    assert answer.headers["X-Progress"] == "3/4"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Vary"] == "Accept"
    assert answer.body.count(b"\r\n") == 3
    header, first, second = table(answer)
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
    output, nothing = first[3].split(",")
    assert output.startswith(f"{http.url}/images/")
    assert nothing == ""
    assert first[4:] == [request_id, "partial", "2: http_status: 404 Not Found", "red"]
    assert second[3].endswith(",")
    assert second[5:] == ["processing", "", "=1+1"]


async def test_the_json(http: HttpHarness) -> None:
    request_id = await half_done(http)
    answer = await http.get(f"/checkStatus/{request_id}", JSON)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    status = answer.json()
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
    }
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
    }
    assert first[1]["error"] == {"code": "http_status", "message": "404 Not Found"}
    assert first[1]["outputUrl"] is None


async def test_products_are_paged(http: HttpHarness) -> None:
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


async def test_columns_without_a_name_come_back_where_they_hold_anything(http: HttpHarness) -> None:
    first, second, third = (f"http://a.example/{n}.jpg" for n in range(3))
    uploaded = (
        f",Product Name,,Input Image Urls,Colour,,,\n,Lamp,,{first},red\n"
        f",Shelf,,{second},,,note\n7,Desk, ,{third},,,, \n"
    )

    async def failing(body: bytes) -> str:
        answer = await http.post("/processImages", body, {"Content-Type": "text/csv"})
        assert answer.status == 201, answer.body
        await http.fail(await http.claim())
        return f"/checkStatus/{answer.json()['requestId']}"

    path = await failing(uploaded.encode())
    status = await http.get(path)
    header, *rows = table(status)
    assert header[6:] == ["Error", "", "Colour", ""]
    assert [row[7:] for row in rows] == [["", "red", ""], ["", "", "note"], ["7", "", ""]]

    failed = await http.get(f"{path}?only=failed")
    assert table(failed) == [
        ["", "Product Name", "Input Image Urls", "Colour", ""],
        ["", "Lamp", first, "red", ""],
        ["", "Shelf", second, "", "note"],
        ["7", "Desk", third, "", ""],
    ]
    again = await http.get(f"{await failing(failed.body)}?only=failed")
    assert again.body == failed.body

    path = await failing(status.body)
    assert [row[7:] for row in table(await http.get(path))] == [row[7:] for row in [header, *rows]]


async def test_what_has_no_name_is_not_taken_for_urls_that_spilled_over(http: HttpHarness) -> None:
    """Its status has columns of ours between the two, which the input's own columns do not have."""
    url = "http://a.example/1.jpg"
    body = f"Product Name,Input Image Urls,Status,\nLamp,{url},failed,note\n".encode()
    bodies = []
    for _ in range(2):
        answer = await http.post("/processImages", body, {"Content-Type": "text/csv"})
        await http.fail(await http.claim())
        path = f"/checkStatus/{answer.json()['requestId']}?only=failed"
        body = (await http.get(path)).body
        bodies.append(body)
    assert bodies == [f"Product Name,,Input Image Urls\r\nLamp,note,{url}\r\n".encode()] * 2


async def test_only_the_failed_rows(http: HttpHarness) -> None:
    request_id = await half_done(http)
    answer = await http.get(f"/checkStatus/{request_id}?only=failed")
    assert table(answer) == [
        ["S. No.", "Product Name", "Input Image Urls", "Colour"],
        ["1", "Lamp, desk", "http://b.example/2.jpg", "red"],
    ]
    again = await http.post("/processImages", answer.body, {"Content-Type": "text/csv"})
    assert again.status == 201
    as_json = (await http.get(f"/checkStatus/{request_id}?only=failed&format=json")).json()
    assert as_json["productsTotal"] == 1
    assert [i["inputUrl"] for p in as_json["products"] for i in p["images"]] == [
        "http://b.example/2.jpg"
    ]


async def test_failed_rows_are_paged_in_json(http: HttpHarness) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{n}.jpg", "") for n in range(250)]
    request_id = await http.upload(rows)
    claims = await http.claim()
    await http.fail([claim for claim in claims if int(claim.url[17:-4]) % 2])
    path = f"/checkStatus/{request_id}?only=failed&format=json&offset=100&limit=10"
    status = (await http.get(path)).json()
    assert status["productsTotal"] == 125
    assert [p["productName"] for p in status["products"]] == [f"P{n}" for n in range(201, 221, 2)]


async def test_failed_rows_of_a_page_may_be_many(http: HttpHarness) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{n}.jpg", "") for n in range(1_200)]
    request_id = await http.upload(rows)
    await http.fail(await http.claim(1_200))
    path = f"/checkStatus/{request_id}?only=failed&format=json&offset=100&limit=700"
    status = (await http.get(path)).json()
    assert status["productsTotal"] == 1_200
    assert [p["productName"] for p in status["products"]] == [f"P{n}" for n in range(100, 800)]


async def test_a_byte_order_mark_for_excel(http: HttpHarness) -> None:
    request_id = await http.upload()
    answer = await http.get(f"/checkStatus/{request_id}?bom=true")
    assert answer.body.startswith(b"\xef\xbb\xbfS. No.,")
    assert not (await http.get(f"/checkStatus/{request_id}")).body.startswith(b"\xef")


async def test_a_poll_that_finds_no_change_costs_a_304(http: HttpHarness) -> None:
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
            answer = await http.get(path, {"If-None-Match": header})
            assert (answer.status, answer.body) == (304, b"")
            assert answer.headers["ETag"] == etag
            assert answer.headers["X-Progress"] == "0/2"
            assert "Retry-After" in answer.headers
        assert (await http.get(path, {"If-None-Match": '"x"'})).status == 200
    await http.complete((await http.claim())[:1])
    for path, etag in zip(paths, etags, strict=True):
        assert (await http.get(path, {"If-None-Match": etag})).status == 200


async def test_accept_chooses_and_format_decides(http: HttpHarness) -> None:
    path = f"/checkStatus/{await http.upload()}"
    kinds = {
        (): "text/csv",
        (("Accept", "application/json"),): "application/json",
        (("Accept", "image/png"),): "text/csv",
    }
    for headers, kind in kinds.items():
        assert (await http.get(path, dict(headers))).headers["Content-Type"].startswith(kind)
    answer = await http.get(f"{path}?format=csv", JSON)
    assert answer.headers["Content-Type"].startswith("text/csv")


async def test_head_has_the_headers_and_no_body(http: HttpHarness) -> None:
    request_id = await http.upload()
    for query in ("", "?format=json", "?format=json&products=false"):
        path = f"/checkStatus/{request_id}{query}"
        head, got = await http.call("HEAD", path), await http.get(path)
        assert (head.status, head.body) == (200, b"")
        for name in ("ETag", "Content-Type", "X-Progress", "X-Request-Status", "Vary"):
            assert head.headers[name] == got.headers[name]


async def test_an_id_that_is_not_known(http: HttpHarness) -> None:
    for request_id in ("0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1", "x", "%00", "%27", "%E2%82%AC"):
        for query in ("", "?format=json", "?wait=5"):
            answer = await http.get(f"/checkStatus/{request_id}{query}")
            assert answer.status == 404
            answer.problem()


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
async def test_an_option_that_cannot_be(http: HttpHarness, query: str) -> None:
    request_id = await http.upload()
    answer = await http.get(f"/checkStatus/{request_id}?{query}")
    assert answer.status == 400
    assert query.partition("=")[0] in answer.problem()["detail"]


async def test_wait_answers_at_once_where_something_has_changed(http: HttpHarness) -> None:
    request_id = await http.upload()
    path = f"/checkStatus/{request_id}?format=json&products=false"
    old = (await http.get(path)).headers["ETag"]
    await http.complete((await http.claim())[:1])
    answer = await http.get(f"{path}&wait=60", {"If-None-Match": old})
    assert answer.status == 200
    assert answer.json()["progress"]["completed"] == 1


async def test_wait_answers_as_soon_as_something_changes(http: HttpHarness) -> None:
    request_id = await http.upload()
    path = f"/checkStatus/{request_id}?format=json&products=false"
    etag = (await http.get(path)).headers["ETag"]
    claims = await http.claim()
    etag = (await http.get(path)).headers["ETag"]
    waiting = asyncio.create_task(http.get(f"{path}&wait=60", {"If-None-Match": etag}))
    await wait_until(lambda: http.service.events.watchers)
    await http.complete(claims[:1])
    answer = await waiting
    assert answer.status == 200
    assert answer.json()["progress"]["completed"] == 1


async def test_wait_without_an_etag_waits_for_the_end(http: HttpHarness) -> None:
    request_id = await http.upload()
    claims = await http.claim()
    waiting = asyncio.create_task(http.get(f"/checkStatus/{request_id}?wait=60"))
    await wait_until(lambda: http.service.events.watchers)
    async with http.service.events.watch(request_id) as feed:
        await http.complete(claims[:1])
        async for seen in feed:
            if seen.progress.completed:
                break
    for _ in range(20):
        await http.get("/health/live")
    assert not waiting.done()
    await http.complete(claims[1:])
    answer = await waiting
    assert answer.headers["X-Request-Status"] == "completed"
    assert "Retry-After" not in answer.headers


async def test_when_the_time_to_wait_is_up(http: HttpHarness) -> None:
    path = f"/checkStatus/{await http.upload()}"
    answer = await http.get(f"{path}?wait=0.1")
    assert answer.status == 200
    answer = await http.get(f"{path}?wait=0.1", {"If-None-Match": answer.headers["ETag"]})
    assert answer.status == 304


async def test_wait_ends_with_a_finished_request(http: HttpHarness) -> None:
    path = f"/checkStatus/{await http.upload()}?format=json&products=false&wait=60"
    await http.complete(await http.claim())
    answer = await http.get(path)
    assert answer.json()["finishedAt"] is not None
    assert answer.json()["progress"]["etaSeconds"] == 0
    assert (await http.get(path, {"If-None-Match": answer.headers["ETag"]})).status == 304


async def test_a_slow_reader_holds_no_snapshot_open(http: HttpHarness) -> None:
    rows = [(n, f"P{n}", f"http://a.example/{'x' * 2_000}{n}.jpg", "") for n in range(3_000)]
    request_id = await http.upload(rows)
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port, limit=1_000)
    call = f"GET /checkStatus/{request_id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    writer.write(call.encode())
    await reader.readuntil(b"\r\n\r\n")
    scratch = [p for p in http.service.config.storage.data_dir.rglob("scratch*") if p.is_file()]
    assert len(scratch) == 1, "a large answer is spooled"
    # All who may hold a snapshot at once can: the reader above holds none.
    answers = await asyncio.gather(
        *(http.get(f"/checkStatus/{request_id}?format=json&limit=1") for _ in range(4))
    )
    assert {answer.status for answer in answers} == {200}
    body = await reader.read()
    writer.close()
    assert body.count(b"\r\n") == 3_001
    await wait_until(lambda: not any(path.exists() for path in scratch))


async def test_output_urls_are_of_the_public_url(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"public_url": "https://img.example/a,b/"}) as http:
        answer = await http.post("/processImages", body_of(), {"Content-Type": "text/csv"})
        request_id = answer.json()["requestId"]
        assert answer.json()["statusUrl"] == (f"https://img.example/a%2Cb/checkStatus/{request_id}")
        assert answer.headers["Location"] == f"/a,b/checkStatus/{request_id}"
        await http.complete(await http.claim())
        status = await http.get(f"/checkStatus/{request_id}")
        outputs = table(status)[1][3]
        assert outputs.count(",") == 1
        assert all(
            url.startswith("https://img.example/a%2Cb/images/") for url in outputs.split(",")
        )
        file = outputs.rpartition("/")[2]
        assert (await http.get(f"/images/{file}")).status == 200
        assert (await http.get(f"/a,b/images/{file}")).status == 200


async def test_forwarded_headers_are_not_read(http: HttpHarness) -> None:
    headers = {
        "Host": "localhost:99",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "Forwarded": "host=evil.example;proto=https",
    }
    answer = await http.post("/processImages", body_of(), {**headers, "Content-Type": "text/csv"})
    assert answer.json()["statusUrl"].startswith("http://localhost:99/checkStatus/")


async def test_when_a_request_expires(tmp_path: Path) -> None:
    async with open_http(tmp_path, storage={"retention_days": 1}) as http:
        path = f"/checkStatus/{await http.upload()}?format=json&products=false"
        assert (await http.get(path)).json()["expiresAt"] is None
        await http.complete(await http.claim())
        status = (await http.get(path)).json()
        finished, expires = map(datetime.fromisoformat, (status["finishedAt"], status["expiresAt"]))
        assert expires - finished == timedelta(days=1)
