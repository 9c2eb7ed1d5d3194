"""From a snapshot to CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.models import (
    ColumnRole,
    Columns,
    DeliveryState,
    FailureCount,
    ImageRow,
    ImageStatus,
    ProductRow,
    Progress,
    Request,
    RequestOptions,
)
from imgsvc.serializers import (
    accepted_json,
    csv_header,
    csv_rows,
    eta_seconds,
    failed_rows,
    product_json,
    status_json,
    summary_json,
    webhook_body,
    when,
)
from imgsvc.table.cells import split_urls
from imgsvc.table.writer import encode_rows
from imgsvc.web.responses import (
    AcceptedUpload,
    ProductDetail,
    RequestState,
    RequestSummary,
    WebhookEvent,
)

BASE = "https://img.example"
COLUMNS = Columns(
    ("Colour", "Product Name", "Input Image Urls", "Size"),
    (ColumnRole.EXTRA, ColumnRole.NAME, ColumnRole.URLS, ColumnRole.EXTRA),
    (0, 1),
)
IMAGE_INFO = ImageInfo(1_000, 400, 30, 20, "jpeg", "webp", 90, 45, kept=False)
DONE = ImageRow("http://a/1", ImageStatus.COMPLETED, 1, "ab.webp", IMAGE_INFO)
KEPT = replace(DONE, info=replace(IMAGE_INFO, source_quality=None, quality=None, kept=True))
FAILED = ImageRow(
    "http://a/w_1,h_1/2",
    ImageStatus.FAILED,
    4,
    error_code=ImageErrorCode.HTTP_STATUS,
    error_message="404 Not Found",
)
LOST = replace(FAILED, error_code=ImageErrorCode.TIMEOUT, error_message="It took 60 s.")
WAITING = ImageRow("http://a/3", ImageStatus.PENDING, 0)
REQUEST = Request(
    key=1,
    request_id="0b5c1a52-7d0c-4c39-a2a5-67c7c7b5a2f1",
    created_at=1_000.0,
    started_at=1_001.5,
    finished_at=None,
    version=7,
    products=2,
    progress=Progress(pending=2, processing=1, completed=3, failed=1),
    input_bytes=3_000,
    output_bytes=1_000,
    columns=COLUMNS,
    options=RequestOptions(CompressionSettings()),
    measured_since=1_001.5,
)
FINISHED = replace(
    REQUEST,
    finished_at=2_000.0,
    progress=Progress(completed=1, failed=1),
    webhook=DeliveryState("https://x.example/", "failed", 8, "HTTP 500"),
    failures=(FailureCount("a", ImageErrorCode.TIMEOUT, 1),),
)

images = st.sampled_from([DONE, KEPT, FAILED, LOST, WAITING])
products = st.builds(
    ProductRow,
    number=st.integers(0, 9),
    serial_number=st.text(),
    name=st.text(),
    extra=st.tuples(st.text(), st.text()),
    images=st.lists(images, min_size=1, max_size=5).map(tuple),
)


def product(*images: ImageRow) -> ProductRow:
    return ProductRow(0, "1", "Lamp", ("red", "XL"), images)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_783_082_096.5, "2026-07-03T12:34:56.500Z"),
        (1_783_082_096.9999, "2026-07-03T12:34:56.999Z"),
        (None, None),
    ],
)
def test_times_are_utc_to_the_millisecond(seconds: float | None, text: str | None) -> None:
    assert when(seconds) == text


@given(products)
def test_a_product_is_what_the_description_says(given: ProductRow) -> None:
    rendered = product_json(given, BASE)
    text = json.dumps(rendered)
    answer = ProductDetail.model_validate_json(text, strict=True)
    assert json.loads(answer.model_dump_json(by_alias=True)) == json.loads(text)


@pytest.mark.parametrize("request_", [REQUEST, FINISHED])
@pytest.mark.parametrize("retention_days", [0, 1.5])
def test_a_status_is_what_the_description_says(request_: Request, retention_days: float) -> None:
    for model, rendered in (
        (RequestState, status_json(request_, 1_100.0, retention_days)),
        (RequestSummary, summary_json(request_, 1_100.0)),
        (AcceptedUpload, accepted_json(request_, BASE)),
        (WebhookEvent, json.loads(webhook_body(request_, retention_days))),
    ):
        text = json.dumps(rendered)
        answer = model.model_validate_json(text, strict=True)
        back = json.loads(answer.model_dump_json(by_alias=True, exclude_unset=True))
        assert back == json.loads(text)
        required = {str(f.alias) for f in model.model_fields.values() if f.is_required()}
        assert required <= rendered.keys()


def test_the_webhook_is_flat() -> None:
    event = json.loads(webhook_body(FINISHED))
    assert event["type"] == "request.finished"
    assert event["requestId"] == FINISHED.request_id
    assert event["status"] == "partial"
    assert "products" not in event
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("progress", "since", "done_by_then", "eta"),
    [
        (Progress(pending=10), None, 0, None),
        (Progress(pending=10, processing=1), 1_000.0, 0, None),
        (Progress(pending=10, completed=10), 1_000.0, 0, 100),
        (Progress(pending=1, processing=1, failed=2, cancelled=1, completed=3), 1_000.0, 0, 34),
        (Progress(pending=10, completed=10), 1_100.0, 0, None),
        (Progress(pending=10, completed=10), 1_200.0, 0, None),
        # Retried, or begun anew after a stop: what was done before tells nothing of the rate.
        (Progress(pending=10, completed=1_010), 1_000.0, 1_000, 100),
        (Progress(pending=10, completed=1_000), 1_000.0, 1_000, None),
        (Progress(pending=10, completed=1_000), None, 1_000, None),
    ],
)
def test_the_time_that_is_left(
    progress: Progress, since: float | None, done_by_then: int, eta: int | None
) -> None:
    request = replace(REQUEST, progress=progress, measured_since=since, measured_done=done_by_then)
    assert eta_seconds(request, 1_100.0) == eta


def test_no_time_is_left_at_the_end() -> None:
    assert eta_seconds(FINISHED, 1_100.0) == 0


@pytest.mark.parametrize(
    ("completed", "pending", "percent"), [(0, 3, 0), (1, 2, 33), (999, 1, 99), (3, 0, 100)]
)
def test_what_is_not_done_is_never_all(completed: int, pending: int, percent: int) -> None:
    request = replace(REQUEST, progress=Progress(completed=completed, pending=pending))
    assert status_json(request, 1_100.0)["progress"]["percent"] == percent


def test_what_was_saved() -> None:
    sizes = status_json(REQUEST, 1_100.0)["bytes"]
    assert sizes == {"input": 3_000, "output": 1_000, "savedPercent": 66.7}
    grown = replace(REQUEST, output_bytes=3_300)
    assert status_json(grown, 1_100.0)["bytes"]["savedPercent"] == -10.0
    nothing = replace(REQUEST, input_bytes=0, output_bytes=0)
    assert status_json(nothing, 1_100.0)["bytes"]["savedPercent"] is None


def test_the_status_csv() -> None:
    assert csv_header(COLUMNS) == (
        "S. No.",
        "Product Name",
        "Input Image Urls",
        "Output Image Urls",
        "Request Id",
        "Status",
        "Error",
        "Colour",
        "Size",
    )
    rows = list(csv_rows([product(DONE, FAILED, WAITING, LOST)], "id", BASE))
    assert rows == [
        (
            "1",
            "Lamp",
            "http://a/1,http://a/w_1,h_1/2,http://a/3,http://a/w_1,h_1/2",
            f"{BASE}/images/ab.webp,,,",
            "id",
            "processing",
            "2: http_status: 404 Not Found; 4: timeout: It took 60 s.",
            "red",
            "XL",
        )
    ]


@given(st.lists(products, max_size=5))
def test_lists_line_up_and_split_again(given: list[ProductRow]) -> None:
    text = encode_rows(csv_rows(given, "id", BASE)).decode()
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == len(given)
    for row, expected in zip(rows, given, strict=True):
        assert split_urls(row[2]) == [image.url for image in expected.images]
        assert row[3].count(",") == len(expected.images) - 1
        assert (row[0], row[1], row[7:]) == (
            expected.serial_number,
            expected.name,
            list(expected.extra),
        )


def test_failed_rows_are_in_the_inputs_own_columns() -> None:
    rows = list(failed_rows([product(FAILED, LOST)], COLUMNS))
    assert rows == [["red", "Lamp", "http://a/w_1,h_1/2,http://a/w_1,h_1/2", "XL"]]
