"""A request's state, from a database snapshot to the status CSV and JSON.

Rows of large requests are rendered by the thousand: plain dictionaries and tuples, no validation. That
they are what the API's description says is held by a test.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from imgsvc.models import ColumnRole, Columns, ImageRow, ProductRow, Progress, Request
from imgsvc.table.cells import (
    INPUT_IMAGE_URLS,
    OUTPUT_COLUMNS,
    PRODUCT_NAME,
    SERIAL_NUMBER,
    join_urls,
)

Json = dict[str, Any]

DAY = 86_400.0
STATUS_COLUMNS = (SERIAL_NUMBER, PRODUCT_NAME, INPUT_IMAGE_URLS, *OUTPUT_COLUMNS)
"""The status CSV's own columns; the input's further ones follow."""


def when(seconds: float | None) -> str | None:
    """A time as RFC 3339 has it, in UTC, to the millisecond."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- JSON ------------------------------------------------------------------------------------------


def accepted_json(request: Request, status_url: str) -> Json:
    """The answer to an upload: what was accepted, however far it has come since."""
    return {
        "requestId": request.request_id,
        "status": "pending",
        "products": request.products,
        "images": request.progress.total,
        "statusUrl": status_url,
        "createdAt": when(request.created_at),
    }


def summary_json(request: Request, now: float) -> Json:
    """A request as a list shows it."""
    return {
        "requestId": request.request_id,
        "status": request.progress.status,
        "createdAt": when(request.created_at),
        "finishedAt": when(request.finished_at),
        "progress": _progress_json(request, now),
        "bytes": _bytes_json(request),
    }


def status_json(request: Request, now: float, retention_days: float = 0) -> Json:
    """A request's status without its products. `now` is in Unix seconds."""
    webhook = request.webhook
    status = {
        "requestId": request.request_id,
        "status": request.progress.status,
        "createdAt": when(request.created_at),
        "startedAt": when(request.started_at),
        "finishedAt": when(request.finished_at),
        "progress": _progress_json(request, now),
        "bytes": _bytes_json(request),
        "failures": [
            {"host": each.host, "code": each.code, "count": each.count} for each in request.failures
        ],
        "webhook": webhook
        and {
            "url": webhook.url,
            "status": webhook.status,
            "attempts": webhook.attempts,
            "lastError": webhook.last_error,
        },
    }
    if retention_days:
        finished = request.finished_at
        status["expiresAt"] = when(finished and finished + retention_days * DAY)
    return status


def webhook_body(request: Request, retention_days: float = 0) -> str:
    """The JSON text that tells a finished request's webhook."""
    now = time.time()
    event = {"type": "request.finished", "timestamp": when(now)}
    return json.dumps(event | status_json(request, now, retention_days))


def product_json(product: ProductRow, base_url: str) -> Json:
    """A row of a request. `base_url` is where the service is, without a slash at the end."""
    return {
        "serialNumber": product.serial_number,
        "productName": product.name,
        "status": product.progress.status,
        "images": [_image_json(image, base_url) for image in product.images],
    }


def _image_json(image: ImageRow, base_url: str) -> Json:
    info = image.info
    error = image.error_code and {"code": image.error_code, "message": image.error_message or ""}
    return {
        "inputUrl": image.url,
        "outputUrl": _output_url(image, base_url) or None,
        "status": image.status,
        "error": error,
        "attempts": image.attempts,
        "inputBytes": info and info.input_bytes,
        "outputBytes": info and info.output_bytes,
        "width": info and info.width,
        "height": info and info.height,
        "inputFormat": info and info.input_format,
        "outputFormat": info and info.output_format,
        "sourceQuality": info and info.source_quality,
        "quality": info and info.quality,
        "kept": info and info.kept,
    }


def eta_seconds(request: Request, now: float) -> int | None:
    """Seconds to the end at the measured rate; None while there is none to tell by."""
    if request.finished_at is not None:
        return 0
    progress, since = request.progress, request.measured_since
    done = progress.done - request.measured_done
    if since is None or now <= since or done <= 0:
        return None
    return math.ceil((progress.total - progress.done) * (now - since) / done)


def _progress_json(request: Request, now: float) -> Json:
    progress = request.progress
    return {
        "total": progress.total,
        "pending": progress.pending,
        "processing": progress.processing,
        "completed": progress.completed,
        "failed": progress.failed,
        "cancelled": progress.cancelled,
        "percent": _percent(progress),
        "etaSeconds": eta_seconds(request, now),
    }


def _percent(progress: Progress) -> int:
    """Rounded down: what is not done never shows as 100."""
    return 100 * progress.done // progress.total if progress.total else 100


def _bytes_json(request: Request) -> Json:
    saved = None
    if request.input_bytes:
        saved = round(100 * (1 - request.output_bytes / request.input_bytes), 1)
    return {"input": request.input_bytes, "output": request.output_bytes, "savedPercent": saved}


# --- CSV -------------------------------------------------------------------------------------------


def csv_header(columns: Columns) -> Sequence[str]:
    """The status CSV's header."""
    return (*STATUS_COLUMNS, *columns.extra)


def csv_rows(
    products: Sequence[ProductRow], request_id: str, base_url: str
) -> Iterator[Sequence[str]]:
    """The status CSV's rows, one for each of the input's."""
    for product in products:
        yield (
            product.serial_number,
            product.name,
            join_urls([image.url for image in product.images]),
            ",".join([_output_url(image, base_url) for image in product.images]),
            request_id,
            product.progress.status,
            _errors(product.images),
            *product.extra,
        )


def failed_rows(products: Sequence[ProductRow], columns: Columns) -> Iterator[Sequence[str]]:
    """Rows of the input that have failed images, with just those, in the input's own columns.

    The header is `columns.names`.
    """
    for product in products:
        extra = iter(product.extra)
        cells = {
            ColumnRole.SERIAL: product.serial_number,
            ColumnRole.NAME: product.name,
            ColumnRole.URLS: join_urls([image.url for image in product.images]),
        }
        yield [
            next(extra, "") if role is ColumnRole.EXTRA else cells[role] for role in columns.roles
        ]


def _output_url(image: ImageRow, base_url: str) -> str:
    return f"{base_url}/images/{image.file}" if image.file else ""


def _errors(images: Sequence[ImageRow]) -> str:
    return "; ".join(
        [
            f"{place}: {image.error_code}: {image.error_message}"
            for place, image in enumerate(images, 1)
            if image.error_code
        ]
    )
