"""Domain models: immutable values that all parts of the service share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from imgsvc.errors import FileError, ImageError, ImageErrorCode
from imgsvc.image_types import CompressionSettings, ImageInfo
from imgsvc.table_types import InputTable, SourceCells

SECONDS_PER_DAY = 86_400.0
StatusJson = Mapping[str, Any]
"""A request's status, in the JSON form of the API."""


class ImageStatus(StrEnum):
    """The state of an image."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reuse(StrEnum):
    """What the job of a completed image did not have to do again."""

    NOT_MODIFIED = "not-modified"
    """Its host said that the source is not modified since an earlier download."""
    SAME_BYTES = "same-bytes"
    """Its source was downloaded, and the output of these bytes existed."""
    SAME_URL = "same-url"
    """An earlier image of the same request has the same URL."""


class RequestStatus(StrEnum):
    """The state of a request."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ProductStatus(StrEnum):
    """The state of a product: that of its images, or `skipped` for an invalid row that was left out.

    The other members come from `RequestStatus`, so type checkers know only `SKIPPED`.
    """

    vars().update({each.name: each.value for each in RequestStatus})
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Progress:
    """The number of images in each state, of a request or a product."""

    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """The number of all images."""
        return self.pending + self.processing + self.completed + self.failed + self.cancelled

    @property
    def done(self) -> int:
        """The number of completed, failed and cancelled images."""
        return self.completed + self.failed + self.cancelled

    @property
    def finished(self) -> bool:
        """Whether all images are done."""
        return not self.pending and not self.processing

    @property
    def status(self) -> RequestStatus:
        """The status that follows from these counts. The rule is the same for products and requests."""
        if not self.finished:
            return (
                RequestStatus.PROCESSING if self.processing or self.done else RequestStatus.PENDING
            )
        if self.cancelled:
            return RequestStatus.CANCELLED
        if not self.failed:
            return RequestStatus.COMPLETED
        return RequestStatus.PARTIAL if self.completed else RequestStatus.FAILED


# --- requests, as stored in the database -------------------------------------------------------


MAX_REQUEST_NAME = 200
"""Maximum length of a request's display name, in characters."""


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options of a request.

    `name` is its display name. `fresh`: download all sources, even if they are not modified.
    """

    settings: CompressionSettings
    webhook_url: str | None = None
    name: str | None = None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class ReuseCounts:
    """The number of completed images of a request by what they reused."""

    not_modified: int = 0
    same_bytes: int = 0
    same_url: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """The state of the request's latest webhook. `status` is `pending`, `delivered` or `failed`."""

    url: str
    status: str
    attempts: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """Totals: unfinished requests, their pending and processing images, and webhooks to send."""

    requests: int
    pending: int
    processing: int
    webhooks: int


@dataclass(frozen=True, slots=True)
class RequestTotals:
    """The number of requests and of their images, and the bytes of the completed images."""

    requests: int
    images: int
    input_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True)
class FailureCount:
    """The number of images of one host that failed with one code."""

    host: str
    code: ImageErrorCode
    count: int


@dataclass(frozen=True, slots=True)
class WaitingHost:
    """Images of a request that wait for one host: the latest error, and the time of the next attempt.

    They wait for another attempt, or until the host's circuit closes. `next_try_at` is in Unix seconds.
    """

    host: str
    code: ImageErrorCode
    message: str
    count: int
    next_try_at: float


