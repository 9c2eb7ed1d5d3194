"""End-to-end tests: upload a CSV, compress the images to half their quality, get the CSV back."""

from __future__ import annotations

import csv
import io
import json
from urllib.parse import quote

import pytest
from PIL import Image
from standardwebhooks import Webhook

from tests import sample_images
from tests.conftest import StartService
from tests.origin import Origin, Reply
from tests.service_process import Service, table
from tests.waiting import block_until

EXTENSIONS = ("jpg", "jpg", "png", "webp")


def jpeg_quality(data: bytes) -> int:
    """Return the quality for which libjpeg writes these tables: try each, so that it is exact."""
    with Image.open(io.BytesIO(data)) as image:
        tables = image.quantization  # type: ignore[attr-defined]
    for quality in range(1, 101):
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, "JPEG", quality=quality)
        with Image.open(io.BytesIO(out.getvalue())) as image:
            if image.quantization[0] == tables[0]:  # type: ignore[attr-defined]
                return quality
    raise AssertionError("these are not libjpeg's tables")


def test_all_images_are_compressed_to_half_their_quality(service: Service, origin: Origin) -> None:
    rows = [
        (
            f"P-{row}",
            f"Product {row}",
            [origin.photo(n, EXTENSIONS[n % 4]) for n in range(row, row + 3)],
        )
        for row in range(0, 60, 3)
    ]
    request_id = service.upload(table(rows))
    status = service.finished(request_id)
    assert status["status"] == "completed"
    assert status["progress"]["completed"] == status["progress"]["total"] == 60
    back = service.get(f"/checkStatus/{request_id}").rows()
    assert [(r["S. No."], r["Product Name"]) for r in back] == [(r[0], r[1]) for r in rows]
    for (_, _, urls), row in zip(rows, back, strict=True):
        assert row["Status"] == "completed"
        assert row["Request Id"] == request_id
        assert row["Input Image Urls"].split(",") == urls
        outputs = row["Output Image Urls"].split(",")
        assert len(outputs) == len(urls)
        for source, output in zip(urls, outputs, strict=True):
            number, _, extension = source.rpartition("/")[2].partition(".")
            response = service.get(output)
            assert response.status == 200
            assert response.headers["Content-Type"] == sample_images.media_type(extension)
            assert sample_images.is_photograph(response.body, int(number), 14.0)
            if extension == "jpg":
                half = (sample_images.sample_quality(int(number)) + 1) // 2
                assert jpeg_quality(response.body) == half


def test_failed_image_does_not_affect_other_images(service: Service, origin: Origin) -> None:
    gone = origin.script("/gone.jpg", Reply(404))
    page = origin.serve("/page.jpg", b"<html><title>Sign in</title></html>", "text/html")
    forbidden = "http://10.255.255.1/a.jpg"
    rows = [
        (1, "mixed", [origin.photo(1), gone, origin.photo(2)]),
        (2, "lost", [gone, forbidden, page]),
        (3, "fine", [origin.photo(3)]),
    ]
    request_id = service.upload(table(rows))
    status = service.finished(request_id)
    assert status["status"] == "partial"
    first, second, third = service.get(f"/checkStatus/{request_id}").rows()
    assert first["Status"] == "partial"
    assert first["Output Image Urls"].count(",") == 2
    assert first["Output Image Urls"].split(",")[1] == ""
    assert first["Error"] == "2: http_status: 404 Not Found"
    assert second["Status"] == "failed"
    assert second["Output Image Urls"] == ",,"
    errors = second["Error"].split("; ")
    assert errors[0] == "1: http_status: 404 Not Found"
    assert errors[1].startswith("2: blocked_address: ")
    assert errors[2].startswith("3: not_an_image: ")
    assert "Sign in" in errors[2]
    assert third["Status"] == "completed"
    assert third["Error"] == ""
    assert origin.hits("/gone.jpg") == 1, "the same URL in a request is fetched once"
    failures = {(f["code"], f["count"]) for f in status["failures"]}
    assert failures == {("http_status", 2), ("blocked_address", 1), ("not_an_image", 1)}


def test_failed_rows_can_be_downloaded_and_uploaded_again(service: Service, origin: Origin) -> None:
    url = origin.script("/later.jpg", Reply(404), Reply(photo="/photo/9.jpg"))
    header = ("Sku", "product_name", "S. No.", "Image URLs")
    body = table(
        [("a", "one", "7", [origin.photo(1), url]), ("b", "two", "8", [origin.photo(2)])],
        ("Sku", "product_name", "S. No.", "Input Image Urls"),
    )
    assert header[0] == "Sku"
    request_id = service.upload(body)
    service.finished(request_id)
    response = service.get(f"/checkStatus/{request_id}?only=failed")
    failed_rows = list(csv.reader(io.StringIO(response.body.decode())))
    assert failed_rows == [
        ["Sku", "product_name", "S. No.", "Input Image Urls"],
        ["a", "one", "7", url],
    ]
    again = service.upload(response.body)
    assert service.finished(again)["status"] == "completed"


