"""Converts between database rows and models. The only module that knows how values are stored."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from imgsvc.errors import FileError, FileErrorCode, ImageErrorCode, ProblemCode, ProblemError
from imgsvc.image_types import (
    EXTENSIONS,
    CompressionSettings,
    ImageInfo,
    Note,
    StoredFile,
)
from imgsvc.models import (
    DeliveryState,
    FailureCount,
    ImageRow,
    ImageStatus,
    Progress,
    Request,
    RequestOptions,
    Reuse,
    ReuseCounts,
    WaitingHost,
)
from imgsvc.table_types import (
    ColumnRole,
    Columns,
    InputTable,
    SourceCells,
)

MAX_FAILURE_COUNTS = 100
"""Maximum number of failure counts by host and code that a request shows: the largest ones."""

MAX_WAITING_HOSTS = 100
"""Maximum number of hosts that a request shows as waited for: those with most images."""

IMAGE_INFO_COLUMNS = (
    "f.input_bytes, f.output_bytes, f.width, f.height, f.input_format, f.output_format, "
    "f.source_quality, f.quality, f.kept, f.notes"
)
"""The columns that `image_info` reads, of `files f`."""

IMAGE_COLUMNS = (
    "i.url, i.status, i.attempts, coalesce(i.token, f.token), i.error_code, i.error_message, "
    "i.reused, i.slug"
)
"""The first columns that `image_row` reads, of `images i` and `files f`. `IMAGE_INFO_COLUMNS` follow.

Images that 1.0 has completed have their own tokens."""

_REQUEST_COLUMNS = (
    "r.key, r.request_id, r.created_at, r.started_at, r.finished_at, r.version, r.products, "
    "r.pending, r.processing, r.completed, r.failed, r.cancelled, r.input_bytes, r.output_bytes, "
    "r.settings, r.webhook_url, d.url, d.status, d.attempts, d.last_error, "
    "r.measured_since, r.measured_done, r.name, r.skipped, r.error_count, r.layout, r.encoding, "
    "r.fresh, r.not_modified, r.same_bytes, r.same_url, r.waiting"
)
_TABLE_COLUMNS = "h.columns, h.delimiter, h.has_mark, h.rows_above"
_FAILURES = f"""(
  SELECT json_group_array(json_array(host, code, count)) FROM (
    SELECT host, code, count FROM failures WHERE request_key = r.key
    ORDER BY count DESC LIMIT {MAX_FAILURE_COUNTS}))"""
_WAITING = f"""(
  SELECT json_group_array(json_array(host, code, message, count, next_try_at)) FROM (
    SELECT host, code, message, sum(count) AS count, min(next_try_at) AS next_try_at FROM (
      SELECT host, code, message, count, max(
        coalesce(probe_at, 0), iif(probe_at IS NULL OR retrying = unfinished, coalesce((
          SELECT min(not_before) FROM images INDEXED BY images_waiting
          WHERE request_key = w.request_key AND status = 'pending' AND host_key = w.host_key
            AND not_before > 0), 0), 0)) AS next_try_at
      FROM waiting_hosts w INDEXED BY waiting_hosts_by_count
      WHERE request_key = r.key AND count > 0 ORDER BY count DESC LIMIT {MAX_WAITING_HOSTS})
    GROUP BY host, code ORDER BY sum(count) DESC))"""
"""The schemes of a host have one entry, as in `failures`."""
_FROM = "FROM requests r LEFT JOIN deliveries d ON d.request_key = r.key"

REQUESTS = f"SELECT {_REQUEST_COLUMNS}, NULL, NULL {_FROM} "
"""A query for requests in a list, without columns, failures and waiting hosts. Append conditions."""
WHOLE_REQUESTS = (
    f"SELECT {_REQUEST_COLUMNS}, {_FAILURES}, {_WAITING}, {_TABLE_COLUMNS} {_FROM} "
    "JOIN request_columns h ON h.request_key = r.key "
)
"""A query for complete requests. Append conditions."""


def request(row: Sequence[Any]) -> Request:
    """Return the request in a row of `REQUESTS` or `WHOLE_REQUESTS`."""
    (key, request_id, created_at, started_at, finished_at, version, products) = row[:7]
    (input_bytes, output_bytes, settings, webhook_url) = row[12:16]
    (measured_since, measured_done, name, skipped, error_count, layout, encoding, fresh) = row[
        20:28
    ]
    columns = Columns((), (), ())
    delimiter, has_mark, rows_above = None, False, None
    if len(row) > 34:
        columns_json, delimiter, has_mark, rows_above = row[34:]
        columns = columns_from(columns_json)
    return Request(
        key=key,
        request_id=request_id,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        version=version,
        products=products,
        progress=Progress(*row[7:12]),
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        table=InputTable(
            columns, layout, encoding, delimiter, bool(has_mark), rows_above_from(rows_above)
        ),
        options=RequestOptions(settings_from(settings), webhook_url, name, bool(fresh)),
        skipped=skipped,
        error_count=error_count,
        webhook=_webhook(webhook_url, row[16:20]),
        failures=_failures(row[32]),
        waiting=_waiting(row[33]),
        waiting_images=row[31],
        measured_since=measured_since,
        measured_done=measured_done,
        reused=ReuseCounts(*row[28:31]),
    )


def _webhook(url: str | None, delivery: Sequence[Any]) -> DeliveryState | None:
    if url is None:
        return None
    if delivery[0] is None:
        return DeliveryState(url, "pending", 0, None)
    return DeliveryState(*delivery)


def _failures(text: str | None) -> tuple[FailureCount, ...]:
    return tuple(
        FailureCount(host, ImageErrorCode(code), count)
        for host, code, count in json.loads(text or "[]")
    )


def _waiting(text: str | None) -> tuple[WaitingHost, ...]:
    return tuple(
        WaitingHost(host, ImageErrorCode(code), message, count, next_try_at)
        for host, code, message, count, next_try_at in json.loads(text or "[]")
    )


def find_request(c: sqlite3.Connection, request_id: str) -> Request:
    """Return a visible request. Raise `ProblemError` NOT_FOUND if there is none."""
    return request(_find(c, WHOLE_REQUESTS, request_id))


def find(c: sqlite3.Connection, columns: str, request_id: str) -> tuple[Any, ...]:
    """Return columns of a visible request's row. Raise `ProblemError` NOT_FOUND if there is none."""
    return _find(c, f"SELECT {columns} FROM requests r ", request_id)


