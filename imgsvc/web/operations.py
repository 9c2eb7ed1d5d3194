"""Every operation in words: what `openapi.json` says of it besides the models' own schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from imgsvc.errors import ProblemCode
from imgsvc.web import responses
from imgsvc.web.options import ListQuery, NoOptions, Options, StatusQuery, UploadFields

C = ProblemCode


@dataclass(frozen=True, slots=True)
class Body:
    """An answer's content: its media type, and a model or `None` for what is no JSON."""

    media_type: str
    model: type[BaseModel] | None = None


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """One answer."""

    words: str
    bodies: tuple[Body, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: `answers` by status, and why it may be `refused`."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    answers: Mapping[int, ResponseSpec]
    words: str = ""
    query: type[Options] = NoOptions
    headers: tuple[str, ...] = ()
    refused: tuple[ProblemCode, ...] = ()
    takes: Mapping[str, type[BaseModel] | None] = field(default_factory=dict)
    public: bool = False
    always: bool = False


def json_of(model: type[BaseModel]) -> tuple[Body, ...]:
    return (Body("application/json", model),)


STATUS_HEADERS = ("ETag", "X-Request-Status", "X-Progress", "Retry-After")
_CSV = Body("text/csv")
_IMAGES = tuple(Body(f"image/{name}") for name in ("jpeg", "png", "webp", "gif", "avif", "heic"))
# The CSV's rarer names, application/csv and application/vnd.ms-excel, are taken too; but tools that
# read the description know no way to write them.
RAW_UPLOAD = (
    "text/csv",
    "text/plain",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
)

TAGS = {
    "Requests": "Upload a CSV, follow it, and get it back.",
    "Images": "What came out.",
    "SessionHandler": "For the page: a cookie instead of a key.",
    "Operations": "For whoever runs the service.",
}

OPERATIONS = (
    Operation(
        "post",
        "/processImages",
        "processImages",
        "Requests",
        "Upload a CSV of products and image URLs",
        {
            200: ResponseSpec("A dry run: the table is in order.", json_of(responses.DryRunResult)),
            201: ResponseSpec(
                "Accepted, and on disk.",
                json_of(responses.AcceptedUpload),
                ("Location", "Idempotent-Replayed"),
            ),
        },
        words="The body is the CSV itself, or a form in which the one part that has a file name is "
        "the CSV and the other fields are options. The table needs `Product Name` and `Input Image "
        "Urls`, may have `S. No.`, and keeps its further columns.",
        query=UploadFields,
        headers=("Idempotency-Key",),
        refused=(
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
        takes={**dict.fromkeys(RAW_UPLOAD), "multipart/form-data": UploadFields},
    ),
    Operation(
        "get",
        "/checkStatus/{requestId}",
        "checkStatus",
        "Requests",
        "How far a request is, as a CSV or as JSON",
        {
            200: ResponseSpec(
                "The status. `Accept` or `format` chooses the form; the CSV is the standard.",
                (_CSV, *json_of(responses.StatusResponse)),
                (*STATUS_HEADERS, "Content-Disposition"),
            ),
            304: ResponseSpec("Nothing has changed since `If-None-Match`.", (), STATUS_HEADERS),
        },
        query=StatusQuery,
        headers=("If-None-Match",),
        refused=(C.NOT_FOUND,),
    ),
    Operation(
        "get",
        "/watchStatus/{requestId}",
        "watchStatus",
        "Requests",
        "Progress as it happens (server-sent events)",
        {
            200: ResponseSpec(
                "Events `progress`, and `finished` at the end; their data is the status JSON without "
                "products.",
                (Body("text/event-stream"),),
            ),
            204: ResponseSpec("`Last-Event-ID` is the last event of a finished request."),
        },
        headers=("Last-Event-ID",),
        refused=(C.NOT_FOUND,),
    ),
    Operation(
        "get",
        "/listRequests",
        "listRequests",
        "Requests",
        "Requests, newest first",
        {200: ResponseSpec("A page of them.", json_of(responses.RequestList))},
        query=ListQuery,
    ),
    Operation(
        "post",
        "/cancelRequest/{requestId}",
        "cancelRequest",
        "Requests",
        "Cancel what is not done",
        {200: ResponseSpec("The status now.", json_of(responses.StatusResponse), STATUS_HEADERS)},
        words="Finished images stay; the request is finished, and its webhook goes out.",
        refused=(C.NOT_FOUND, C.ALREADY_FINISHED),
    ),
    Operation(
        "post",
        "/retryFailed/{requestId}",
        "retryFailed",
        "Requests",
        "Try failed images again",
        {202: ResponseSpec("The status now.", json_of(responses.StatusResponse), STATUS_HEADERS)},
        words="The request and its webhook finish anew.",
        refused=(C.NOT_FOUND, C.NOT_FINISHED, C.NOTHING_FAILED),
    ),
    Operation(
        "delete",
        "/deleteRequest/{requestId}",
        "deleteRequest",
        "Requests",
        "Delete a finished request, and the images that no other uses",
        {204: ResponseSpec("It is gone.")},
        refused=(C.NOT_FOUND, C.NOT_FINISHED),
    ),
    Operation(
        "get",
        "/downloadImages/{requestId}",
        "downloadImages",
        "Images",
        "The outputs there are, as one ZIP",
        {
            200: ResponseSpec(
                "Files named after the products; `errors.csv` where images failed.",
                (Body("application/zip"),),
                ("Content-Disposition",),
            )
        },
        refused=(C.NOT_FOUND, C.STORAGE_FULL),
    ),
    Operation(
        "get",
        "/images/{file}",
        "image",
        "Images",
        "One output, at the URL that the status gives",
        {
            200: ResponseSpec("The image.", _IMAGES, ("ETag",)),
            206: ResponseSpec("A range of it.", _IMAGES, ("ETag", "Content-Range")),
            304: ResponseSpec("It has not changed; it never does.", (), ("ETag",)),
        },
        headers=("If-None-Match", "Range"),
        refused=(C.NOT_FOUND, C.RANGE_NOT_SATISFIABLE),
        public=True,
        always=True,
    ),
    Operation(
        "post",
        "/session",
        "signIn",
        "SessionHandler",
        "Trade an API key for a cookie",
        {204: ResponseSpec("The cookie is valid wherever the key is.", (), ("Set-Cookie",))},
        takes={"application/json": responses.ApiKeyLogin},
        refused=(
            C.INVALID_BODY,
            C.UNAUTHORIZED,
            C.UPLOAD_STALLED,
            C.TOO_LARGE,
            C.UNSUPPORTED_MEDIA_TYPE,
        ),
        public=True,
        always=True,
    ),
    Operation(
        "delete",
        "/session",
        "signOut",
        "SessionHandler",
        "Give the cookie up",
        {204: ResponseSpec("It is gone.", (), ("Set-Cookie",))},
        public=True,
        always=True,
    ),
    Operation(
        "get",
        "/health/live",
        "live",
        "Operations",
        "Whether the process answers",
        {200: ResponseSpec("It does.", json_of(responses.HealthStatus))},
        public=True,
        always=True,
    ),
    Operation(
        "get",
        "/health/ready",
        "ready",
        "Operations",
        "Whether the service is fit for work",
        {200: ResponseSpec("It is.", json_of(responses.HealthStatus))},
        refused=(C.UNAVAILABLE,),
        public=True,
        always=True,
    ),
    Operation(
        "get",
        "/metrics",
        "metrics",
        "Operations",
        "Figures for Prometheus",
        {200: ResponseSpec("Prometheus' text format.", (Body("text/plain"),))},
        always=True,
    ),
)
"""Every operation but the pages' and the descriptions' own."""

PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "requestId": {
        "description": "The request's id, as the upload's answer gave it.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "file": {
        "description": "The last part of an output's URL.",
        "schema": {
            "type": "string",
            "pattern": "^([0-9a-f]{2}){16,17}\\.(jpg|png|webp|gif|avif|heic)$",
        },
    },
    "Idempotency-Key": {
        "description": "Makes it safe to send an upload again: the same key with the same table and "
        "options gives the first answer again.",
        "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    },
    "If-None-Match": {
        "description": "The `ETag` of an earlier answer.",
        "schema": {"type": "string"},
    },
    "Last-Event-ID": {
        "description": "The last event that an EventSource has seen.",
        "schema": {"type": "string"},
    },
    "Range": {"description": "Such as `bytes=0-1023`.", "schema": {"type": "string"}},
}

HEADERS: Mapping[str, Mapping[str, object]] = {
    "Location": {
        "description": "Where the request's status is.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Idempotent-Replayed": {
        "description": "`true` where an earlier upload's answer is given again.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "ETag": {
        "description": "Tells this version from any other.",
        "schema": {"type": "string"},
    },
    "X-Request-Status": {
        "description": "The request's status, without parsing.",
        "schema": {"type": "string"},
    },
    "X-Progress": {
        "description": "`done/total`; failed and cancelled images are done.",
        "schema": {"type": "string", "pattern": "^[0-9]+/[0-9]+$"},
    },
    "Retry-After": {
        "description": "Seconds after which it is worth asking again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Content-Disposition": {
        "description": "A name for the file.",
        "schema": {"type": "string"},
    },
    "Content-Range": {"description": "Which bytes these are.", "schema": {"type": "string"}},
    "Set-Cookie": {"description": "The session's cookie.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to send a key.", "schema": {"type": "string"}},
}
