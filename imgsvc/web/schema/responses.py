"""JSON responses, and the pydantic models of them that the OpenAPI document is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from imgsvc.access import Role
from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import Effort, Note, OutputFormat
from imgsvc.models import (
    ImageStatus,
    ProductStatus,
    RequestStatus,
    Reuse,
)
from imgsvc.table_types import ColumnRole
from imgsvc.web.schema.problem_responses import ErrorItem
from imgsvc.web.schema.response_model import Count, RequestId, ResponseModel, Timestamp, Url


def json_response(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON response. `body` holds JSON types only."""
    text = json.dumps(body, separators=(",", ":"))
    return web.Response(
        status=status, headers=headers, body=text.encode(), content_type="application/json"
    )


Name = Annotated[str | None, Field(description="Display name of the request.")]
LayoutName = Annotated[
    str | None,
    Field(
        description="Recognised layout of the file, such as `standard` or `shopify`. Null if version "
        "1.0 read it."
    ),
]
Skipped = Annotated[
    Count, Field(description="Number of invalid rows that `onInvalid=skip` left out.")
]


class UploadResponse(ResponseModel):
    """A valid upload: what it has, and how it was read."""

    products: Annotated[
        Count, Field(description="Number of products, one per row. Skipped rows do not count.")
    ]
    images: Annotated[Count, Field(description="Number of image URLs.")]
    name: Name
    layout: LayoutName
    encoding: Annotated[
        str | None,
        Field(description="Encoding of the file: the name of Python's codec. Null for .xlsx."),
    ]
    skipped: Skipped
    errors: Annotated[
        list[ErrorItem], Field(description="Errors of the skipped rows, at most 100.")
    ]
    error_count: Annotated[
        Count, Field(description="Total number of these errors, including those not listed.")
    ]


class AcceptedUpload(UploadResponse):
    """The upload was accepted and is stored."""

    request_id: Annotated[RequestId, Field(description="ID of the new request.")]
    status: Literal["pending"]
    status_url: Annotated[Url, Field(description="URL to poll for the request's status.")]
    created_at: Timestamp


class ColumnInfo(ResponseModel):
    """A column of the uploaded file."""

    name: Annotated[str, Field(description="Header of the column.")]
    role: Annotated[
        ColumnRole,
        Field(
            description="Purpose of the column. `group`: equal in the rows of one product. `extra`: "
            "returned unchanged. `dropped`: not in the status."
        ),
    ]


class PreviewProduct(ResponseModel):
    """One of the first products of the uploaded file."""

    row: Annotated[Count, Field(description="Row number in the file; the header is 1.")]
    serial_number: str
    product_name: str
    input_urls: list[str]


class DryRunResult(UploadResponse):
    """The file is valid. Nothing was stored."""

    columns: Annotated[list[ColumnInfo], Field(description="All columns, in the file's order.")]
    delimiter: Annotated[str | None, Field(description="Null for .xlsx.")]
    preview: Annotated[list[PreviewProduct], Field(description="The first 3 products.")]


class ReuseSummary(ResponseModel):
    """Number of completed images by what they reused. `sameBytes` is part of `downloaded`."""

    downloaded: Annotated[Count, Field(description="Their sources were downloaded.")]
    not_modified: Annotated[
        Count, Field(description="Their sources are not modified since an earlier download.")
    ]
    same_bytes: Annotated[
        Count, Field(description="Downloaded, and the output of the same bytes existed.")
    ]
    same_url: Annotated[
        Count, Field(description="They have the URL of another image of the request.")
    ]


class ImageProgress(ResponseModel):
    """Number of images in each status."""

    total: Count
    pending: Count
    processing: Count
    completed: Count
    failed: Count
    cancelled: Count
    percent: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="Share of images that are completed, failed or cancelled, rounded down.",
        ),
    ]
    eta_seconds: Annotated[
        int | None,
        Field(
            description="Estimated seconds until the request has finished, at the measured rate. "
            "Null: not known yet, or all unfinished images are in `waiting`."
        ),
    ]
    reused: ReuseSummary


class ByteTotals(ResponseModel):
    """Total size of the completed images, in bytes."""

    input: Annotated[Count, Field(description="Size of the sources.")]
    output: Annotated[Count, Field(description="Size of the outputs.")]
    saved_percent: Annotated[float | None, Field(description="Null while no image is completed.")]


class FailureSummary(ResponseModel):
    """Number of images of one host that failed with the same error code."""

    host: str
    code: ImageErrorCode
    count: Count


class WaitingImages(ResponseModel):
    """Images that wait for a host: for another attempt, or until the host responds again."""

    host: str
    code: Annotated[ImageErrorCode, Field(description="Code of the latest error.")]
    message: Annotated[str, Field(description="What went wrong, for people.")]
    count: Count
    next_try_at: Annotated[Timestamp, Field(description="Time of the next attempt.")]


class WebhookState(ResponseModel):
    """Delivery state of the webhook."""

    url: Url
    status: Literal["pending", "delivered", "failed"]
    attempts: Annotated[Count, Field(description="Number of delivery attempts so far.")]
    last_error: Annotated[str | None, Field(description="Error of the last failed attempt.")]


class ImageErrorDetail(ResponseModel):
    """Why an image failed."""

    code: Annotated[ImageErrorCode, Field(description="Error code. Stable, for programs.")]
    message: Annotated[str, Field(description="What went wrong, for people.")]


