"""Tests of `POST /processImages`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from imgsvc.web.schema.option_types import MAX_IMAGE_COLUMNS
from imgsvc.web.schema.problem_responses import ProblemReport
from imgsvc.web.schema.responses import DryRunResult
from tests.harness.http import ROWS, HttpHarness, csv_body, open_http
from tests.waiting import wait_until

CSV = {"Content-Type": "text/csv"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def request_count(http: HttpHarness) -> int:
    """Return the number of stored requests."""
    return len((await http.get("/listRequests")).json()["requests"])


def form(
    *fields: tuple[str, str], file: bytes | None = None, last: bool = True
) -> aiohttp.FormData:
    """Return a form with these options, and the file after them (`last`) or before them."""
    data = aiohttp.FormData()
    if file is not None and not last:
        data.add_field("any name", file, filename="p.csv", content_type="text/csv")
    for name, value in fields:
        data.add_field(name, value)
    if file is not None and last:
        data.add_field("any name", file, filename="p.csv", content_type="text/csv")
    return data


async def test_upload_returns_201_with_request(http: HttpHarness) -> None:
    response = await http.post("/processImages", csv_body(), CSV)
    assert response.status == 201
    body = response.json()
    path = f"/checkStatus/{body['requestId']}"
    assert response.headers["Location"] == path
    assert body.keys() == {
        "requestId",
        "status",
        "products",
        "images",
        "statusUrl",
        "createdAt",
        "name",
        "layout",
        "encoding",
        "skipped",
        "errors",
        "errorCount",
    }
    assert (body["status"], body["products"], body["images"]) == ("pending", 1, 2)
    assert body["statusUrl"] == http.url + path
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["createdAt"])
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f-]{17}", body["requestId"])


@pytest.mark.parametrize(
    "content_type",
    [
        "text/csv; charset=utf-8",
        "application/csv",
        "application/vnd.ms-excel",
        "text/plain",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "",
    ],
)
async def test_raw_content_types_are_accepted(http: HttpHarness, content_type: str) -> None:
    response = await http.post("/processImages", csv_body(), {"Content-Type": content_type})
    assert response.status == 201


@pytest.mark.parametrize("content_type", ["text/csv", "application/x-www-form-urlencoded"])
async def test_csv_without_line_breaks_gets_curl_hint(http: HttpHarness, content_type: str) -> None:
    joined = csv_body().replace(b"\r", b"").replace(b"\n", b"")
    for body, hint in ((joined, content_type != "text/csv"), (b"Name\nPoster\n", False)):
        problem = (
            await http.post("/processImages", body, {"Content-Type": content_type})
        ).problem()
        assert problem["type"] == "urn:imgsvc:problem:invalid-csv"
        assert ("--data-binary" in problem["detail"]) is hint


async def test_missing_content_type_is_accepted(http: HttpHarness) -> None:
    body = csv_body()
    head = f"POST /processImages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    response = await http.raw(head.encode() + b"Connection: close\r\n\r\n" + body)
    assert response.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "image/png", "multipart/mixed; boundary=b", "csv", "text/csv, a/b"],
)
async def test_other_content_types_return_415(http: HttpHarness, content_type: str) -> None:
    response = await http.post("/processImages", csv_body(), {"Content-Type": content_type})
    assert response.status == 415
    assert "text/csv" in response.headers["Accept-Post"]
    assert response.problem()["type"] == "urn:imgsvc:problem:unsupported-media-type"


async def test_content_encoding_returns_415(http: HttpHarness) -> None:
    response = await http.post("/processImages", b"\x1f\x8b", {**CSV, "Content-Encoding": "gzip"})
    assert response.status == 415
    assert "Content-Encoding" in response.problem()["detail"]
    plain = await http.post("/processImages", csv_body(), {**CSV, "Content-Encoding": "identity"})
    assert plain.status == 201


@pytest.mark.parametrize(
    ("headers", "expected_detail"),
    [
        (b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n", b"Content-Encoding"),
        (b"Content-Type: text/\xff\r\n", b"text/?"),
    ],
)
async def test_unusual_header_bytes_return_problem_report(
    http: HttpHarness, headers: bytes, expected_detail: bytes
) -> None:
    head = b"POST /processImages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n" + headers
    response = await http.raw(head + b"Connection: close\r\n\r\nx")
    assert response.startswith(b"HTTP/1.1 415 ")
    assert expected_detail in json.loads(response.partition(b"\r\n\r\n")[2])["detail"].encode()


@pytest.mark.parametrize("last", [True, False])
async def test_form_options_may_precede_or_follow_file(http: HttpHarness, last: bool) -> None:
    data = form(("quality", "30"), ("format", "webp"), file=csv_body(), last=last)
    response = await http.post("/processImages", data)
    assert response.status == 201
    request = await http.service.queries.request(response.json()["requestId"])
    assert str(request.options.settings) == "30 webp"


async def test_form_may_name_as_many_columns_as_a_query(http: HttpHarness) -> None:
    data = form(*[("imageColumn", "Input Image Urls")] * MAX_IMAGE_COLUMNS, file=csv_body())
    assert (await http.post("/processImages", data)).status == 201
    data = form(*[("imageColumn", "Input Image Urls")] * 200, file=csv_body())
    refused = (await http.post("/processImages", data)).problem()
    assert "has more than 132 options" in refused["detail"]


async def test_dry_run_returns_counts_and_stores_nothing(http: HttpHarness) -> None:
    response = await http.post("/processImages?dryRun=true", csv_body(), CSV)
    assert (response.status, response.json()) == (
        200,
        {
            "products": 1,
            "images": 2,
            "name": None,
            "layout": "standard",
            "encoding": "utf-8",
            "skipped": 0,
            "errors": [],
            "errorCount": 0,
            "columns": [
                {"name": "S. No.", "role": "serial"},
                {"name": "Product Name", "role": "name"},
                {"name": "Input Image Urls", "role": "image"},
                {"name": "Colour", "role": "extra"},
            ],
            "delimiter": ",",
            "preview": [
                {
                    "row": 2,
                    "serialNumber": "1",
                    "productName": "Lamp, desk",
                    "inputUrls": ["http://a.example/w_1,h_1/1.jpg", "http://b.example/2.jpg"],
                }
            ],
        },
    )
    DryRunResult.model_validate_json(response.body, strict=True)
    in_form = await http.post(
        "/processImages", form(("dryRun", "true"), file=csv_body(), last=False)
    )
    assert (in_form.status, in_form.json()) == (200, response.json() | {"name": "p.csv"})
    invalid = await http.post("/processImages?dryRun=true", csv_body([(1, "", "x", "")]), CSV)
    assert invalid.status == 400
    assert await request_count(http) == 0


async def test_form_requires_exactly_one_file(http: HttpHarness) -> None:
    without_file = await http.post("/processImages", form(("quality", "30"), file=None))
    assert without_file.status in {400, 415}
    two = form(file=csv_body())
    two.add_field("another", csv_body(), filename="q.csv")
    response = await http.post("/processImages", two)
    assert response.status == 400
    assert "more than one part" in response.problem()["detail"]
    assert await request_count(http) == 0


async def test_form_without_file_returns_problem_with_hint(http: HttpHarness) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="quality"\r\n\r\n30\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = await http.post("/processImages", body, headers)
    assert response.status == 400
    assert "file name" in response.problem()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--",
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nno end',
        b"--b\r\nContent-Type: text/csv\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"x" * 10_000,
        b"x" * 300_000 + b"\r\n--b--",
    ],
)
async def test_malformed_form_returns_400(http: HttpHarness, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = await http.post("/processImages", body, headers)
    assert response.status == 400
    assert response.problem()["type"] == "urn:imgsvc:problem:invalid-body"
    assert await request_count(http) == 0


async def test_form_without_boundary_returns_400(http: HttpHarness) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    assert (await http.post("/processImages", b"--b--", headers)).status == 400


async def test_form_option_that_is_too_long_returns_400(http: HttpHarness) -> None:
    data = form(("webhookUrl", "https://x.example/" + "a" * 20_000), file=csv_body(), last=False)
    assert (await http.post("/processImages", data)).status == 400


@pytest.mark.parametrize(
    ("query", "code", "option"),
    [
        ("quality=0", "invalid_option", "quality"),
        ("quality=101%25", "invalid_option", "quality"),
        ("quality=", "invalid_option", "quality"),
        ("format=bmp", "invalid_option", "format"),
        ("maxWidth=-1", "invalid_option", "maxWidth"),
        ("maxWidth=65536", "invalid_option", "maxWidth"),
        ("maxHeight=1.5", "invalid_option", "maxHeight"),
        ("effort=best", "invalid_option", "effort"),
        ("dryRun=yes", "invalid_option", "dryRun"),
        ("dryrun=true", "unknown_option", "dryrun"),
        ("dry_run=true", "unknown_option", "dry_run"),
        ("webhookUrl=ftp://x.example/", "invalid_option", "webhookUrl"),
        ("webhookUrl=http://", "invalid_option", "webhookUrl"),
        ("webhookUrl=", "invalid_option", "webhookUrl"),
        ("quality=30&quality=30", "repeated_option", "quality"),
    ],
)
async def test_invalid_option_returns_400_and_is_named(
    http: HttpHarness, query: str, code: str, option: str
) -> None:
    response = await http.post(f"/processImages?{query}", csv_body(), CSV)
    assert response.status == 400
    problem = response.problem()
    assert problem["type"] == "urn:imgsvc:problem:invalid-option"
    assert {(error["code"], error["option"]) for error in problem["errors"]} == {(code, option)}
    assert problem["errorCount"] == len(problem["errors"])
    assert option in problem["detail"]
    assert await request_count(http) == 0


async def test_invalid_options_are_counted_and_the_first_100_listed(
    http: HttpHarness,
) -> None:
    query = "&".join(f"x{number}=1" for number in range(130))
    problem = (await http.post(f"/processImages?{query}", csv_body(), CSV)).problem()
    assert (len(problem["errors"]), problem["errorCount"]) == (100, 130)


async def test_option_in_query_and_form_is_repeated_option(http: HttpHarness) -> None:
    response = await http.post(
        "/processImages?quality=30", form(("quality", "30"), file=csv_body())
    )
    assert response.status == 400
    assert response.problem()["errors"][0]["code"] == "repeated_option"


async def test_empty_form_fields_are_ignored(http: HttpHarness) -> None:
    data = form(("webhookUrl", ""), ("quality", ""), ("_charset_", "utf-8"), file=csv_body())
    assert (await http.post("/processImages", data)).status == 201


async def test_webhook_url_is_stored_without_reencoding(http: HttpHarness) -> None:
    query = "?webhookUrl=https://x.example/h%2520k%3Fa%3D%252F"
    request_id = await http.upload(query=query)
    request = await http.service.queries.request(request_id)
    assert request.options.webhook_url == "https://x.example/h%20k?a=%2F"


async def test_invalid_csv_returns_all_errors(http: HttpHarness) -> None:
    response = await http.post(
        "/processImages", csv_body([(1, "", "ftp://x.example/1.jpg", ""), *ROWS]), CSV
    )
    assert response.status == 400
    problem = response.problem()
    assert problem["type"] == "urn:imgsvc:problem:invalid-csv"
    assert problem["errorCount"] == 2
    assert [set(each) for each in problem["errors"]] == 2 * [
        {"row", "column", "code", "message", "value", "cells"}
    ]
    assert problem["columns"] == ["S. No.", "Product Name", "Input Image Urls", "Colour"]
    assert [each["cells"] for each in problem["errors"]] == 2 * [
        ["1", "", "ftp://x.example/1.jpg", ""]
    ]
    ProblemReport.model_validate_json(response.body, strict=True)
    assert {(e["row"], e["column"], e["code"]) for e in problem["errors"]} == {
        (2, "Product Name", "empty_value"),
        (2, "Input Image Urls", "unsupported_scheme"),
    }
    assert await request_count(http) == 0


async def test_problem_of_an_unknown_header_has_its_names_and_suggests_columns(
    http: HttpHarness,
) -> None:
    url = "https://x.example/1.jpg"
    body = f"Titel,,Bild,Ort\r\n1,,{url},2\r\n".encode()
    response = await http.post("/processImages", body, CSV)
    problem = response.problem()
    assert problem["columns"] == ["Titel", "Bild", "Ort"]
    assert [each["cells"] for each in problem["errors"]] == [None, None]
    assert [each.get("suggestions") for each in problem["errors"]] == [
        None,
        [{"option": "imageColumn", "value": "Bild", "example": url}],
    ]
    ProblemReport.model_validate_json(response.body, strict=True)


async def test_problem_of_an_unknown_encoding_suggests_likely_ones(http: HttpHarness) -> None:
    body = csv_body([(1, "Кружка с ручкой", "https://x.example/1.jpg", "")]).decode()
    problem = (await http.post("/processImages", body.encode("cp1251"), CSV)).problem()
    (error,) = problem["errors"]
    assert error["code"] == "bad_encoding"
    assert error["suggestions"][0] == {
        "option": "encoding",
        "value": "cp1251",
        "example": "Кружка с ручкой",
    }


async def test_problem_without_header_has_no_columns(http: HttpHarness) -> None:
    problem = (await http.post("/processImages", b"\r\n", CSV)).problem()
    assert "columns" not in problem


async def test_idempotency_key_is_bound_only_by_201(http: HttpHarness) -> None:
    key = {**CSV, "Idempotency-Key": "upload 1"}
    assert (await http.post("/processImages", b"nonsense", key)).status == 400
    first = await http.post("/processImages", csv_body(), key)
    again = await http.post("/processImages", csv_body(), key)
    assert (first.status, again.status) == (201, 201)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert first.body == again.body
    other = await http.post("/processImages?quality=30", csv_body(), key)
    assert other.status == 422
    assert other.problem()["type"] == "urn:imgsvc:problem:idempotency-key-reused"
    multipart = form(file=csv_body())
    in_a_form = await http.post("/processImages", multipart, {"Idempotency-Key": "upload 1"})
    assert (in_a_form.status, in_a_form.body) == (201, first.body)
    explicit = await http.post("/processImages?quality=50%25&format=keep", csv_body(), key)
    assert (explicit.status, explicit.body) == (201, first.body)
    assert await request_count(http) == 1


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"maxWidth": 900, "maxHeight": 0, "effort": "small"}),
        ("?maxWidth=0&effort=fast", {"maxWidth": 0, "maxHeight": 0, "effort": "fast"}),
        ("?maxHeight=65535", {"maxWidth": 900, "maxHeight": 65_535, "effort": "small"}),
    ],
)
async def test_options_replace_configured_settings_in_status(
    tmp_path: Path, query: str, expected: dict[str, object]
) -> None:
    configured = {"quality": "60%", "format": "webp", "max_width": 900, "effort": "small"}
    async with open_http(tmp_path, compress=configured) as http:
        request_id = await http.upload(query=query)
        status = (await http.get(f"/checkStatus/{request_id}?format=json")).json()
    assert status["settings"] == {"quality": "60%", "format": "webp", **expected}


async def test_idempotency_key_replays_after_settings_changed(tmp_path: Path) -> None:
    key = {**CSV, "Idempotency-Key": "upload 1"}
    async with open_http(tmp_path) as http:
        first = await http.post("/processImages", csv_body(), key)
    settings = {"quality": 80, "progressive": True}
    async with open_http(tmp_path, compress=settings) as http:
        again = await http.post("/processImages", csv_body(), key)
        assert (again.status, again.headers.get("Idempotent-Replayed")) == (201, "true")
        assert again.json()["requestId"] == first.json()["requestId"]
        other = await http.post("/processImages?quality=80", csv_body(), key)
        assert other.status == 422


@pytest.mark.parametrize("key", ["", "é", "x" * 256])
async def test_invalid_idempotency_key_returns_400(http: HttpHarness, key: str) -> None:
    response = await http.post("/processImages", csv_body(), {**CSV, "Idempotency-Key": key})
    assert response.status == 400
    assert "Idempotency-Key" in response.problem()["detail"]


async def test_idempotency_key_of_255_characters_is_accepted(http: HttpHarness) -> None:
    headers = {**CSV, "Idempotency-Key": "~" * 255}
    assert (await http.post("/processImages", csv_body(), headers)).status == 201


async def test_idempotency_key_of_upload_in_progress_returns_409(http: HttpHarness) -> None:
    resume = asyncio.Event()
    sent = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield csv_body()[:10]
        sent.set()
        await resume.wait()
        yield csv_body()[10:]

    headers = {**CSV, "Idempotency-Key": "k"}
    first = asyncio.create_task(http.post("/processImages", slow_body(), headers))
    await sent.wait()
    await wait_until(lambda: http.service.intake._keys_in_progress)
    second = await http.post("/processImages", csv_body(), headers)
    assert second.status == 409
    assert second.problem()["type"] == "urn:imgsvc:problem:idempotency-key-busy"
    resume.set()
    assert (await first).status == 201


async def test_declared_length_over_limit_returns_413_before_body_is_read(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_upload_bytes": 1_000}) as http:
        head = (
            b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        writer.write(head)
        response = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert response.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in response
        body = csv_body(ROWS * 50)
        assert (await http.post("/processImages", body, CSV)).status == 413
        assert await request_count(http) == 0


async def test_body_without_declared_length_over_limit_returns_413(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_upload_bytes": 1_000}) as http:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield csv_body()

        response = await http.post("/processImages", chunks(), CSV)
        assert response.status == 413
        assert response.problem()["type"] == "urn:imgsvc:problem:too-large"
        multipart = await http.post("/processImages", form(file=csv_body(ROWS * 50)))
        assert multipart.status == 413
        exact = csv_body().ljust(1_000, b"\n")
        assert (await http.post("/processImages", exact, CSV)).status == 201
        assert (await http.post("/processImages", form(file=exact))).status == 201


async def test_client_that_continues_to_send_receives_413(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_upload_bytes": 1_000}) as http:
        head = (
            b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            b"Content-Length: 20000000\r\n\r\n"
        )
        # Like many clients, send the whole body before reading the response.
        response = await http.raw(head, b"x" * 20_000_000)
        assert response.startswith(b"HTTP/1.1 413 ")


async def test_100_continue_is_sent_when_body_is_read(http: HttpHarness) -> None:
    body = csv_body()
    head = (
        f"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write(head.encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
    writer.close()


async def test_idle_upload_returns_408(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"upload_idle_seconds": 0.2}) as http:
        head = (
            b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            b"Content-Length: 1000\r\n\r\nS. No.,"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        writer.write(head)
        response = await reader.readuntil(b"}")
        writer.close()
        assert response.startswith(b"HTTP/1.1 408 ")
        assert b"upload_idle_seconds" in response


async def test_malformed_chunked_body_returns_400(http: HttpHarness) -> None:
    response = await http.raw(
        b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nnonsense\r\n"
    )
    assert response.split(b" ", 2)[1] == b"400"
    assert b"application/problem+json" in response
    assert await request_count(http) == 0


async def test_too_many_images_return_413_or_429(tmp_path: Path) -> None:
    server = {"max_images_per_request": 3, "max_waiting_images": 4}
    async with open_http(tmp_path, server=server) as http:
        response = await http.post("/processImages", csv_body(ROWS * 2), CSV)
        assert response.status == 413
        assert response.problem()["type"] == "urn:imgsvc:problem:too-many-images"
        await http.upload()
        await http.upload()
        queue_full = await http.post("/processImages", csv_body(), CSV)
        assert queue_full.status == 429
        assert int(queue_full.headers["Retry-After"]) >= 1


async def test_upload_in_progress_returns_503_when_service_stops(http: HttpHarness) -> None:
    started = asyncio.Event()
    never = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield csv_body()[:10]
        started.set()
        await never.wait()

    upload = asyncio.create_task(http.post("/processImages", slow_body(), CSV))
    await started.wait()
    await wait_until(lambda: http.service.intake._tasks)
    http.service.intake.stop()
    response = await upload
    assert response.status == 503
    assert "Retry-After" in response.headers
    assert response.problem()["type"] == "urn:imgsvc:problem:unavailable"


async def test_full_disk_returns_503(tmp_path: Path) -> None:
    async with open_http(tmp_path, storage={"min_free_bytes": 2**62}) as http:
        response = await http.post("/processImages", csv_body(), CSV)
        assert response.status == 503
        assert "Retry-After" in response.headers
        assert response.problem()["type"] == "urn:imgsvc:problem:storage-full"
