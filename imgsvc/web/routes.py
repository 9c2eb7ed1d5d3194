"""The operations, parameters and headers of the OpenAPI document, apart from the models' schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from imgsvc.errors import ProblemCode
from imgsvc.web.schema import responses
from imgsvc.web.schema.options import ListQuery, NoOptions, Options, StatusQuery, UploadFields

C = ProblemCode


@dataclass(frozen=True, slots=True)
class MediaType:
    """One content type of a response. `model` is None if the content is not JSON."""

    name: str
    model: type[BaseModel] | None = None


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A successful response: its description, content types and headers."""

    description: str
    content: tuple[MediaType, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """An OpenAPI operation.

    `responses` has the successful responses by HTTP status; `errors` the problem codes that not all
    operations share. `request_body` has a model, or None for raw text, by media type. A `public`
    operation needs no API key.
    """

    method: str
    path: str
    operation_id: str
    tag: str
    summary: str
    responses: Mapping[int, ResponseSpec]
    description: str = ""
    query: type[Options] = NoOptions
    headers: tuple[str, ...] = ()
    errors: tuple[ProblemCode, ...] = ()
    request_body: Mapping[str, type[BaseModel] | None] = field(default_factory=dict)
    public: bool = False
    available_while_starting: bool = False


def json_content(model: type[BaseModel]) -> tuple[MediaType, ...]:
    """Return the content of a JSON response."""
    return (MediaType("application/json", model),)


STATUS_HEADERS = ("ETag", "X-Request-Status", "X-Progress", "Retry-After")
_CSV = MediaType("text/csv")
_IMAGE_TYPES = tuple(
    MediaType(f"image/{name}") for name in ("jpeg", "png", "webp", "gif", "avif", "heic")
)
# application/csv and application/vnd.ms-excel are accepted too, but left out here: tools that read
# the OpenAPI document cannot send them.
RAW_UPLOAD_TYPES = (
    "text/csv",
    "text/plain",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
)

TAGS = {
    "Requests": "Upload a CSV, follow its progress, and download the result.",
    "Images": "Download the compressed images.",
    "Sessions": "Sign in with a session cookie instead of sending an API key. Used by the web page.",
    "Operations": "Health checks and metrics for running the service.",
}

OPERATIONS = (
    Operation(
        "post",
        "/processImages",
        "processImages",
        "Requests",
        "Upload a CSV of products with image URLs",
        {
            200: ResponseSpec("Dry run: the CSV is valid.", json_content(responses.DryRunResult)),
            201: ResponseSpec(
                "Accepted and stored.",
                json_content(responses.AcceptedUpload),
                ("Location", "Idempotent-Replayed"),
            ),
        },
        description="Send the CSV as the body, and options in the query string. Or send a form: its "
        "one part with a file name is the CSV, and its other fields are options. The columns `Product "
        "Name` and `Input Image Urls` are required and `S. No.` is optional. All other columns are "
        "returned unchanged.",
        query=UploadFields,
        headers=("Idempotency-Key",),
        errors=(
            C.INVALID_CSV,
            C.INVALID_BODY,
            C.UPLOAD_STALLED,
            C.IDEMPOTENCY_KEY_BUSY,
            C.TOO_LARGE,
            C.TOO_MANY_IMAGES,
            C.UNSUPPORTED_MEDIA_TYPE,
            C.IDEMPOTENCY_KEY_REUSED,
            C.TOO_MUCH_WAITING,
            C.STORAGE_FULL,
        ),
        request_body={**dict.fromkeys(RAW_UPLOAD_TYPES), "multipart/form-data": UploadFields},
    ),
    Operation(
        "get",
        "/checkStatus/{requestId}",
        "checkStatus",
        "Requests",
        "Get the status of a request, as CSV or JSON",
        {
            200: ResponseSpec(
                "The status. `Accept` or `format` selects the format; the default is CSV.",
                (_CSV, *json_content(responses.StatusResponse)),
                (*STATUS_HEADERS, "Content-Disposition"),
            ),
            304: ResponseSpec(
                "Not changed since the version in `If-None-Match`.", (), STATUS_HEADERS
            ),
        },
        query=StatusQuery,
        headers=("If-None-Match",),
        errors=(C.NOT_FOUND,),
    ),
    Operation(
        "get",
        "/watchStatus/{requestId}",
        "watchStatus",
        "Requests",
        "Follow the progress of a request (server-sent events)",
        {
            200: ResponseSpec(
                "`progress` events, then one `finished` event. The data of each event is the status "
                "JSON without `products`.",
                (MediaType("text/event-stream"),),
            ),
            204: ResponseSpec("The request has finished and `Last-Event-ID` is its last event."),
        },
        headers=("Last-Event-ID",),
        errors=(C.NOT_FOUND,),
    ),
    Operation(
        "get",
        "/listRequests",
        "listRequests",
        "Requests",
        "List requests, newest first",
        {200: ResponseSpec("One page of requests.", json_content(responses.RequestList))},
        query=ListQuery,
    ),
    Operation(
        "post",
        "/cancelRequest/{requestId}",
        "cancelRequest",
        "Requests",
        "Cancel a request",
        {
            200: ResponseSpec(
                "The new status.", json_content(responses.StatusResponse), STATUS_HEADERS
            )
        },
        description="Cancels all images that are waiting or being downloaded. Images in a worker are "
        "completed, and finished images stay. Then the request is finished and its webhook is sent.",
        errors=(C.NOT_FOUND, C.ALREADY_FINISHED),
    ),
    Operation(
        "post",
        "/retryFailed/{requestId}",
        "retryFailed",
        "Requests",
        "Retry failed images",
        {
            202: ResponseSpec(
                "The new status.", json_content(responses.StatusResponse), STATUS_HEADERS
            )
        },
        description="The request runs again. When it has finished, its webhook is sent again.",
        errors=(C.NOT_FOUND, C.NOT_FINISHED, C.NOTHING_FAILED),
    ),
    Operation(
        "delete",
        "/deleteRequest/{requestId}",
        "deleteRequest",
        "Requests",
        "Delete a finished request",
        {204: ResponseSpec("Deleted.")},
        description="Also deletes the stored images that no other request uses.",
        errors=(C.NOT_FOUND, C.NOT_FINISHED),
    ),
    Operation(
        "get",
        "/downloadImages/{requestId}",
        "downloadImages",
        "Images",
        "Download all finished images as a ZIP",
        {
            200: ResponseSpec(
                "The images, named after their products, and `errors.csv` if any image failed.",
                (MediaType("application/zip"),),
                ("Content-Disposition",),
            )
        },
        errors=(C.NOT_FOUND, C.STORAGE_FULL),
    ),
    Operation(
        "get",
        "/images/{file}",
        "image",
        "Images",
        "Download one image, from the URL in the status",
        {
            200: ResponseSpec("The image.", _IMAGE_TYPES, ("ETag",)),
            206: ResponseSpec(
                "The requested range of the image.", _IMAGE_TYPES, ("ETag", "Content-Range")
            ),
            304: ResponseSpec("Not changed. An image at a URL never changes.", (), ("ETag",)),
        },
        headers=("If-None-Match", "Range"),
        errors=(C.NOT_FOUND, C.RANGE_NOT_SATISFIABLE),
        public=True,
        available_while_starting=True,
    ),
    Operation(
        "post",
        "/session",
        "signIn",
        "Sessions",
        "Sign in",
        {
            204: ResponseSpec(
                "Signed in. The session cookie is accepted wherever the key is.",
                (),
                ("Set-Cookie",),
            )
        },
        request_body={"application/json": responses.ApiKeyLogin},
        errors=(
            C.INVALID_BODY,
            C.UNAUTHORIZED,
            C.UPLOAD_STALLED,
            C.TOO_LARGE,
            C.UNSUPPORTED_MEDIA_TYPE,
        ),
        public=True,
        available_while_starting=True,
    ),
    Operation(
        "delete",
        "/session",
        "signOut",
        "Sessions",
        "Sign out",
        {204: ResponseSpec("Signed out. The cookie is deleted.", (), ("Set-Cookie",))},
        public=True,
        available_while_starting=True,
    ),
    Operation(
        "get",
        "/health/live",
        "live",
        "Operations",
        "Check liveness",
        {200: ResponseSpec("The process is running.", json_content(responses.HealthStatus))},
        public=True,
        available_while_starting=True,
    ),
    Operation(
        "get",
        "/health/ready",
        "ready",
        "Operations",
        "Check readiness",
        {200: ResponseSpec("Ready to process requests.", json_content(responses.HealthStatus))},
        errors=(C.UNAVAILABLE,),
        public=True,
        available_while_starting=True,
    ),
    Operation(
        "get",
        "/metrics",
        "metrics",
        "Operations",
        "Get metrics for Prometheus",
        {200: ResponseSpec("Metrics in the Prometheus text format.", (MediaType("text/plain"),))},
        available_while_starting=True,
    ),
)
"""All operations, except the web pages and the API documents themselves."""

PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "requestId": {
        "description": "ID of the request, from the response to the upload.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "file": {
        "description": "File name of the output: the last part of its URL.",
        "schema": {
            "type": "string",
            "pattern": "^([0-9a-f]{2}){16,17}\\.(jpg|png|webp|gif|avif|heic)$",
        },
    },
    "Idempotency-Key": {
        "description": "Makes an upload safe to repeat: the same key with the same CSV and options "
        "returns the first response again. 1 to 255 printable ASCII characters.",
        "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    },
    "If-None-Match": {
        "description": "`ETag` of an earlier response.",
        "schema": {"type": "string"},
    },
    "Last-Event-ID": {
        "description": "ID of the last event received. Browsers send it when they reconnect.",
        "schema": {"type": "string"},
    },
    "Range": {"description": "Byte range, such as `bytes=0-1023`.", "schema": {"type": "string"}},
}

HEADERS: Mapping[str, Mapping[str, object]] = {
    "Location": {
        "description": "URL of the request's status.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotent-Replayed": {
        "description": "`true` if this is the response to an earlier upload with the same key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "ETag": {
        "description": "Identifies this version of the response.",
        "schema": {"type": "string"},
    },
    "X-Request-Status": {
        "description": "Status of the request.",
        "schema": {"type": "string"},
    },
    "X-Progress": {
        "description": "`done/total`, in images. Failed and cancelled images count as done.",
        "schema": {"type": "string", "pattern": "^[0-9]+/[0-9]+$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next API call.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Content-Disposition": {
        "description": "Suggested file name.",
        "schema": {"type": "string"},
    },
    "Content-Range": {
        "description": "Position of the range in the image.",
        "schema": {"type": "string"},
    },
    "Set-Cookie": {"description": "The session cookie.", "schema": {"type": "string"}},
    "WWW-Authenticate": {
        "description": "Accepted way to send an API key.",
        "schema": {"type": "string"},
    },
}