def test_upload_with_invalid_row_is_refused_with_row_and_column_of_each_error(
    service: Service,
) -> None:
    body = table([(1, "good", "https://example.com/1.jpg"), (2, "", "ftp://example.com/2.jpg")])
    response = service.post("/processImages", body)
    assert response.status == 400
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    found = {(e["row"], e["column"], e["code"]) for e in problem["errors"]}
    assert found == {
        (3, "Product Name", "empty_value"),
        (3, "Input Image Urls", "unsupported_scheme"),
    }
    assert problem["errorCount"] == 2
    assert service.get("/listRequests").json()["requests"] == []


def test_unknown_paths_and_methods_return_problem_reports(service: Service) -> None:
    for method, path, status in (
        ("GET", "/checkStatus/0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/processImages", 405),
        ("GET", "/images/00000000000000000000000000000000.jpg", 404),
    ):
        response = service.call(method, path)
        assert response.status == status, path
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["status"] == status
        assert status != 405 or "POST" in response.headers["Allow"]


def test_transient_failures_are_retried(service: Service, origin: Origin) -> None:
    url = origin.script("/busy.jpg", Reply(503), Reply(429), Reply(photo="/photo/4.jpg"))
    request_id = service.upload(table([(1, "busy", url)]))
    status = service.finished(request_id)
    assert status["status"] == "completed"
    assert origin.hits("/busy.jpg") == 3
    assert status["products"][0]["images"][0]["attempts"] == 3


def test_equal_sources_are_compressed_once_across_requests(
    service: Service, origin: Origin
) -> None:
    data = sample_images.encoded(5)
    urls = [origin.serve(f"/same-{n}.jpg", data) for n in range(12)]
    first = service.upload(table([(n, "same", url) for n, url in enumerate(urls)]))
    second = service.upload(table([(1, "again", urls[0])]))
    assert service.finished(first)["status"] == service.finished(second)["status"] == "completed"
    stored = [p for p in (service.data_dir / "outputs").rglob("*") if p.is_file()]
    assert len(stored) == 1
    outputs = {
        row["Output Image Urls"]
        for request_id in (first, second)
        for row in service.get(f"/checkStatus/{request_id}").rows()
    }
    assert len(outputs) == 1, "equal images have one URL"
    assert service.call("DELETE", f"/deleteRequest/{first}").status == 204
    kept = service.get(f"/checkStatus/{second}").rows()[0]["Output Image Urls"]
    assert service.get(kept).status == 200
    assert service.call("DELETE", f"/deleteRequest/{second}").status == 204
    assert not [p for p in (service.data_dir / "outputs").rglob("*") if p.is_file()]


def test_upload_options_override_configuration(service: Service, origin: Origin) -> None:
    body = table([(1, "photo", origin.photo(3))])
    request_id = service.upload(body, "?quality=30&format=webp")
    image = service.finished(request_id)["products"][0]["images"][0]
    assert (image["quality"], image["outputFormat"]) == (30, "webp")
    assert image["sourceQuality"] == sample_images.sample_quality(3)
    assert service.get(image["outputUrl"]).headers["Content-Type"] == "image/webp"