class ImageDetail(ResponseModel):
    """One image. Until it is completed, the fields from `inputBytes` to `kept` are null."""

    input_url: Annotated[str, Field(description="URL of the source, as uploaded.")]
    output_url: Annotated[
        Url | None, Field(description="URL of the output. Null until the image is completed.")
    ]
    status: ImageStatus
    error: Annotated[
        ImageErrorDetail | None, Field(description="Null unless the image has failed.")
    ]
    attempts: Annotated[Count, Field(description="Number of attempts so far.")]
    input_bytes: Annotated[Count | None, Field(description="Size of the source.")]
    output_bytes: Annotated[Count | None, Field(description="Size of the output.")]
    width: Annotated[Count | None, Field(description="Width of the output in pixels.")]
    height: Annotated[Count | None, Field(description="Height of the output in pixels.")]
    input_format: Annotated[str | None, Field(description="Format of the source.")]
    output_format: Annotated[str | None, Field(description="Format of the output.")]
    source_quality: Annotated[
        int | None,
        Field(description="Quality of the source, 1 to 100. Null if its format records none."),
    ]
    quality: Annotated[
        int | None,
        Field(description="Quality of the output, 1 to 100. Null if the source was kept."),
    ]
    kept: Annotated[
        bool | None,
        Field(
            description="True if the output is the source without its metadata, because compressing "
            "did not make it smaller. Never with another `format`, or if the source must be shrunk."
        ),
    ]
    notes: Annotated[
        list[Note],
        Field(
            description="What the output lacks of the source: the gain map or the high dynamic range "
            "of an HDR image, or all frames but the first."
        ),
    ]
    reused: Annotated[Reuse | None, Field(description="What was not done again for this image.")]


class ProductDetail(ResponseModel):
    """One product: a row of the uploaded file."""

    serial_number: Annotated[str, Field(description="`S. No.` of the row.")]
    product_name: str
    status: ProductStatus
    images: Annotated[list[ImageDetail], Field(description="In the order of the row's URLs.")]
    errors: Annotated[list[ErrorItem], Field(description="Errors of a skipped row, else `[]`.")]


class RequestSummary(ResponseModel):
    """A request, as in a list of requests."""

    request_id: RequestId
    name: Name
    status: RequestStatus
    created_at: Timestamp
    finished_at: Annotated[
        Timestamp | None, Field(description="Null until the request has finished.")
    ]
    progress: ImageProgress
    bytes: ByteTotals


class RequestSettings(ResponseModel):
    """The settings that the images of a request are compressed with."""

    quality: Annotated[
        str,
        Field(
            description="`50%`: half of each source's own quality. `50`: the same for all images."
        ),
    ]
    format: Annotated[
        OutputFormat, Field(description="Format of the outputs. `keep`: the format of each source.")
    ]
    max_width: Annotated[Count, Field(description="Largest width in pixels. 0: no limit.")]
    max_height: Annotated[Count, Field(description="Largest height in pixels. 0: no limit.")]
    effort: Annotated[Effort, Field(description="`fast` or `small`.")]


class RequestState(RequestSummary):
    """The status of a request, without its products."""

    settings: RequestSettings
    layout: LayoutName
    skipped: Skipped
    started_at: Annotated[
        Timestamp | None,
        Field(description="Start of processing, or of the last retry. Null until then."),
    ]
    failures: Annotated[
        list[FailureSummary], Field(description="Failed images by host and error code.")
    ]
    waiting: Annotated[
        list[WaitingImages],
        Field(
            description="Images that wait for another attempt, by host: the 100 hosts with most "
            "images. If a host does not respond at all, all its unfinished images wait."
        ),
    ]
    webhook: Annotated[
        WebhookState | None, Field(description="Null if the upload set no `webhookUrl`.")
    ]
    expires_at: Annotated[
        Timestamp | None,
        Field(
            description="Time after which the request is deleted. Present only if "
            "`storage.retention_days` is set; null until the request has finished."
        ),
    ] = None


class StatusResponse(RequestState):
    """The status of a request. `products` and `productsTotal` are absent if `products=false`."""

    products: Annotated[
        list[ProductDetail] | None, Field(description="One page of the request's products.")
    ] = None
    products_total: Annotated[
        Count | None,
        Field(description="Number of products on all pages, skipped rows included."),
    ] = None


class ListTotals(ResponseModel):
    """Totals of all requests that the caller may see, on any page, with any name and status."""

    requests: Count
    images: Count
    input_bytes: Annotated[
        Count, Field(description="Size of the sources of completed images, in bytes.")
    ]
    output_bytes: Annotated[Count, Field(description="Size of their outputs, in bytes.")]


class RequestList(ResponseModel):
    """One page of requests, newest first."""

    requests: list[RequestSummary]
    next_cursor: Annotated[
        str | None, Field(description="`cursor` of the next page. Null on the last page.")
    ]
    totals: ListTotals


class WebhookEvent(RequestState):
    """Body of a webhook: sent by POST when the request has finished."""

    type: Literal["request.finished"]
    timestamp: Annotated[Timestamp, Field(description="Time of the event.")]


class HealthStatus(ResponseModel):
    """The service is healthy."""

    status: Literal["ok"]


class ApiKeyLogin(BaseModel):
    """An API key to sign in with."""

    api_key: Annotated[str, Field(alias="apiKey", description="One of the configured API keys.")]


class SessionStatus(ResponseModel):
    """Who makes the API call."""

    name: Annotated[
        str | None,
        Field(description="Name of the API key. Null if the service has no keys."),
    ]
    role: Annotated[
        Role,
        Field(
            description="`admin` may do everything, `read` only reads, and `submit` sees and changes "
            "only its own requests. More values may be added."
        ),
    ]