@dataclass(frozen=True, slots=True)
class Request:
    """A user's request in one database snapshot. Times are in Unix seconds, UTC.

    `version` increases with every change that is visible in the status. `key` is the request's internal
    number in the database; it is never published. `input_bytes` and `output_bytes` are the totals of
    the completed images. The processing rate is measured from `measured_since`, when `measured_done`
    images were done; None means that the measurement has not started.

    `products` is the number of valid rows, `skipped` that of rows left out, `error_count` that of the
    errors in them. `waiting_images` is the number of images that wait for any host, and `waiting` are
    the hosts with most of them. A request in a list has a `table` without columns, no `failures` and no
    `waiting`.
    """

    key: int
    request_id: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    version: int
    products: int
    progress: Progress
    input_bytes: int
    output_bytes: int
    table: InputTable
    options: RequestOptions
    skipped: int = 0
    error_count: int = 0
    webhook: DeliveryState | None = None
    failures: tuple[FailureCount, ...] = ()
    waiting: tuple[WaitingHost, ...] = ()
    waiting_images: int = 0
    measured_since: float | None = None
    measured_done: int = 0
    reused: ReuseCounts = ReuseCounts()


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a product in a status.

    `file` is the name of its output, `TOKEN.EXT`. `slug` is the readable part of its URL; None: it has
    none, because version 1.0 completed the image.
    """

    url: str
    status: ImageStatus
    attempts: int
    file: str | None = None
    info: ImageInfo | None = None
    error_code: ImageErrorCode | None = None
    error_message: str | None = None
    reused: Reuse | None = None
    slug: str | None = None

    @property
    def public_path(self) -> str | None:
        """The end of the output's URL: `TOKEN/SLUG.EXT`, or `TOKEN.EXT`. None without an output."""
        if self.file is None or self.slug is None:
            return self.file
        token, _, extension = self.file.partition(".")
        return f"{token}/{self.slug}.{extension}"


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One product in a status.

    `extra` are the cells of `Columns.extra`. A whole row has the cells of all
    `Columns.extra_positions` there, and `source` as in `Product`. If `images` are only some of the
    row's images, `positions` are their positions among all of them, from 0. `cells` and `errors` are
    as in `Product`.
    """

    number: int
    serial_number: str
    name: str
    extra: tuple[str, ...]
    images: tuple[ImageRow, ...]
    source: SourceCells | None = None
    positions: tuple[int, ...] | None = None
    cells: tuple[str, ...] = ()
    errors: tuple[FileError, ...] = ()

    @property
    def progress(self) -> Progress:
        """The number of the product's images in each state."""
        statuses = [image.status for image in self.images]
        return Progress(*map(statuses.count, ImageStatus))

    @property
    def status(self) -> ProductStatus:
        """The state of the product."""
        return ProductStatus.SKIPPED if self.errors else ProductStatus(self.progress.status)


# --- jobs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Validators:
    """The `ETag` and `Last-Modified` of a source, as its host sent them.

    `url_key` is that of the URL that sent them: after redirects, not the image's URL.
    """

    url_key: bytes
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """A source that has been downloaded before: its SHA-256, and its validators then."""

    digest: bytes
    validators: Validators


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed image, together with the images of the same request that have the same URL.

    `claim_id` is unique in this process. `numbers` are the numbers of these images within the request.
    `conditions` are None if the source has to be downloaded whole.
    """

    claim_id: int
    request_key: int
    request_id: str
    numbers: tuple[int, ...]
    url: str
    host_url: str
    attempts: int
    settings: CompressionSettings
    conditions: Conditions | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """The output of the claimed image is stored.

    `source_digest` is the SHA-256 of the source's bytes. `info` is None if an earlier image with the
    same source and settings has stored the output. `validators` are None if nothing was downloaded.
    `reused` is that of the claim's first image.
    """

    claim: Claim
    source_digest: bytes
    info: ImageInfo | None = None
    validators: Validators | None = None
    reused: Reuse | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The claimed image failed permanently. `attempts` includes this attempt, if one was made."""

    claim: Claim
    attempts: int
    code: ImageErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Requeued:
    """The claimed image is requeued.

    `not_before` is the earliest time of the next attempt in Unix seconds; 0 means now. `error` is that
    of the attempt, if one failed.
    """

    claim: Claim
    attempts: int
    not_before: float = 0.0
    error: ImageError | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The claimed image is cancelled because its request was cancelled."""

    claim: Claim


Outcome = Completed | Failed | Requeued | Cancelled


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook to send. `body` is JSON text; `attempts` is the number of earlier attempts."""

    delivery_id: str
    request_key: int
    request_id: str
    url: str
    body: str
    attempts: int


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request that has just finished. Subscribers to its status are notified."""

    request_key: int
    request_id: str
    status: RequestStatus
    progress: Progress = field(default_factory=Progress)
