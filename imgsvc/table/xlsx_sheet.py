"""The rows of a worksheet of an .xlsx file, read as a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imgsvc.errors import FileErrorCode
from imgsvc.table.records import MAX_RECORD_BYTES
from imgsvc.table.xlsx_package import (
    Attributes,
    Package,
    TextCollector,
    Workbook,
    XlsxError,
    damaged,
    too_long,
)
from imgsvc.table.xlsx_values import (
    MAX_ROWS,
    column_letters,
    column_number,
    date_text,
    iso_date_text,
    number_text,
    unescape,
)

Row = tuple[int, list[str]]
"""The number of a row, from 1, and its cells up to the last that is not empty."""

_DIGITS = "0123456789"
_TEXT_TYPES = {"str", "inlineStr"}
_URL_FORMULA = re.compile(r'(?:_xlfn\.)?(?:IMAGE|HYPERLINK)\(\s*"', re.IGNORECASE)
"""A formula whose URL is in its text. Its cached value is an error, or text for people."""


def rows(package: Package, workbook: Workbook, sheet: str) -> Iterator[Row]:
    """Yield the rows of a sheet that are not blank, in order.

    The size that the sheet declares is not used. A merged cell has its value in its first cell. Raise
    `XlsxError` for a formula without a cached value.
    """
    reader = _SheetReader(workbook)
    strings = workbook.strings
    for _ in package.pieces(sheet, reader.start, reader.end, reader.text):
        for number, cells in reader.rows:
            texts = [strings.get(c) if isinstance(c, int) else c for c in cells]
            if sum(map(len, texts)) > MAX_RECORD_BYTES:
                raise too_long(number)
            while texts and not texts[-1]:
                texts.pop()
            if any(text and not text.isspace() for text in texts):
                yield number, texts
        reader.rows.clear()
        if reader.error is not None:
            raise reader.error
        if reader.finished:
            return


class _SheetReader:
    """Collects rows from the elements of a sheet: `row`, in it `c`, and in that `v`, `f` and `is`.

    A cell is a text, or the number of a shared string: one step of the parser can contain thousands of
    references to a long string. `error` is that of the first formula without a cached value. It is not
    raised here: the rows above it show whether this is the sheet to read.
    """

    def __init__(self, workbook: Workbook) -> None:
        self.rows: list[tuple[int, list[str | int]]] = []
        self.finished = False
        self.error: XlsxError | None = None
        self._workbook = workbook
        self._row = 0
        self._in_row = False
        self._cells: list[str | int] = []
        self._column = -1
        self._columns: dict[str, int] = {}
        self._row_size = 0
        self._type: str | None = None
        self._style: str | None = None
        self._text: list[str] | None = None
        self._value: str | None = None
        self._formula: str | None = None
        self._inline: TextCollector | None = None

    def start(self, element: str, attributes: Attributes) -> None:
        """Handle the start of an element."""
        if element == "c" and self._in_row:
            self._start_cell(attributes)
        elif element in {"v", "f"} and self._in_row:
            self._text = []
        elif self._inline is not None:
            self._inline.start(element)
        elif element == "is" and self._in_row:
            self._inline = TextCollector()
        elif element == "row" and not self.finished:
            self._start_row(attributes.get("r"))

    def end(self, element: str) -> None:
        """Handle the end of an element."""
        if element == "c" and self._in_row:
            self._end_cell()
        elif element == "v" and self._text is not None:
            self._value, self._text = "".join(self._text), None
        elif element == "f" and self._text is not None:
            self._formula, self._text = "".join(self._text), None
        elif element == "row" and self._in_row:
            self._end_row()
        elif element == "sheetData":
            self.finished = True
        elif element == "is" and self._inline is not None:
            self._value, self._inline = self._inline.take(), None
        elif self._inline is not None:
            self._inline.end(element)

    def text(self, text: str) -> None:
        """Handle text."""
        if self._text is not None:
            self._add_size(len(text))
            self._text.append(text)
        elif self._inline is not None:
            self._add_size(len(text))
            self._inline.text(text)

    def _add_size(self, size: int) -> None:
        self._row_size += size
        if self._row_size > MAX_RECORD_BYTES:
            raise too_long(self._row)

    def _start_row(self, number: str | None) -> None:
        row = self._row + 1
        if number is not None:
            row = int(number) if number.isascii() and number.isdigit() and len(number) < 8 else 0
        if not self._row < row <= MAX_ROWS:
            raise damaged(f"row {number or row} follows row {self._row}")
        self._row = row
        self._in_row = True
        self._column = -1
        self._row_size = 0

    def _end_row(self) -> None:
        self._in_row = False
        if self._cells:
            self.rows.append((self._row, self._cells))
            self._cells = []

    def _start_cell(self, attributes: Attributes) -> None:
        self._type = attributes.get("t")
        self._style = attributes.get("s")
        self._value = self._formula = None
        reference = attributes.get("r")
        if reference is None:
            self._column += 1
            if column_number(column_letters(self._column)) is None:
                raise damaged(f"row {self._row} has too many cells")
            return
        letters = reference.rstrip(_DIGITS)
        column = self._columns.get(letters)
        if column is None:
            column = column_number(letters)
            if column is None:
                raise damaged(f"there is no cell {reference[:20]!r}")
            self._columns[letters] = column
        self._column = column

    def _end_cell(self) -> None:
        value = self._cell_value()
        cells, column = self._cells, self._column
        if column == len(cells):
            cells.append(value)
        elif column < len(cells):
            cells[column] = value
        elif value != "":
            cells += [""] * (column - len(cells))
            cells.append(value)

    def _cell_value(self) -> str | int:
        kind, value = self._type, self._value
        if self._formula is not None and (kind == "e" or not value):
            if _URL_FORMULA.match(self._formula):
                return f"={self._formula.removeprefix('_xlfn.')}"
            if value is None or (not value and kind not in _TEXT_TYPES):
                self.error = self.error or self._no_cached_value()
        if not value:
            return ""
        if kind == "s":
            return self._workbook.strings.index(value)
        if kind is None or kind == "n":
            return self._number(value)
        if kind == "b":
            return {"1": "TRUE", "0": "FALSE"}.get(value, value)
        if kind == "d":
            return iso_date_text(value)
        return value if kind == "inlineStr" else unescape(value)

    def _number(self, value: str) -> str:
        kinds, style = self._workbook.date_kinds, self._style
        if style is not None and style.isascii() and style.isdigit() and len(style) < 8:
            kind = kinds[int(style)] if int(style) < len(kinds) else None
            if kind is not None:
                return date_text(value, kind, from_1904=self._workbook.from_1904)
        return number_text(value)

    def _no_cached_value(self) -> XlsxError:
        cell = f"{column_letters(self._column)}{self._row}"
        return XlsxError(
            FileErrorCode.EMPTY_VALUE,
            f"Cell {cell} has a formula whose result is not stored in the file. Open the "
            "file in a spreadsheet program, which calculates it, and save it again.",
            self._row,
        )