def _find(c: sqlite3.Connection, select: str, request_id: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = None
    if request_id.isascii():  # other text may contain surrogates, which sqlite3 cannot encode
        row = c.execute(
            select + "WHERE r.request_id = ? AND r.stage = 'accepted'", (request_id,)
        ).fetchone()
    if row is None:
        raise no_such_request()
    return row


def owner_of(c: sqlite3.Connection, request_id: str) -> list[str | None]:
    """Return the owner of a request, also of one that is being deleted.

    The list is empty if there is no such request.
    """
    if not request_id.isascii():
        return []
    rows = c.execute("SELECT owner FROM requests WHERE request_id = ?", (request_id,))
    return [owner for (owner,) in rows]


def no_such_request() -> ProblemError:
    """Return the problem of an unknown request."""
    return ProblemError(
        ProblemCode.NOT_FOUND,
        "There is no request with this ID. It may have been deleted, or the ID is incomplete.",
    )


def request_of(c: sqlite3.Connection, request_key: int) -> Request:
    """Return the request with this key, which must exist."""
    return request(c.execute(WHOLE_REQUESTS + "WHERE r.key = ?", (request_key,)).fetchone())


def waiting_images(c: sqlite3.Connection) -> int:
    """Return the number of pending and processing images, from the requests' counters."""
    count: int = c.execute(
        "SELECT coalesce(sum(pending + processing), 0) FROM requests INDEXED BY requests_unfinished "
        "WHERE stage = 'accepted' AND finished_at IS NULL"
    ).fetchone()[0]
    return count


def columns_text(columns: Columns) -> str:
    """Return the columns as JSON."""
    return json.dumps([columns.names, columns.roles, columns.extra_positions], ensure_ascii=False)


def columns_from(text: str) -> Columns:
    """Return the columns in a text that `columns_text` returned."""
    names, roles, extra_positions = json.loads(text)
    return Columns(tuple(names), tuple(map(ColumnRole, roles)), tuple(extra_positions))


def rows_above_text(rows: Sequence[Sequence[str]]) -> str | None:
    """Return `InputTable.rows_above` as JSON, or None if there are none."""
    return json.dumps(rows, ensure_ascii=False) if rows else None


def rows_above_from(text: str | None) -> tuple[tuple[str, ...], ...]:
    """Return the rows in a text that `rows_above_text` returned."""
    return tuple(map(tuple, json.loads(text))) if text else ()


def search_key(name: str) -> str:
    """Return a name, or a part of one, for a comparison that ignores case and Unicode forms."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def source_text(source: SourceCells | None) -> str:
    """Return `Product.source` as JSON, or "" if it is None."""
    return "" if source is None else json.dumps(source, ensure_ascii=False)


def source_from(text: str | None) -> SourceCells | None:
    """Return the cells in a text that `source_text` returned."""
    if not text:
        return None
    name, images = json.loads(text)
    return SourceCells(name, tuple(map(tuple, images)))


def cells_text(cells: Sequence[str]) -> str:
    """Return `Product.cells` as JSON, or "" if there are none."""
    return json.dumps(cells, ensure_ascii=False) if cells else ""


def cells_from(text: str | None) -> tuple[str, ...]:
    """Return the cells in a text that `cells_text` returned."""
    return tuple(json.loads(text)) if text else ()


def errors_text(errors: Sequence[FileError]) -> str:
    """Return the errors of a skipped row as JSON, or "" if there are none.

    The excerpts of its cells are left out, because the row is stored as a whole.
    """
    if not errors:
        return ""
    items = [(e.code, e.message, e.row, e.column, e.value) for e in errors]
    return json.dumps(items, ensure_ascii=False)


def errors_from(text: str | None) -> tuple[FileError, ...]:
    """Return the errors in a text that `errors_text` returned."""
    if not text:
        return ()
    return tuple(FileError(FileErrorCode(code), *rest) for code, *rest in json.loads(text))


@lru_cache(maxsize=256)
def settings_from(text: str) -> CompressionSettings:
    """Return the settings in the text of `str(settings)`."""
    return CompressionSettings.parse(text)


def storable(text: str) -> str:
    """Return the text with lone surrogates replaced by question marks: SQLite cannot store them."""
    return text.encode("utf-8", "replace").decode()


def extra_text(extra: Sequence[str]) -> str:
    """Return `Product.extra` as JSON without the empty cells at its end, or "" if all are empty."""
    end = len(extra)
    while end and not extra[end - 1]:
        end -= 1
    return json.dumps(extra[:end], ensure_ascii=False) if end else ""


def extra_from(text: str | None, extra_positions: Sequence[int]) -> tuple[str, ...]:
    """Return the cells at these positions of a text that `extra_text` returned."""
    cells = json.loads(text) if text else ()
    return tuple([cells[position] if position < len(cells) else "" for position in extra_positions])


def image_info(row: Sequence[Any]) -> ImageInfo:
    """Return the image info in the columns `IMAGE_INFO_COLUMNS`."""
    values: list[Any] = [*row[:8], bool(row[8]), tuple(map(Note, row[9].split()))]
    return ImageInfo(*values)


def image_info_values(image_info: ImageInfo) -> tuple[object, ...]:
    """Return the values of the columns `IMAGE_INFO_COLUMNS`."""
    return (
        image_info.input_bytes,
        image_info.output_bytes,
        image_info.width,
        image_info.height,
        image_info.input_format,
        image_info.output_format,
        image_info.source_quality,
        image_info.quality,
        image_info.kept,
        " ".join(image_info.notes),
    )


def stored_file(row: Sequence[Any]) -> StoredFile:
    """Return the stored file in the columns `f.name` and `IMAGE_INFO_COLUMNS`."""
    return StoredFile(row[0], image_info(row[1:]))


def image_row(row: Sequence[Any]) -> ImageRow:
    """Return the image in the columns `IMAGE_COLUMNS` and `IMAGE_INFO_COLUMNS`."""
    url, status, attempts, token, error_code, error_message, reused, slug = row[:8]
    if status == ImageStatus.COMPLETED:
        info = image_info(row[8:])
        return ImageRow(
            url,
            ImageStatus.COMPLETED,
            attempts,
            public_name(token, info),
            info,
            reused=None if reused is None else Reuse(reused),
            slug=slug,
        )
    code = None if error_code is None else ImageErrorCode(error_code)
    return ImageRow(
        url, ImageStatus(status), attempts, error_code=code, error_message=error_message
    )


def public_name(token: bytes, image_info: ImageInfo) -> str:
    """Return the file name of an output, `TOKEN.EXT`."""
    return f"{token.hex()}.{EXTENSIONS[image_info.output_format]}"
