"""Rows → .xlsx: one worksheet, all cells text, written as a stream."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Final, Self
from zipfile import ZIP_DEFLATED, ZipFile

from imgsvc.table.xlsx_values import (
    MAX_CELL_UNITS,
    MAX_COLUMNS,
    MAX_ROWS,
    column_letters,
    escape,
)

XLSX_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
MAX_SHEET_BYTES = 2**31 - 2**20
"""Maximum size of the worksheet's XML. Beyond 2 GiB the archive needs ZIP64, which Excel rejects in
archives that are written as a stream."""
_SHEET_PART: Final = "xl/worksheets/sheet1.xml"
_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_CONTENT_TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_FIXED_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_CONTENT_TYPES}.sheet.main+xml"/>'
    f'<Override PartName="/{_SHEET_PART}" ContentType="{_CONTENT_TYPES}.worksheet+xml"/>'
    f'<Override PartName="/xl/styles.xml" ContentType="{_CONTENT_TYPES}.styles+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
    f'Type="{_DOCUMENT}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_DOCUMENT}"><sheets>'
    '<sheet name="Products" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_DOCUMENT}/worksheet" Target="worksheets/sheet1.xml"/>'
    f'<Relationship Id="rId2" Type="{_DOCUMENT}/styles" Target="styles.xml"/></Relationships>',
    # Style 1 has the format "@": a cell stays text after it is edited.
    "xl/styles.xml": f'<styleSheet xmlns="{_MAIN}"><fonts count="1"><font/></fonts><fills count="2">'
    '<fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill>'
    '</fills><borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs>'
    '<cellXfs count="2"><xf/><xf numFmtId="49" applyNumberFormat="1"/></cellXfs></styleSheet>',
}
"""The parts besides the worksheet."""
_SHEET_START = f'{_XML}<worksheet xmlns="{_MAIN}"><sheetData>\n'
_SHEET_END = "</sheetData></worksheet>"


class WorksheetLimitError(Exception):
    """The table exceeds a limit of worksheets. The message says which one and what to do."""


class XlsxWriter:
    """Encodes a table as .xlsx in parts. Their concatenation is the file. Use it in a `with` block.

    `write` and `close` take a few milliseconds for 500 rows, so run them in a thread. They raise
    `WorksheetLimitError`; the writer must not be used afterwards.
    """

    def __init__(self, *, max_sheet_bytes: int = MAX_SHEET_BYTES) -> None:
        self._max_sheet_bytes = max_sheet_bytes
        self._sink = _Sink()
        self._zip = ZipFile(self._sink, "w", ZIP_DEFLATED)
        for name, content in _FIXED_PARTS.items():
            self._zip.writestr(name, _XML + content)
        self._sheet = self._zip.open(_SHEET_PART, "w")
        self._rows = 0
        self._sheet_bytes = 0
        self._references: list[str] = []
        self._append(_SHEET_START)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sheet.close()
        self._zip.close()

    def write(self, rows: Iterable[Sequence[str]]) -> bytes:
        """Add rows. Return the bytes that are complete."""
        self._append("".join(map(self._row, rows)))
        return self._sink.take()

    def close(self) -> bytes:
        """Return the rest of the file."""
        self._append(_SHEET_END)
        self.__exit__()
        return self._sink.take()

    def _append(self, text: str) -> None:
        data = text.encode()
        self._sheet_bytes += len(data)
        if self._sheet_bytes > self._max_sheet_bytes:
            raise WorksheetLimitError(
                f"The table is too large for a worksheet, after row {self._rows:,}. Download the CSV."
            )
        self._sheet.write(data)

    def _row(self, cells: Sequence[str]) -> str:
        self._rows += 1
        number = self._rows
        if number > MAX_ROWS:
            raise WorksheetLimitError(
                f"The table has more than {MAX_ROWS:,} rows, which a worksheet cannot hold. Download "
                "the CSV."
            )
        if len(cells) > MAX_COLUMNS:
            raise WorksheetLimitError(
                f"Row {number:,} has {len(cells):,} cells. A worksheet has {MAX_COLUMNS:,} columns. "
                "Download the CSV."
            )
        while len(self._references) < len(cells):
            self._references.append(column_letters(len(self._references)))
        xml = "".join(
            f'<c r="{column}{number}" s="1" t="inlineStr"><is><t xml:space="preserve">'
            f"{self._content(cell, column)}</t></is></c>"
            for column, cell in zip(self._references, cells, strict=False)
            if cell
        )
        return f'<row r="{number}">{xml}</row>\n'

    def _content(self, cell: str, column: str) -> str:
        if 2 * len(cell) > MAX_CELL_UNITS and _utf16_units(cell) > MAX_CELL_UNITS:
            raise WorksheetLimitError(
                f"Cell {column}{self._rows} has {_utf16_units(cell):,} characters. A cell of a "
                f"worksheet holds {MAX_CELL_UNITS:,}. Download the CSV."
            )
        return escape(cell)


def _utf16_units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


class _Sink(io.RawIOBase):
    """A file that is written once, from start to end, and taken in parts."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data
