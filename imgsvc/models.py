"""Domain models: immutable values that all parts of the service share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from imgsvc.errors import FileError, ImageErrorCode
from imgsvc.image_types import CompressionSettings, ImageInfo

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


IMAGE_TRANSITIONS: Mapping[ImageStatus, frozenset[ImageStatus]] = {
    ImageStatus.PENDING: frozenset(
        {ImageStatus.PROCESSING, ImageStatus.FAILED, ImageStatus.CANCELLED}
    ),
    ImageStatus.PROCESSING: frozenset(
        {
            ImageStatus.PENDING,
            ImageStatus.COMPLETED,
            ImageStatus.FAILED,
            ImageStatus.CANCELLED,
        }
    ),
    ImageStatus.FAILED: frozenset({ImageStatus.PENDING}),
    ImageStatus.CANCELLED: frozenset(),
    ImageStatus.COMPLETED: frozenset(),
}
"""The states that may follow each state. A failed image becomes pending only if a user retries it."""


class Reuse(StrEnum):
    """What the job of a completed image did not have to do again."""

    NOT_MODIFIED = "not-modified"
    """Its host said that the source is not modified since an earlier download."""
    SAME_BYTES = "same-bytes"
    """Its source was downloaded, and the output of these bytes existed."""
    SAME_URL = "same-url"
    """An earlier image of the same request has the same URL."""


class InvalidTransitionError(Exception):
    """A forbidden change of an image's state. This is always a bug, never a user's mistake."""


def check_transition(before: ImageStatus, after: ImageStatus) -> None:
    """Raise `InvalidTransitionError` unless an image may change from `before` to `after`."""
    if after not in IMAGE_TRANSITIONS[before]:
        raise InvalidTransitionError(f"an image that is {before} cannot become {after}")


class RequestStatus(StrEnum):
    """The state of a request or of one of its products."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


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


# --- the uploaded table ------------------------------------------------------------------------
# Tables have up to millions of rows and images. A named tuple is created twice as fast as a dataclass.


class ColumnRole(StrEnum):
    """The purpose of a column of the uploaded table.

    Cells of a `group` column are equal in the rows of one product. `dropped` columns are missing in the
    status: empty unnamed columns, and, in the standard layout, columns named like our output columns.
    """

    SERIAL = "serial"
    NAME = "name"
    IMAGE = "image"
    GROUP = "group"
    EXTRA = "extra"
    DROPPED = "dropped"

    @classmethod
    def _missing_(cls, value: object) -> ColumnRole | None:
        return cls.IMAGE if value == "urls" else None  # written by 1.0


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of the uploaded table, in its order: header text and role.

    `extra_positions` are the positions in `Product.extra` of the cells of the `group`, `extra` and
    `dropped` columns. Version 1.0 did not keep the dropped columns.
    """

    names: tuple[str, ...]
    roles: tuple[ColumnRole, ...]
    extra_positions: tuple[int, ...]

    @property
    def extra(self) -> tuple[str, ...]:
        """The names of the columns that the status adds to its own."""
        return tuple(n for n, r in zip(self.names, self.roles, strict=True) if r in STATUS_ROLES)


STATUS_ROLES = frozenset({ColumnRole.GROUP, ColumnRole.EXTRA})
"""The roles of the columns that the status adds to its own columns, unchanged."""


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The options of an upload that change how its table is read.

    `name_column` and `image_columns` are header texts, which replace the columns of a layout.
    `encoding` is a Python codec; None means that it is detected. With `allow_empty`, rows of the
    standard layout need no image. With `skip_invalid`, invalid rows are skipped instead of refusing the
    table.
    """

    name_column: str | None = None
    image_columns: tuple[str, ...] = ()
    encoding: str | None = None
    allow_empty: bool = False
    skip_invalid: bool = False


@dataclass(frozen=True, slots=True)
class InputTable:
    """The uploaded table without its rows.

    `layout` is the name of its layout; None means that version 1.0 read it, which stored too little to
    return it unchanged. `encoding` is a Python codec and `delimiter` a character; both are None for
    .xlsx. `has_mark` is whether the file began with a byte-order mark. `rows_above` are the records
    above the header.
    """

    columns: Columns
    layout: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    has_mark: bool = False
    rows_above: tuple[tuple[str, ...], ...] = ()


class ImageUrl(NamedTuple):
    """One image URL of a row.

    `text` is the user's spelling, trimmed, which is displayed. `fetch_url` is the valid ASCII form,
    which is sent. `host_url` is its `scheme://host:port`.
    """

    text: str
    fetch_url: str
    host_url: str


ImageCell = tuple[str, ...]
"""A cell of an image column, split: text, URL, text, URL, …, text. Joined, it is the cell.

It has 2n + 1 strings for n URLs. Each URL is as written, with its decoration, such as a leading
apostrophe. A cell without URLs is one string.
"""


class SourceCells(NamedTuple):
    """The cells of a row that its name and URLs alone do not rebuild.

    `name` is the cell of the name column, "" without one. `images` are the cells of the image columns,
    in the table's order.
    """

    name: str
    images: tuple[ImageCell, ...]


class Product(NamedTuple):
    """One row of the uploaded table.

    `row` is its number in the file. `extra` are its cells in the positions of
    `Columns.extra_positions`; a short row has fewer. It includes the cells of all unnamed columns,
    because only the last row shows which of these columns are empty.

    `first_position` is the position of its first image among the images of its group. `source` is None
    if the name cell is `name`, and the table has one image column, whose cell is the URLs separated by
    commas. A skipped row has `errors`, no images, and in `cells` its whole record.
    """

    row: int
    serial_number: str
    name: str
    images: tuple[ImageUrl, ...]
    extra: tuple[str, ...] = ()
    first_position: int = 1
    source: SourceCells | None = None
    cells: tuple[str, ...] = ()
    errors: tuple[FileError, ...] = ()


# --- requests, as stored in the database -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options of a request. `fresh`: download all sources, even if they are not modified."""

    settings: CompressionSettings
    webhook_url: str | None = None
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
class FailureCount:
    """The number of images of one host that failed with one code."""

    host: str
    code: ImageErrorCode
    count: int


@dataclass(frozen=True, slots=True)
class Request:
    """A user's request in one database snapshot. Times are in Unix seconds, UTC.

    `version` increases with every change that is visible in the status. `key` is the request's internal
    number in the database; it is never published. `input_bytes` and `output_bytes` are the totals of
    the completed images. The processing rate is measured from `measured_since`, when `measured_done`
    images were done; None means that the measurement has not started.
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
    columns: Columns
    options: RequestOptions
    webhook: DeliveryState | None = None
    failures: tuple[FailureCount, ...] = ()
    measured_since: float | None = None
    measured_done: int = 0
    reused: ReuseCounts = ReuseCounts()


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a product in a status. `file` is the public name of its output, `TOKEN.EXT`."""

    url: str
    status: ImageStatus
    attempts: int
    file: str | None = None
    info: ImageInfo | None = None
    error_code: ImageErrorCode | None = None
    error_message: str | None = None
    reused: Reuse | None = None


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One product in a status. `extra` are the cells of `Columns.extra`."""

    number: int
    serial_number: str
    name: str
    extra: tuple[str, ...]
    images: tuple[ImageRow, ...]

    @property
    def progress(self) -> Progress:
        """The number of the product's images in each state."""
        statuses = [image.status for image in self.images]
        return Progress(*map(statuses.count, ImageStatus))


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

    `not_before` is the earliest time of the next attempt in Unix seconds; 0 means now.
    """

    claim: Claim
    attempts: int
    not_before: float = 0.0


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
