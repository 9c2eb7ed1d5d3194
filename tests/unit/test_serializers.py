"""Tests of the status CSV and JSON."""

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
    DeliveryState,
    FailureCount,
    ImageRow,
    ImageStatus,
    ProductRow,
    Progress,
    Request,
    RequestOptions,
    WaitingHost,
)
from imgsvc.serializers import (
    accepted_json,
    eta_seconds,
    format_time,
    product_json,
    status_json,
    summary_json,
    webhook_body,
)
from imgsvc.status_table import StatusTable
from imgsvc.table.cells import split_urls
from imgsvc.table.writer import encode_rows
from imgsvc.table_types import ColumnRole, Columns, InputTable
from imgsvc.web.schema.responses import (
    AcceptedUpload,
    ProductDetail,
    RequestState,
    RequestSummary,
    WebhookEvent,
)

BASE = "https://img.example"
COLUMNS = Columns(
    ("Colour", "Product Name", "Input Image Urls", "Size"),
    (ColumnRole.EXTRA, ColumnRole.NAME, ColumnRole.IMAGE, ColumnRole.EXTRA),
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
TIMED_OUT = replace(FAILED, error_code=ImageErrorCode.TIMEOUT, error_message="It took 60 s.")
PENDING = ImageRow("http://a/3", ImageStatus.PENDING, 0)
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
    table=InputTable(COLUMNS, "standard", "utf-8", ","),
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
WAITING = replace(
    REQUEST, waiting=(WaitingHost("a", ImageErrorCode.TIMEOUT, "It took 60 s.", 2, 3_000.0),)
)

images = st.sampled_from([DONE, KEPT, FAILED, TIMED_OUT, PENDING])
products = st.builds(
    ProductRow,
    number=st.integers(0, 9),
    serial_number=st.text(),
    name=st.text(),
    extra=st.tuples(st.text(), st.text()),
    images=st.lists(images, min_size=1, max_size=5).map(tuple),
)


def url_of(image: ImageRow) -> str:
    return f"{BASE}/images/{image.public_path}"


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
def test_format_time_returns_utc_with_milliseconds(seconds: float | None, text: str | None) -> None:
    assert format_time(seconds) == text


@given(products)
def test_product_json_matches_model(row: ProductRow) -> None:
    rendered = product_json(row, url_of)
    text = json.dumps(rendered)
    parsed = ProductDetail.model_validate_json(text, strict=True)
    assert json.loads(parsed.model_dump_json(by_alias=True)) == json.loads(text)


@pytest.mark.parametrize("request_", [REQUEST, FINISHED, WAITING])
@pytest.mark.parametrize("retention_days", [0, 1.5])
def test_request_json_matches_models(request_: Request, retention_days: float) -> None:
    for model, rendered in (
        (RequestState, status_json(request_, 1_100.0, retention_days)),
        (RequestSummary, summary_json(request_, 1_100.0)),
        (AcceptedUpload, accepted_json(request_, BASE, ())),
        (WebhookEvent, json.loads(webhook_body(request_, retention_days))),
    ):
        text = json.dumps(rendered)
        parsed = model.model_validate_json(text, strict=True)
        back = json.loads(parsed.model_dump_json(by_alias=True, exclude_unset=True))
        assert back == json.loads(text)
        required = {str(f.alias) for f in model.model_fields.values() if f.is_required()}
        assert required <= rendered.keys()


def test_webhook_body_has_status_fields_at_top_level() -> None:
    event = json.loads(webhook_body(FINISHED))
    assert event["type"] == "request.finished"
    assert event["requestId"] == FINISHED.request_id
    assert event["status"] == "partial"
    assert "products" not in event
    assert event["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("progress", "measured_since", "measured_done", "eta"),
    [
        (Progress(pending=10), None, 0, None),
        (Progress(pending=10, processing=1), 1_000.0, 0, None),
        (Progress(pending=10, completed=10), 1_000.0, 0, 100),
        (Progress(pending=1, processing=1, failed=2, cancelled=1, completed=3), 1_000.0, 0, 34),
        (Progress(pending=10, completed=10), 1_100.0, 0, None),
        (Progress(pending=10, completed=10), 1_200.0, 0, None),
        # Retried, or resumed after a restart: images that were done before do not count.
        (Progress(pending=10, completed=1_010), 1_000.0, 1_000, 100),
        (Progress(pending=10, completed=1_000), 1_000.0, 1_000, None),
        (Progress(pending=10, completed=1_000), None, 1_000, None),
    ],
)
def test_eta_seconds_uses_measured_rate(
    progress: Progress, measured_since: float | None, measured_done: int, eta: int | None
) -> None:
    request = replace(
        REQUEST, progress=progress, measured_since=measured_since, measured_done=measured_done
    )
    assert eta_seconds(request, 1_100.0) == eta


@pytest.mark.parametrize(("waiting_images", "eta"), [(10, 110), (11, None)])
def test_eta_seconds_is_none_if_all_unfinished_images_wait(
    waiting_images: int, eta: int | None
) -> None:
    progress = Progress(pending=10, processing=1, completed=10)
    request = replace(
        REQUEST, progress=progress, measured_since=1_000.0, waiting_images=waiting_images
    )
    assert eta_seconds(request, 1_100.0) == eta


def test_eta_seconds_is_zero_when_finished() -> None:
    assert eta_seconds(FINISHED, 1_100.0) == 0


@pytest.mark.parametrize(
    ("completed", "pending", "percent"), [(0, 3, 0), (1, 2, 33), (999, 1, 99), (3, 0, 100)]
)
def test_percent_is_rounded_down(completed: int, pending: int, percent: int) -> None:
    request = replace(REQUEST, progress=Progress(completed=completed, pending=pending))
    assert status_json(request, 1_100.0)["progress"]["percent"] == percent


def test_saved_percent_compares_output_with_input_bytes() -> None:
    sizes = status_json(REQUEST, 1_100.0)["bytes"]
    assert sizes == {"input": 3_000, "output": 1_000, "savedPercent": 66.7}
    larger = replace(REQUEST, output_bytes=3_300)
    assert status_json(larger, 1_100.0)["bytes"]["savedPercent"] == -10.0
    empty = replace(REQUEST, input_bytes=0, output_bytes=0)
    assert status_json(empty, 1_100.0)["bytes"]["savedPercent"] is None


def test_csv_rows_have_outputs_status_and_errors() -> None:
    assert next(StatusTable().header(REQUEST)) == (
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
    rows = list(StatusTable().rows([product(DONE, FAILED, PENDING, TIMED_OUT)], REQUEST, url_of))
    assert rows == [
        (
            "1",
            "Lamp",
            "http://a/1,http://a/w_1,h_1/2,http://a/3,http://a/w_1,h_1/2",
            f"{BASE}/images/ab.webp,,,",
            REQUEST.request_id,
            "processing",
            "2: http_status: 404 Not Found; 4: timeout: It took 60 s",
            "red",
            "XL",
        )
    ]


def test_csv_errors_have_no_final_full_stop() -> None:
    images = (
        replace(TIMED_OUT, error_message="Cannot find a.example. Stopped trying after 10 minutes."),
        replace(TIMED_OUT, error_message=None),
    )
    ((*_, error, _, _),) = StatusTable().rows([product(*images)], REQUEST, url_of)
    assert error == (
        "1: timeout: Cannot find a.example. Stopped trying after 10 minutes; 2: timeout: "
    )


@given(st.lists(products, max_size=5))
def test_csv_url_lists_have_same_length_and_split_again(expected_rows: list[ProductRow]) -> None:
    text = encode_rows(StatusTable().rows(expected_rows, REQUEST, url_of)).decode()
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == len(expected_rows)
    for row, expected in zip(rows, expected_rows, strict=True):
        assert split_urls(row[2]) == [image.url for image in expected.images]
        assert row[3].count(",") == len(expected.images) - 1
        assert (row[0], row[1], row[7:]) == (
            expected.serial_number,
            expected.name,
            list(expected.extra),
        )


def test_failed_rows_have_input_columns() -> None:
    failed = replace(product(FAILED, TIMED_OUT), positions=(0, 1))
    rows = list(StatusTable(only_failed=True).rows([failed], REQUEST, url_of))
    assert rows == [["red", "Lamp", "http://a/w_1,h_1/2,http://a/w_1,h_1/2", "XL"]]
