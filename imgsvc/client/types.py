"""Types of what the client sends and returns: the options and the JSON of the HTTP API.

The values that the client returns have the fields of the API's JSON, by their names there. A newer
service may add fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict


class RowError(TypedDict):
    """An error of a file or of a row. `row` is the row's number in the file, the header being 1."""

    row: int | None
    column: str | None
    code: str
    message: str
    value: str | None


class RepeatArguments(TypedDict, total=False):
    """Options of a request that do not change how its file is read. Those left out have defaults.

    `quality`: `"50%"` (relative) or 1 to 100. `max_width`, `max_height`: pixels; 0: no limit.
    """

    webhook_url: str
    quality: str | int
    format: Literal["keep", "jpeg", "webp", "avif", "png"]
    max_width: int
    max_height: int
    effort: Literal["fast", "small"]
    name: str
    fresh: bool


class UploadArguments(RepeatArguments, total=False):
    """Options of an upload."""

    name_column: str
    image_column: str | Sequence[str]
    encoding: str
    allow_empty: bool
    on_invalid: Literal["refuse", "skip"]


class DownloadArguments(TypedDict, total=False):
    """Options of the downloaded table."""

    format: Literal["csv", "xlsx"]
    layout: Literal["standard", "input"]
    failed: Literal["keep", "empty"]
    only: Literal["failed"]
    excel: bool
    encoding: Literal["input"]


class Upload(TypedDict):
    """How a file was read."""

    products: int
    images: int
    name: str | None
    layout: str | None
    encoding: str | None
    skipped: int
    errors: list[RowError]
    errorCount: int


class AcceptedRequest(Upload):
    """A request that the service has stored."""

    requestId: str
    status: str
    statusUrl: str
    createdAt: str


class Column(TypedDict):
    """A column of a file, and its role."""

    name: str
    role: str


class PreviewRow(TypedDict):
    """One of the first products of a file."""

    row: int
    serialNumber: str
    productName: str
    inputUrls: list[str]


class CheckedFile(Upload):
    """How a file would be read. Nothing is stored."""

    columns: list[Column]
    delimiter: str | None
    preview: list[PreviewRow]


class Reused(TypedDict):
    """Number of completed images, by what they reused."""

    downloaded: int
    notModified: int
    sameBytes: int
    sameUrl: int


class StatusProgress(TypedDict):
    """Number of images in each status."""

    total: int
    pending: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    percent: int
    etaSeconds: int | None
    reused: Reused


class Bytes(TypedDict):
    """Sizes of the completed images."""

    input: int
    output: int
    savedPercent: float | None


class Failures(TypedDict):
    """Failed images of one host with one error code."""

    host: str
    code: str
    count: int


class Waiting(TypedDict):
    """Images of one host that wait for another attempt."""

    host: str
    code: str
    message: str
    count: int
    nextTryAt: str | None


class Webhook(TypedDict):
    """The delivery of a request's webhook."""

    url: str
    status: str
    attempts: int
    lastError: str | None


class Settings(TypedDict):
    """The settings that a request's images are compressed with."""

    quality: str
    format: str
    maxWidth: int
    maxHeight: int
    effort: str


class ImageFailure(TypedDict):
    """Why an image failed."""

    code: str
    message: str


class StatusImage(TypedDict):
    """One image. Fields from `inputBytes` to `kept` are None until it is completed."""

    inputUrl: str
    outputUrl: str | None
    status: str
    error: ImageFailure | None
    attempts: int
    inputBytes: int | None
    outputBytes: int | None
    width: int | None
    height: int | None
    inputFormat: str | None
    outputFormat: str | None
    sourceQuality: int | None
    quality: int | None
    kept: bool | None
    notes: list[str]
    reused: str | None


class StatusProduct(TypedDict):
    """One row of the file."""

    serialNumber: str
    productName: str
    status: str
    images: list[StatusImage]
    errors: list[RowError]


class ListedRequest(TypedDict):
    """A request, as in a list."""

    requestId: str
    name: str | None
    status: str
    createdAt: str
    finishedAt: str | None
    progress: StatusProgress
    bytes: Bytes


class Status(ListedRequest):
    """The status of a request. Times are RFC 3339, in UTC."""

    settings: Settings
    layout: str | None
    skipped: int
    startedAt: str | None
    failures: list[Failures]
    waiting: list[Waiting]
    webhook: Webhook | None
    expiresAt: NotRequired[str | None]
    products: NotRequired[list[StatusProduct]]
    productsTotal: NotRequired[int]


class Totals(TypedDict):
    """Totals of all requests that the caller may see. Sizes are bytes."""

    requests: int
    images: int
    inputBytes: int
    outputBytes: int


class RequestPage(TypedDict):
    """One page of requests, newest first."""

    requests: list[ListedRequest]
    nextCursor: str | None
    totals: Totals
