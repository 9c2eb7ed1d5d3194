"""What the API answers: pydantic models that its description is made from, and JSON responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from imgsvc.errors import ImageErrorCode
from imgsvc.models import ImageStatus, RequestStatus

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Url = Annotated[str, Field(json_schema_extra={"format": "uri"})]
Count = Annotated[int, Field(ge=0)]


def json_response(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Render a body whose values JSON knows."""
    text = json.dumps(body, separators=(",", ":"))
    return web.Response(
        status=status, headers=headers, body=text.encode(), content_type="application/json"
    )


class ResponseModel(BaseModel):
    """A JSON object with camelCase keys, all of them always there."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True
    )


class ErrorItem(ResponseModel):
    """One of several causes of a refusal: a fault of the table, or of an option."""

    row: Annotated[
        int | None, Field(description="The record's number in the file; the header is 1.")
    ]
    column: str | None
    code: str
    message: str
    value: str | None
    option: Annotated[str | None, Field(description="Where it is an option's fault: its name.")] = (
        None
    )


class ProblemReport(ResponseModel):
    """Why a call was refused (RFC 9457)."""

    type: Annotated[str, Field(description="`urn:imgsvc:problem:` and a code that stays the same.")]
    title: str
    status: int
    detail: str
    errors: Annotated[
        list[ErrorItem] | None, Field(description="The several causes, at most 100 of them.")
    ] = None
    error_count: Annotated[int | None, Field(description="How many causes there are in all.")] = (
        None
    )


class AcceptedUpload(ResponseModel):
    """An upload was accepted, and is on disk."""

    request_id: str
    status: Literal["pending"]
    products: Count
    images: Count
    status_url: Url
    created_at: Time


class DryRunResult(ResponseModel):
    """A table is in order; nothing was stored."""

    products: Count
    images: Count


class ImageProgress(ResponseModel):
    """Images by state."""

    total: Count
    pending: Count
    processing: Count
    completed: Count
    failed: Count
    cancelled: Count
    percent: Annotated[int, Field(ge=0, le=100, description="Done, failed and cancelled included.")]
    eta_seconds: Annotated[
        int | None,
        Field(description="Seconds to the end at the measured rate; null: not known yet."),
    ]


class ByteTotals(ResponseModel):
    """Bytes of completed images, before and after."""

    input: Count
    output: Count
    saved_percent: Annotated[float | None, Field(description="Null while nothing is completed.")]


class FailureSummary(ResponseModel):
    """So many images of a host failed with a code."""

    host: str
    code: ImageErrorCode
    count: Count


class WebhookState(ResponseModel):
    """Where the webhook stands."""

    url: Url
    status: Literal["pending", "delivered", "failed"]
    attempts: Count
    last_error: str | None


class ImageErrorDetail(ResponseModel):
    """Why an image failed."""

    code: ImageErrorCode
    message: str


class ImageDetail(ResponseModel):
    """An image; what is known of its picture is null unless it is completed."""

    input_url: str
    output_url: Url | None
    status: ImageStatus
    error: ImageErrorDetail | None
    attempts: Count
    input_bytes: Count | None
    output_bytes: Count | None
    width: Count | None
    height: Count | None
    input_format: str | None
    output_format: str | None
    source_quality: Annotated[
        int | None, Field(description="1 to 100; null where the source's format records none.")
    ]
    quality: Annotated[
        int | None, Field(description="1 to 100; null where the source's own picture was kept.")
    ]
    kept: Annotated[
        bool | None, Field(description="Whether compressing would not have made it smaller.")
    ]


class ProductDetail(ResponseModel):
    """A row of the table."""

    serial_number: str
    product_name: str
    status: RequestStatus
    images: list[ImageDetail]


class RequestSummary(ResponseModel):
    """A request, as a list shows it."""

    request_id: str
    status: RequestStatus
    created_at: Time
    finished_at: Time | None
    progress: ImageProgress
    bytes: ByteTotals


class RequestState(RequestSummary):
    """A request's status without its products."""

    started_at: Time | None
    failures: list[FailureSummary]
    webhook: WebhookState | None
    expires_at: Annotated[
        Time | None, Field(description="There where storage.retention_days is set.")
    ] = None


class StatusResponse(RequestState):
    """A request's status. `products` and `productsTotal` are there unless `products=false`."""

    products: list[ProductDetail] | None = None
    products_total: Count | None = None


class RequestList(ResponseModel):
    """Requests, newest first."""

    requests: list[RequestSummary]
    next_cursor: Annotated[str | None, Field(description="Null: there are no older ones.")]


class WebhookEvent(RequestState):
    """What a webhook is told."""

    type: Literal["request.finished"]
    timestamp: Time


class HealthStatus(ResponseModel):
    """The service is well."""

    status: Literal["ok"]


class ApiKeyLogin(BaseModel):
    """What is traded for a session."""

    api_key: Annotated[str, Field(alias="apiKey")]
