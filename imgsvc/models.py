"""The nouns: what the service speaks of, in plain immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from imgsvc.errors import ImageErrorCode
from imgsvc.image_types import CompressionSettings, ImageInfo


class ImageStatus(StrEnum):
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
"""The legal moves of an image. A failed one moves only when its user asks for a retry."""


class InvalidTransitionError(Exception):
    """An image was to move between two states that no arrow joins: a bug, never a user's doing."""


def check_transition(before: ImageStatus, after: ImageStatus) -> None:
    """Raise `InvalidTransitionError` unless an image may go from `before` to `after`."""
    if after not in IMAGE_TRANSITIONS[before]:
        raise InvalidTransitionError(f"an image that is {before} cannot become {after}")


class RequestStatus(StrEnum):
    """The state of a request, and of one row of it."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Progress:
    """How many images of a request or a row are in which state."""

    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.pending + self.processing + self.completed + self.failed + self.cancelled

    @property
    def done(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def finished(self) -> bool:
        return not self.pending and not self.processing

    @property
    def status(self) -> RequestStatus:
        """The one word for these counts; the same rule serves rows and requests."""
        if not self.finished:
            return (
                RequestStatus.PROCESSING if self.processing or self.done else RequestStatus.PENDING
            )
        if self.cancelled:
            return RequestStatus.CANCELLED
        if not self.failed:
            return RequestStatus.COMPLETED
        return RequestStatus.PARTIAL if self.completed else RequestStatus.FAILED


# --- the table that comes in -------------------------------------------------------------------
# Its rows and their images come by the million, and a named tuple is made in half a dataclass's time.


class ColumnRole(StrEnum):
    """What a column of the uploaded table is for."""

    SERIAL = "serial"
    NAME = "name"
    URLS = "urls"
    EXTRA = "extra"


@dataclass(frozen=True, slots=True)
class Columns:
    """The uploaded table's own columns, in their order: header text and role.

    Columns that are dropped (empty unnamed ones, those with the names of our own output columns) are
    not among them. `extra_positions` tells where in `Product.extra` the cells of the `extra` columns stand.
    """

    names: tuple[str, ...]
    roles: tuple[ColumnRole, ...]
    extra_positions: tuple[int, ...]

    @property
    def extra(self) -> tuple[str, ...]:
        return tuple(
            n for n, r in zip(self.names, self.roles, strict=True) if r is ColumnRole.EXTRA
        )


class ImageUrl(NamedTuple):
    """One image URL of a row.

    `given` is the user's spelling, trimmed, and what is shown; `fetched` is the valid ASCII form that
    goes on the wire; `host_url` is its `scheme://host:port`.
    """

    given: str
    fetched: str
    host_url: str


class Product(NamedTuple):
    """One row of the uploaded table.

    `extra` are the cells of its further columns (`Columns.extra_positions`), but for those that it ends before.
    Any column without a name has cells there, as only the last row tells which of them are empty.
    """

    row: int
    serial_number: str
    name: str
    images: tuple[ImageUrl, ...]
    extra: tuple[str, ...] = ()


# --- requests, as the database gives them ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What a user asked for beside the table itself."""

    settings: CompressionSettings
    webhook_url: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """Where the request's latest webhook stands: `pending`, `delivered` or `failed`."""

    url: str
    status: str
    attempts: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class FailureCount:
    """So many images of one host failed with one code."""

    host: str
    code: ImageErrorCode
    count: int


@dataclass(frozen=True, slots=True)
class Request:
    """A user's request, as one database snapshot shows it. Times are Unix seconds, UTC.

    `version` grows with every change that a status shows. `key` is the database's own number for the
    request, which never leaves the service. `input_bytes` and `output_bytes` count completed images.
    Its rate is measured since `measured_since` (None: not yet), when `measured_done` images were done.
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


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a product, as a status shows it. `file` is its public name, `TOKEN.EXT`."""

    url: str
    status: ImageStatus
    attempts: int
    file: str | None = None
    info: ImageInfo | None = None
    error_code: ImageErrorCode | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One row of a request, as a status shows it. `extra` are the cells of `Columns.extra`."""

    number: int
    serial_number: str
    name: str
    extra: tuple[str, ...]
    images: tuple[ImageRow, ...]

    @property
    def progress(self) -> Progress:
        statuses = [image.status for image in self.images]
        return Progress(*map(statuses.count, ImageStatus))


# --- work ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """An image that is this process's to do, together with those of its request that share its URL.

    `numbers` are the images' numbers within the request; the first one's `token` names the file that
    the outcome is written to.
    """

    request_key: int
    request_id: str
    numbers: tuple[int, ...]
    token: str
    url: str
    host_url: str
    attempts: int
    settings: CompressionSettings


@dataclass(frozen=True, slots=True)
class Completed:
    """The claim's image is stored.

    `source_digest` is the SHA-256 of the source's bytes; `file` names the stored file, `TOKEN.EXT`,
    which is this claim's own or that of an earlier image with the same source and settings.
    """

    claim: Claim
    source_digest: bytes
    file: str
    info: ImageInfo


@dataclass(frozen=True, slots=True)
class Failed:
    """The claim's image failed for good. `attempts` counts this one, where one was made."""

    claim: Claim
    attempts: int
    code: ImageErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Requeued:
    """The claim's image waits again, until `not_before` (Unix seconds; 0: no longer)."""

    claim: Claim
    attempts: int
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The claim's image was given up because its request was cancelled."""

    claim: Claim


Outcome = Completed | Failed | Requeued | Cancelled


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook that is to be sent. `body` is the JSON text; `attempts` were made before."""

    delivery_id: str
    request_key: int
    request_id: str
    url: str
    body: str
    attempts: int


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A request has just finished; what `events` tells whoever watches."""

    request_key: int
    request_id: str
    status: RequestStatus
    progress: Progress = field(default_factory=Progress)