@pytest.mark.parametrize("secret", ["", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
def test_webhook_is_sent_when_request_has_finished(
    start_service: StartService, origin: Origin, secret: str
) -> None:
    service = start_service(
        webhook={"secret": secret, "retry_delays_seconds": [0.2, 0.2]},
        storage={"retention_days": 7},
    )
    hook = origin.script("/hook", Reply(500), Reply(302), Reply(200, body=b"thanks"))
    query = f"?webhookUrl={hook}"
    request_id = service.upload(table([(1, "p", [origin.photo(1), origin.photo(2)])]), query)
    finished = service.finished(request_id)
    block_until(
        lambda: service.status(request_id)["webhook"]["status"] == "delivered", "delivery", 30
    )
    calls = origin.seen("/hook")
    assert len(calls) == 3
    assert len({call.headers["webhook-id"] for call in calls}) == 1
    assert len({call.body for call in calls}) == 1
    event = json.loads(calls[0].body)
    assert event["type"] == "request.finished"
    assert event["requestId"] == request_id
    assert event["status"] == "completed"
    assert event["expiresAt"] == finished["expiresAt"]
    assert "products" not in event
    if secret:
        Webhook(secret).verify(calls[2].body, dict(calls[2].headers))
    else:
        assert "webhook-signature" not in calls[0].headers


def test_request_past_its_retention_is_deleted_with_its_images(
    start_service: StartService, origin: Origin
) -> None:
    days = 3 / 86_400
    service = start_service(storage={"retention_days": days})
    request_id = service.upload(table([(1, "p", origin.photo(1))]))
    image = service.finished(request_id)["products"][0]["images"][0]
    assert service.get(image["outputUrl"]).status == 200
    block_until(
        lambda: service.get(f"/checkStatus/{request_id}").status == 404,
        "the request to be deleted",
        30,
    )
    block_until(
        lambda: service.get(image["outputUrl"]).status == 404, "the image to be deleted", 30
    )
    outputs = service.data_dir / "outputs"
    block_until(
        lambda: not any(p.is_file() for p in outputs.rglob("*")), "the file to be deleted", 30
    )


def test_cancel_keeps_completed_images_and_finishes_request(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service(fetch={"per_host": 2})
    held = [origin.script(f"/held-{n}.jpg", Reply(gate="held")) for n in range(20)]
    rows = [(0, "done", origin.photo(1)), *((n, "held", url) for n, url in enumerate(held))]
    request_id = service.upload(table(rows))
    block_until(
        lambda: service.status(request_id)["progress"]["completed"] == 1, "the first image", 30
    )
    response = service.post(f"/cancelRequest/{request_id}")
    assert response.status == 200
    assert response.json()["status"] == "cancelled"
    assert response.json()["progress"] | {"etaSeconds": None} == {
        "total": 21,
        "pending": 0,
        "processing": 0,
        "completed": 1,
        "failed": 0,
        "cancelled": 20,
        "percent": 100,
        "etaSeconds": None,
    }
    assert service.post(f"/cancelRequest/{request_id}").status == 409
    assert service.post(f"/retryFailed/{request_id}").status == 409
    rows_back = service.get(f"/checkStatus/{request_id}").rows()
    assert service.get(rows_back[0]["Output Image Urls"]).status == 200
    assert {row["Status"] for row in rows_back[1:]} == {"cancelled"}


def test_retry_finishes_request_again_and_sends_webhook_again(
    start_service: StartService, origin: Origin
) -> None:
    service = start_service()
    hook = origin.script("/hook", Reply(200))
    url = origin.script("/flaky.jpg", Reply(404), Reply(photo="/photo/2.jpg"))
    request_id = service.upload(table([(1, "p", [origin.photo(1), url])]), f"?webhookUrl={hook}")
    assert service.finished(request_id)["status"] == "partial"
    origin.wait_for_hits("/hook", 1)
    response = service.post(f"/retryFailed/{request_id}")
    assert response.status == 202
    status = service.finished(request_id)
    assert status["status"] == "completed"
    assert status["failures"] == []
    origin.wait_for_hits("/hook", 2)
    assert len({call.headers["webhook-id"] for call in origin.seen("/hook")}) == 2
    assert origin.hits("/photo/1.jpg") == 1


def test_idempotency_key_is_bound_to_its_upload(service: Service, origin: Origin) -> None:
    body = table([(1, "p", origin.photo(1))])
    headers = {"Idempotency-Key": "order-1"}
    bad = service.post("/processImages", b"nonsense", headers)
    assert bad.status == 400
    first = service.post("/processImages", body, headers)
    again = service.post("/processImages", body, headers)
    assert (first.status, again.status) == (201, 201)
    assert first.json() == again.json()
    assert first.headers["Idempotent-Replayed"] is None
    assert again.headers["Idempotent-Replayed"] == "true"
    other = service.post("/processImages?quality=30", body, headers)
    assert other.status == 422
    assert service.post("/processImages", body + b"\r\n", headers).status == 422
    assert len(service.get("/listRequests").json()["requests"]) == 1


def test_dry_run_stores_nothing(service: Service, origin: Origin) -> None:
    body = table([(1, "p", [origin.photo(1), origin.photo(2)]), (2, "q", origin.photo(3))])
    response = service.post("/processImages?dryRun=true", body)
    assert response.status == 200
    assert (response.json()["products"], response.json()["images"]) == (2, 3)
    assert service.get("/listRequests").json()["requests"] == []
    assert origin.hits() == 0


def test_longest_webhook_url_is_accepted_in_query(service: Service, origin: Origin) -> None:
    url = origin.url("/hook?x=")
    url += "/" * (8_192 - len(url))
    query = f"?dryRun=true&webhookUrl={quote(url, safe='')}"
    response = service.post(f"/processImages{query}", table([(1, "p", origin.photo(1))]))
    assert response.status == 200, response.body
