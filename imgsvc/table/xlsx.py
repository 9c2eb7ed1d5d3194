"""Reads .xlsx files: their rows, in pieces that a worker process sends.

The worker runs `read_rows`; the main process puts the pieces together with `PieceDecoder`. A piece is a
part of a stream of lines. A line is a JSON list of a row number and consecutive rows, or an error.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from itertools import takewhile
from typing import IO
from zipfile import BadZipFile, LargeZipFile

from imgsvc.errors import FileErrorCode
from imgsvc.table.layouts import recognise
from imgsvc.table.records import MAX_RECORD_BYTES
from imgsvc.table.xlsx_package import (
    Package,
    Workbook,
    XlsxError,
    damaged,
    read_workbook,
    too_long,
)
from imgsvc.table.xlsx_sheet import Row, rows

XLSX_SIGNATURE = b"PK\x03\x04"
"""The first bytes of a ZIP archive, such as an .xlsx file."""
READ_ROWS = "imgsvc.table.xlsx:read_rows"
"""The function that a worker runs."""
MAX_PIECE_BYTES = 2**20
"""Maximum size of a piece."""
LINE_BYTES = 32 * 2**10
"""Size from which a line gets no more rows: the main process parses it in less than a millisecond."""
MAX_LINE_BYTES = 8 * MAX_RECORD_BYTES
"""Maximum size of a line. JSON needs up to six bytes for a character."""
HEADER_ROWS = 10
"""The header of a table is in its first rows. This is the number of rows that are searched."""

RowBatch = tuple[int, list[list[str]]]
"""The number of the first of consecutive rows, and their cells."""


def read_rows(file: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    """Yield the rows of the table in an .xlsx file as pieces.

    If the file is invalid, the last line is an error. `max_bytes` limits the unpacked size of the file,
    and the size of all lines. Raise `MemoryError` if memory is short.
    """
    try:
        yield from _read_rows(file, max_bytes)
    except XlsxError as error:
        yield _line([error.code, error.message, error.row])
    except (BadZipFile, LargeZipFile, NotImplementedError, struct.error, ValueError) as error:
        yield _damaged_line(str(error))
    except (EOFError, OSError, OverflowError, zlib.error) as error:
        yield _damaged_line(str(error))


def _damaged_line(reason: str) -> bytes:
    error = damaged(reason[:200] or "it ends too early")
    return _line([error.code, error.message, error.row])


def _read_rows(file: IO[bytes], max_bytes: int) -> Iterator[bytes]:
    package = Package(file, max_bytes)
    workbook = read_workbook(package)
    sheet = _choose_sheet(package, workbook)
    size = 0
    for line in _lines(rows(package, workbook, sheet)):
        size += len(line)
        if size > max_bytes:
            raise XlsxError(
                None,
                f"The table in the .xlsx file is larger than {max_bytes >> 20:,} MiB (4 × "
                "server.max_upload_bytes). Split it into several files.",
            )
        for start in range(0, len(line), MAX_PIECE_BYTES):
            yield line[start : start + MAX_PIECE_BYTES]


def _choose_sheet(package: Package, workbook: Workbook) -> str:
    """Return the first sheet with a recognised layout, else the first."""
    if len(workbook.sheets) > 1:
        for sheet in workbook.sheets:
            if _has_layout(rows(package, workbook, sheet)):
                return sheet
    return workbook.sheets[0]


def _has_layout(table: Iterator[Row]) -> bool:
    """Return whether one of the first rows is the header of a layout."""
    first_rows = takewhile(lambda row: row[0] <= HEADER_ROWS, table)
    try:
        return any(recognise(cells) is not None for _, cells in first_rows)
    except XlsxError as error:
        if error.code is FileErrorCode.EMPTY_VALUE:  # concerns only the sheet that is read
            return False
        raise


def _lines(table: Iterator[Row]) -> Iterator[bytes]:
    """Yield lines of consecutive rows."""
    first, batch, size = 1, list[list[str]](), 0
    for number, cells in table:
        if batch and (number != first + len(batch) or size >= LINE_BYTES):
            yield _line([first, batch])
            batch, size = [], 0
        if not batch:
            first = number
        batch.append(cells)
        size += sum(map(len, cells)) + len(cells)
    if batch:
        yield _line([first, batch])


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class PieceDecoder:
    """Puts the pieces of `read_rows` together."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def feed(self, piece: bytes) -> Iterator[RowBatch]:
        """Yield the rows whose last piece this is. Raise `XlsxError` if the file is invalid."""
        *lines, rest = piece.split(b"\n")
        for line in lines:
            value = json.loads(b"".join([*self._pending, line]))
            self._pending.clear()
            self._pending_bytes = 0
            if len(value) == 3:
                code, message, row = value
                raise XlsxError(code and FileErrorCode(code), message, row)
            yield value[0], value[1]
        if rest:
            self._pending.append(rest)
            self._pending_bytes += len(rest)
            if self._pending_bytes > MAX_LINE_BYTES:
                raise too_long(None)
