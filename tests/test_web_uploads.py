"""`POST /processImages`, sentence by sentence."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.http_harness import ROWS, HttpHarness, body_of, open_http
from tests.waiting import wait_until

CSV = {"Content-Type": "text/csv"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[HttpHarness]:
    async with open_http(tmp_path) as http:
        yield http


async def count(http: HttpHarness) -> int:
    return len((await http.get("/listRequests")).json()["requests"])


def form(
    *fields: tuple[str, str], file: bytes | None = None, last: bool = True
) -> aiohttp.FormData:
    data = aiohttp.FormData()
    if file is not None and not last:
        data.add_field("any name", file, filename="p.csv", content_type="text/csv")
    for name, value in fields:
        data.add_field(name, value)
    if file is not None and last:
        data.add_field("any name", file, filename="p.csv", content_type="text/csv")
    return data


async def test_an_upload_is_accepted(http: HttpHarness) -> None:
    answer = await http.post("/processImages", body_of(), CSV)
    assert answer.status == 201
    body = answer.json()
    path = f"/checkStatus/{body['requestId']}"
    assert answer.headers["Location"] == path
    assert body.keys() == {
        "requestId",
        "status",
        "products",
        "images",
        "statusUrl",
        "createdAt",
    }
    assert (body["status"], body["products"], body["images"]) == ("pending", 1, 2)
    assert body["statusUrl"] == http.url + path
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["createdAt"])
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f-]{17}", body["requestId"])


@pytest.mark.parametrize(
    "kind",
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
async def test_a_body_of_these_types_is_the_csv(http: HttpHarness, kind: str) -> None:
    answer = await http.post("/processImages", body_of(), {"Content-Type": kind})
    assert answer.status == 201


@pytest.mark.parametrize("kind", ["text/csv", "application/x-www-form-urlencoded"])
async def test_a_table_whose_lines_curl_has_joined_is_told_how_to_send_them(
    http: HttpHarness, kind: str
) -> None:
    joined = body_of().replace(b"\r", b"").replace(b"\n", b"")
    for body, hint in ((joined, kind != "text/csv"), (b"Name\nPoster\n", False)):
        problem = (await http.post("/processImages", body, {"Content-Type": kind})).problem()
        assert problem["type"] == "urn:imgsvc:problem:invalid-csv"
        assert ("--data-binary" in problem["detail"]) is hint


async def test_no_content_type_at_all_is_the_csv(http: HttpHarness) -> None:
    body = body_of()
    head = f"POST /processImages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    answer = await http.raw(head.encode() + b"Connection: close\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    "kind", ["application/json", "image/png", "multipart/mixed; boundary=b", "csv", "text/csv, a/b"]
)
async def test_another_content_type_is_refused(http: HttpHarness, kind: str) -> None:
    answer = await http.post("/processImages", body_of(), {"Content-Type": kind})
    assert answer.status == 415
    assert "text/csv" in answer.headers["Accept-Post"]
    assert answer.problem()["type"] == "urn:imgsvc:problem:unsupported-media-type"


async def test_a_content_encoding_is_refused(http: HttpHarness) -> None:
    answer = await http.post("/processImages", b"\x1f\x8b", {**CSV, "Content-Encoding": "gzip"})
    assert answer.status == 415
    assert "Content-Encoding" in answer.problem()["detail"]
    plain = await http.post("/processImages", body_of(), {**CSV, "Content-Encoding": "identity"})
    assert plain.status == 201


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n", b"Content-Encoding"),
        (b"Content-Type: text/\xff\r\n", b"text/?"),
    ],
)
async def test_headers_that_no_client_library_sends_are_refused_in_our_form(
    http: HttpHarness, headers: bytes, told: bytes
) -> None:
    head = b"POST /processImages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n" + headers
    answer = await http.raw(head + b"Connection: close\r\n\r\nx")
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert told in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"].encode()


@pytest.mark.parametrize("last", [True, False])
async def test_a_form_may_have_options_before_and_after_its_file(
    http: HttpHarness, last: bool
) -> None:
    data = form(("quality", "30"), ("format", "webp"), file=body_of(), last=last)
    answer = await http.post("/processImages", data)
    assert answer.status == 201
    request = await http.service.snapshots.request(answer.json()["requestId"])
    assert str(request.options.settings) == "30 webp"


async def test_a_dry_run_counts_and_stores_nothing(http: HttpHarness) -> None:
    answer = await http.post("/processImages?dryRun=true", body_of(), CSV)
    assert (answer.status, answer.json()) == (200, {"products": 1, "images": 2})
    late = await http.post("/processImages", form(("dryRun", "true"), file=body_of(), last=False))
    assert (late.status, late.json()) == (200, {"products": 1, "images": 2})
    faulty = await http.post("/processImages?dryRun=true", body_of([(1, "", "x", "")]), CSV)
    assert faulty.status == 400
    assert await count(http) == 0


async def test_a_form_has_exactly_one_file(http: HttpHarness) -> None:
    none = await http.post("/processImages", form(("quality", "30"), file=None))
    assert none.status in {400, 415}
    two = form(file=body_of())
    two.add_field("another", body_of(), filename="q.csv")
    answer = await http.post("/processImages", two)
    assert answer.status == 400
    assert "more than one part" in answer.problem()["detail"]
    assert await count(http) == 0


async def test_a_form_without_a_file_says_how_to_send_one(http: HttpHarness) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="quality"\r\n\r\n30\r\n--b--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await http.post("/processImages", body, kind)
    assert answer.status == 400
    assert "file name" in answer.problem()["detail"]


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
async def test_a_malformed_form_is_refused(http: HttpHarness, body: bytes) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await http.post("/processImages", body, kind)
    assert answer.status == 400
    assert answer.problem()["type"] == "urn:imgsvc:problem:invalid-body"
    assert await count(http) == 0


async def test_a_form_without_a_boundary_is_refused(http: HttpHarness) -> None:
    kind = {"Content-Type": "multipart/form-data"}
    assert (await http.post("/processImages", b"--b--", kind)).status == 400


async def test_an_option_that_is_too_long_is_refused(http: HttpHarness) -> None:
    data = form(("webhookUrl", "https://x.example/" + "a" * 20_000), file=body_of(), last=False)
    assert (await http.post("/processImages", data)).status == 400


@pytest.mark.parametrize(
    ("query", "code", "named"),
    [
        ("quality=0", "invalid_option", "quality"),
        ("quality=101%25", "invalid_option", "quality"),
        ("quality=", "invalid_option", "quality"),
        ("format=bmp", "invalid_option", "format"),
        ("dryRun=yes", "invalid_option", "dryRun"),
        ("dryrun=true", "unknown_option", "dryrun"),
        ("dry_run=true", "unknown_option", "dry_run"),
        ("webhookUrl=ftp://x.example/", "invalid_option", "webhookUrl"),
        ("webhookUrl=http://", "invalid_option", "webhookUrl"),
        ("webhookUrl=", "invalid_option", "webhookUrl"),
        ("quality=30&quality=30", "repeated_option", "quality"),
    ],
)
async def test_an_option_that_cannot_be_is_named(
    http: HttpHarness, query: str, code: str, named: str
) -> None:
    answer = await http.post(f"/processImages?{query}", body_of(), CSV)
    assert answer.status == 400
    problem = answer.problem()
    assert problem["type"] == "urn:imgsvc:problem:invalid-option"
    assert {(cause["code"], cause["option"]) for cause in problem["errors"]} == {(code, named)}
    assert problem["errorCount"] == len(problem["errors"])
    assert named in problem["detail"]
    assert await count(http) == 0


async def test_of_very_many_faulty_options_a_hundred_are_listed_and_all_are_counted(
    http: HttpHarness,
) -> None:
    query = "&".join(f"x{number}=1" for number in range(130))
    problem = (await http.post(f"/processImages?{query}", body_of(), CSV)).problem()
    assert (len(problem["errors"]), problem["errorCount"]) == (100, 130)


async def test_an_option_in_the_query_and_in_the_form_is_refused(http: HttpHarness) -> None:
    answer = await http.post("/processImages?quality=30", form(("quality", "30"), file=body_of()))
    assert answer.status == 400
    assert answer.problem()["errors"][0]["code"] == "repeated_option"


async def test_an_empty_field_of_a_form_is_left_out(http: HttpHarness) -> None:
    data = form(("webhookUrl", ""), ("quality", ""), ("_charset_", "utf-8"), file=body_of())
    assert (await http.post("/processImages", data)).status == 201


async def test_the_webhook_is_kept_as_it_was_given(http: HttpHarness) -> None:
    query = "?webhookUrl=https://x.example/h%2520k%3Fa%3D%252F"
    request_id = await http.upload(query=query)
    request = await http.service.snapshots.request(request_id)
    assert request.options.webhook_url == "https://x.example/h%20k?a=%2F"


async def test_faults_are_listed(http: HttpHarness) -> None:
    answer = await http.post(
        "/processImages", body_of([(1, "", "ftp://x.example/1.jpg", ""), *ROWS]), CSV
    )
    assert answer.status == 400
    problem = answer.problem()
    assert problem["type"] == "urn:imgsvc:problem:invalid-csv"
    assert problem["errorCount"] == 2
    assert [set(each) for each in problem["errors"]] == 2 * [
        {"row", "column", "code", "message", "value"}
    ]
    assert {(e["row"], e["column"], e["code"]) for e in problem["errors"]} == {
        (2, "Product Name", "empty_value"),
        (2, "Input Image Urls", "unsupported_scheme"),
    }
    assert await count(http) == 0


async def test_an_idempotency_key_is_bound_by_a_201(http: HttpHarness) -> None:
    key = {**CSV, "Idempotency-Key": "order 1"}
    assert (await http.post("/processImages", b"nonsense", key)).status == 400
    first = await http.post("/processImages", body_of(), key)
    again = await http.post("/processImages", body_of(), key)
    assert (first.status, again.status) == (201, 201)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert first.body == again.body
    other = await http.post("/processImages?quality=30", body_of(), key)
    assert other.status == 422
    assert other.problem()["type"] == "urn:imgsvc:problem:idempotency-key-reused"
    framed = form(file=body_of())
    in_a_form = await http.post("/processImages", framed, {"Idempotency-Key": "order 1"})
    assert (in_a_form.status, in_a_form.body) == (201, first.body)
    named = await http.post("/processImages?quality=50%25&format=keep", body_of(), key)
    assert (named.status, named.body) == (201, first.body)
    assert await count(http) == 1


async def test_an_idempotency_key_outlives_a_change_of_the_settings(tmp_path: Path) -> None:
    key = {**CSV, "Idempotency-Key": "order 1"}
    async with open_http(tmp_path) as http:
        first = await http.post("/processImages", body_of(), key)
    settings = {"quality": 80, "progressive": True}
    async with open_http(tmp_path, compress=settings) as http:
        again = await http.post("/processImages", body_of(), key)
        assert (again.status, again.headers.get("Idempotent-Replayed")) == (201, "true")
        assert again.json()["requestId"] == first.json()["requestId"]
        other = await http.post("/processImages?quality=80", body_of(), key)
        assert other.status == 422


@pytest.mark.parametrize("key", ["", "é", "x" * 256])
async def test_an_idempotency_key_that_cannot_be_is_refused(http: HttpHarness, key: str) -> None:
    answer = await http.post("/processImages", body_of(), {**CSV, "Idempotency-Key": key})
    assert answer.status == 400
    assert "Idempotency-Key" in answer.problem()["detail"]


async def test_an_idempotency_key_may_be_255_characters_long(http: HttpHarness) -> None:
    headers = {**CSV, "Idempotency-Key": "~" * 255}
    assert (await http.post("/processImages", body_of(), headers)).status == 201


async def test_the_key_of_an_upload_in_progress_is_busy(http: HttpHarness) -> None:
    going_on = asyncio.Event()
    sent = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield body_of()[:10]
        sent.set()
        await going_on.wait()
        yield body_of()[10:]

    headers = {**CSV, "Idempotency-Key": "k"}
    first = asyncio.create_task(http.post("/processImages", slowly(), headers))
    await sent.wait()
    await wait_until(lambda: "k" in http.service.intake._keys_in_progress)
    second = await http.post("/processImages", body_of(), headers)
    assert second.status == 409
    assert second.problem()["type"] == "urn:imgsvc:problem:idempotency-key-busy"
    going_on.set()
    assert (await first).status == 201


async def test_too_many_bytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_upload_bytes": 1_000}) as http:
        head = (
            b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        writer.write(head)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in answer
        body = body_of(ROWS * 50)
        assert (await http.post("/processImages", body, CSV)).status == 413
        assert await count(http) == 0


async def test_too_many_bytes_are_counted_where_nothing_declares_them(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_upload_bytes": 1_000}) as http:

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield body_of()

        answer = await http.post("/processImages", pieces(), CSV)
        assert answer.status == 413
        assert answer.problem()["type"] == "urn:imgsvc:problem:too-large"
        framed = await http.post("/processImages", form(file=body_of(ROWS * 50)))
        assert framed.status == 413
        exact = body_of().ljust(1_000, b"\n")
        assert (await http.post("/processImages", exact, CSV)).status == 201
        assert (await http.post("/processImages", form(file=exact))).status == 201


async def test_a_client_that_goes_on_sending_still_sees_the_refusal(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"max_upload_bytes": 1_000}) as http:
        head = (
            b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            b"Content-Length: 20000000\r\n\r\n"
        )
        # Sends everything before it reads, as many clients do.
        answer = await http.raw(head, b"x" * 20_000_000)
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_expect_is_answered_once_the_body_is_wanted(http: HttpHarness) -> None:
    body = body_of()
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


async def test_an_upload_that_stands_still_is_ended(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"upload_idle_seconds": 0.2}) as http:
        head = (
            b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            b"Content-Length: 1000\r\n\r\nS. No.,"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
        writer.write(head)
        answer = await reader.readuntil(b"}")
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"upload_idle_seconds" in answer


async def test_a_body_with_broken_framing_is_refused(http: HttpHarness) -> None:
    answer = await http.raw(
        b"POST /processImages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nnonsense\r\n"
    )
    assert answer.split(b" ", 2)[1] == b"400"
    assert b"application/problem+json" in answer
    assert await count(http) == 0


async def test_too_many_images(tmp_path: Path) -> None:
    server = {"max_images_per_request": 3, "max_waiting_images": 4}
    async with open_http(tmp_path, server=server) as http:
        answer = await http.post("/processImages", body_of(ROWS * 2), CSV)
        assert answer.status == 413
        assert answer.problem()["type"] == "urn:imgsvc:problem:too-many-images"
        await http.upload()
        await http.upload()
        waiting = await http.post("/processImages", body_of(), CSV)
        assert waiting.status == 429
        assert int(waiting.headers["Retry-After"]) >= 1


async def test_an_upload_in_progress_is_told_that_the_service_stops(http: HttpHarness) -> None:
    begun = asyncio.Event()
    never = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield body_of()[:10]
        begun.set()
        await never.wait()

    upload = asyncio.create_task(http.post("/processImages", slowly(), CSV))
    await begun.wait()
    await wait_until(lambda: http.service.intake._tasks)
    http.service.intake.stop()
    answer = await upload
    assert answer.status == 503
    assert "Retry-After" in answer.headers
    assert answer.problem()["type"] == "urn:imgsvc:problem:unavailable"


async def test_a_full_disk_refuses_uploads(tmp_path: Path) -> None:
    async with open_http(tmp_path, storage={"min_free_bytes": 2**62}) as http:
        answer = await http.post("/processImages", body_of(), CSV)
        assert answer.status == 503
        assert "Retry-After" in answer.headers
        assert answer.problem()["type"] == "urn:imgsvc:problem:storage-full"
