"""Errors. Each has a code for programs and a sentence for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class FileErrorCode(StrEnum):
    """Reasons why an uploaded table is invalid."""

    EMPTY_FILE = "empty_file"
    NOT_CSV = "not_csv"
    BAD_ENCODING = "bad_encoding"
    MISSING_COLUMN = "missing_column"
    DUPLICATE_COLUMN = "duplicate_column"
    NO_ROWS = "no_rows"
    WRONG_CELL_COUNT = "wrong_cell_count"
    EMPTY_VALUE = "empty_value"
    TOO_LONG = "too_long"
    INVALID_URL = "invalid_url"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    TOO_MANY_URLS = "too_many_urls"
    UNCLOSED_QUOTE = "unclosed_quote"
    CONTROL_CHARACTER = "control_character"


class Suggestion(NamedTuple):
    """An option of the upload that may avoid an error: its name, its value, and text it would read."""

    option: str
    value: str
    example: str


@dataclass(frozen=True, slots=True)
class FileError:
    """One error in an uploaded table.

    `row` is the record's number as a spreadsheet program shows it (the header is 1), and `column` the
    column's name as the header spells it. Both are None if the error concerns the whole file. `value`
    is the invalid text, shortened. `cells` are the row's cells, shortened: those of the columns in
    `ProblemError.columns`, then the surplus ones. It is None if the row has no readable cells.
    `suggestions` are for errors of the whole file or its header, the likeliest first.
    """

    code: FileErrorCode
    message: str
    row: int | None = None
    column: str | None = None
    value: str | None = None
    cells: tuple[str, ...] | None = None
    suggestions: tuple[Suggestion, ...] = ()


def file_error_lines(errors: Sequence[tuple[int | None, str | None, str]], count: int) -> list[str]:
    """Return a line for each error in a table, and one for the rest of `count` errors.

    The errors are row, column and message, as in `FileError`.
    """
    lines = []
    for row, column, message in errors:
        position = [f"row {row}"] if row is not None else []
        position += [f"column {column}"] if column is not None else []
        lines.append(f"  {', '.join(position) or 'the file'}: {message}")
    if errors and count > len(errors):
        lines.append(f"  and {count - len(errors):,} more")
    return lines


class ImageErrorCode(StrEnum):
    """Reasons why an image cannot be fetched, compressed or stored."""

    INVALID_URL = "invalid_url"
    BLOCKED_ADDRESS = "blocked_address"
    DNS_FAILURE = "dns_failure"
    CONNECT_FAILED = "connect_failed"
    TLS_ERROR = "tls_error"
    TIMEOUT = "timeout"
    HTTP_STATUS = "http_status"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TOO_LARGE = "too_large"
    EMPTY_BODY = "empty_body"
    INCOMPLETE_BODY = "incomplete_body"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_PIXELS = "too_many_pixels"
    CORRUPT_IMAGE = "corrupt_image"
    COMPRESS_TIMEOUT = "compress_timeout"
    COMPRESS_CRASHED = "compress_crashed"
    OUT_OF_MEMORY = "out_of_memory"
    STORAGE_FAILED = "storage_failed"
    INTERNAL = "internal"
    INVALID_RESPONSE = "invalid_response"


class ImageError(Exception):
    """An image failed. `code` is for programs, `message` is a sentence for people.

    `http_status` is the status of the host's response if `code` is `http_status`. `retry_after` is the
    delay, in seconds, that the host requested before the next attempt. `redirected` is true if a host
    that the URL redirects to failed, not the URL's own host.
    """

    def __init__(
        self,
        code: ImageErrorCode,
        message: str,
        *,
        http_status: int | None = None,
        retry_after: float | None = None,
        redirected: bool = False,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.http_status = http_status
        self.retry_after = retry_after
        self.redirected = redirected

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        options = (self.http_status, self.retry_after, self.redirected)
        return (_rebuild_image_error, (self.code, self.message, *options))


def _rebuild_image_error(
    code: ImageErrorCode,
    message: str,
    http_status: int | None,
    retry_after: float | None,
    redirected: bool,
) -> ImageError:
    return ImageError(
        code, message, http_status=http_status, retry_after=retry_after, redirected=redirected
    )


class ProblemCode(StrEnum):
    """Reasons why the service rejects an API call.

    `web/http/problems.py` maps each to an HTTP status.
    """

    INVALID_CSV = "invalid-csv"
    INVALID_OPTION = "invalid-option"
    INVALID_BODY = "invalid-body"
    BAD_REQUEST = "bad-request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    FOREIGN_ORIGIN = "foreign-origin"
    FOREIGN_HOST = "foreign-host"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    UPLOAD_STALLED = "upload-stalled"
    IDEMPOTENCY_KEY_BUSY = "idempotency-key-busy"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    ALREADY_FINISHED = "already-finished"
    NOT_FINISHED = "not-finished"
    NOTHING_FAILED = "nothing-failed"
    NOT_AVAILABLE = "not-available"
    TOO_LARGE = "too-large"
    TOO_MANY_IMAGES = "too-many-images"
    RANGE_NOT_SATISFIABLE = "range-not-satisfiable"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    TOO_MANY_ATTEMPTS = "too-many-attempts"
    TOO_MUCH_WAITING = "too-much-waiting"
    UNAVAILABLE = "unavailable"
    STORAGE_FULL = "storage-full"
    INTERNAL = "internal"


class ProblemError(Exception):
    """The service rejects an API call.

    `detail` says what is wrong, where, and what to do. If a table is invalid, `errors` are its first
    100 errors, `error_count` is the number of all, and `columns` are the names of the columns that the
    cells of `errors` are from, or, if its header is invalid, of its first 500 columns. `retry_after` is
    in seconds.
    """

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        errors: Sequence[FileError] = (),
        error_count: int | None = None,
        columns: Sequence[str] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.error_count = len(self.errors) if error_count is None else error_count
        self.columns = tuple(columns)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class DependencyError(Exception):
    """A dependency, such as the disk, fails temporarily.

    This is not a bug: it is logged without a traceback.
    """


class ConfigError(Exception):
    """The configuration is invalid. The message names the key and where it is set."""


class StartupError(Exception):
    """The service cannot start. The message says why and what to do."""
