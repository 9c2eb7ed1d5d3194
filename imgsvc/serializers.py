"""Serialization of requests and products to JSON.

Large requests have many thousands of rows, so these are plain dictionaries and tuples without
validation. A test checks that they match the OpenAPI document.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from imgsvc.errors import FileError
from imgsvc.image_types import CompressionSettings
from imgsvc.models import (
    SECONDS_PER_DAY,
    ImageRow,
    ProductRow,
    Progress,
    Request,
    RequestTotals,
)
from imgsvc.status_table import UrlOf
from imgsvc.table_types import InputTable, Product

Json = dict[str, Any]


def format_time(seconds: float | None) -> str | None:
    """Return a Unix time in RFC 3339 format: in UTC, with milliseconds. None stays None."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def file_error_json(error: FileError) -> Json:
    """Return one error of an uploaded file, without the cells of its row."""
    return {
        "row": error.row,
        "column": error.column,
        "code": error.code,
        "message": error.message,
        "value": error.value,
    }


def upload_json(
    name: str | None,
    table: InputTable,
    skipped: int,
    errors: Sequence[FileError],
    error_count: int,
) -> Json:
    """Return the part of the response to a valid upload that says how its table was read."""
    return {
        "name": name,
        "layout": table.layout,
        "encoding": table.encoding,
        "skipped": skipped,
        "errors": [file_error_json(error) for error in errors],
        "errorCount": error_count,
    }


def preview_json(product: Product) -> Json:
    """Return a product as a dry run shows it."""
    return {
        "row": product.row,
        "serialNumber": product.serial_number,
        "productName": product.name,
        "inputUrls": [image.text for image in product.images],
    }


def accepted_json(request: Request, status_url: str, errors: Sequence[FileError]) -> Json:
    """Return the response to an accepted upload. A replayed upload also has the status `pending`.

    `errors` are the first errors of skipped rows.
    """
    how = upload_json(
        request.options.name, request.table, request.skipped, errors, request.error_count
    )
    return {
        "requestId": request.request_id,
        "status": "pending",
        "products": request.products,
        "images": request.progress.total,
        "statusUrl": status_url,
        "createdAt": format_time(request.created_at),
        **how,
    }


def summary_json(request: Request, now: float) -> Json:
    """Return a request's entry in a list of requests. `now` is in Unix seconds."""
    return {
        "requestId": request.request_id,
        "name": request.options.name,
        "status": request.progress.status,
        "createdAt": format_time(request.created_at),
        "finishedAt": format_time(request.finished_at),
        "progress": _progress_json(request, now),
        "bytes": _bytes_json(request),
    }


def totals_json(totals: RequestTotals) -> Json:
    """Return the totals of requests."""
    return {
        "requests": totals.requests,
        "images": totals.images,
        "inputBytes": totals.input_bytes,
        "outputBytes": totals.output_bytes,
    }


def status_json(request: Request, now: float, retention_days: float = 0) -> Json:
    """Return a request's status without its products. `now` is in Unix seconds."""
    webhook = request.webhook
    status = {
        "requestId": request.request_id,
        "name": request.options.name,
        "layout": request.table.layout,
        "skipped": request.skipped,
        "status": request.progress.status,
        "createdAt": format_time(request.created_at),
        "startedAt": format_time(request.started_at),
        "finishedAt": format_time(request.finished_at),
        "settings": _settings_json(request.options.settings),
        "progress": _progress_json(request, now),
        "bytes": _bytes_json(request),
        "failures": [
            {"host": failure.host, "code": failure.code, "count": failure.count}
            for failure in request.failures
        ],
        "waiting": [
            {
                "host": each.host,
                "code": each.code,
                "message": each.message,
                "count": each.count,
                "nextTryAt": format_time(each.next_try_at),
            }
            for each in request.waiting
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
        status["expiresAt"] = format_time(finished and finished + retention_days * SECONDS_PER_DAY)
    return status


def webhook_body(request: Request, retention_days: float = 0) -> str:
    """Return the body of a finished request's webhook as JSON text."""
    now = time.time()
    event = {"type": "request.finished", "timestamp": format_time(now)}
    return json.dumps(event | status_json(request, now, retention_days))


def product_json(product: ProductRow, url_of: UrlOf) -> Json:
    """Return a product and its images."""
    return {
        "serialNumber": product.serial_number,
        "productName": product.name,
        "status": product.status,
        "images": [_image_json(image, url_of) for image in product.images],
        "errors": [file_error_json(error) for error in product.errors],
    }


def _image_json(image: ImageRow, url_of: UrlOf) -> Json:
    info = image.info
    error = image.error_code and {"code": image.error_code, "message": image.error_message or ""}
    return {
        "inputUrl": image.url,
        "outputUrl": url_of(image) if image.file else None,
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
        "notes": list(info.notes) if info else [],
        "reused": image.reused,
    }


def eta_seconds(request: Request, now: float) -> int | None:
    """Return the seconds until the request has finished, at the measured rate.

    None if no rate has been measured yet, or if all unfinished images wait for their hosts. `now` is in
    Unix seconds.
    """
    if request.finished_at is not None:
        return 0
    progress, since = request.progress, request.measured_since
    done, unfinished = progress.done - request.measured_done, progress.total - progress.done
    if since is None or now <= since or done <= 0 or request.waiting_images >= unfinished:
        return None
    return math.ceil(unfinished * (now - since) / done)


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
        "reused": reused_json(request),
    }


def reused_json(request: Request) -> Json:
    """Return the number of completed images by what they reused."""
    reused = request.reused
    return {
        "downloaded": request.progress.completed - reused.not_modified - reused.same_url,
        "notModified": reused.not_modified,
        "sameBytes": reused.same_bytes,
        "sameUrl": reused.same_url,
    }


def _settings_json(settings: CompressionSettings) -> Json:
    return {
        "quality": str(settings.quality),
        "format": settings.format,
        "maxWidth": settings.max_width,
        "maxHeight": settings.max_height,
        "effort": settings.effort,
    }


def _percent(progress: Progress) -> int:
    """Return the finished share of images, rounded down: 100 only if all are finished."""
    return 100 * progress.done // progress.total if progress.total else 100


def _bytes_json(request: Request) -> Json:
    saved = None
    if request.input_bytes:
        saved = round(100 * (1 - request.output_bytes / request.input_bytes), 1)
    return {"input": request.input_bytes, "output": request.output_bytes, "savedPercent": saved}
