"""The validator: turns the bytes of an uploaded file into products and errors.

It is incremental and does no I/O.
"""

from __future__ import annotations

from imgsvc.errors import FileError, FileErrorCode
from imgsvc.models import Columns, InputTable, Product, TableOptions
from imgsvc.table.columns import (
    DelimiterDetector,
    Layout,
    is_blank,
    is_separator_line,
    read_header,
)
from imgsvc.table.decoding import HOW_TO_SAVE_CSV, Decoder, DecodingError
from imgsvc.table.file_errors import FileErrors, RowExcerpts
from imgsvc.table.records import InvalidRecord, Record, RecordParser
from imgsvc.table.rows import (
    CONTROL,
    RowReader,
    add_control_character,
    add_invalid_record,
)

_PIECE_BYTES = 2**16
"""Bytes that are parsed in one step. Limits the memory used besides an unfinished record."""

_ASCII_CONTROL = bytes(n for n in [*range(32), 127] if n not in b"\t\r\n")


class TableReader:
    """Reads an uploaded table of any size in bounded memory.

    `feed` and `close` return the valid products they have read. After the first error they return none,
    but the table is still checked to its end. Reading stops after more than `max_images` valid images.
    """

    def __init__(
        self, options: TableOptions = TableOptions(), max_images: int | None = None
    ) -> None:
        self._options = options
        self._max_images = max_images
        self._decoder = Decoder()
        self._detector = DelimiterDetector()
        self._parser: RecordParser | None = None
        self._rows: RowReader | None = None
        self._excerpts: RowExcerpts | None = None
        self._delimiter = ","
        self._row = 0
        self._errors = FileErrors()
        self._may_have_control = False
        self._finished = False

    @property
    def columns(self) -> Columns | None:
        """The table's columns, or None until the header has been read.

        Unnamed columns are included only if a row has a value in them, so they are complete only at the
        end of the table.
        """
        return self._rows.columns if self._rows else None

    @property
    def table(self) -> InputTable | None:
        """The table without its rows, or None until the header has been read."""
        columns = self.columns
        if columns is None:
            return None
        return InputTable(columns, "standard", "utf-8", self._delimiter)

    @property
    def refused(self) -> bool:
        """Whether an error refuses the table."""
        return self.error_count > 0

    @property
    def skipped(self) -> int:
        """The number of skipped rows so far."""
        return 0

    @property
    def errors(self) -> list[FileError]:
        """The first 100 errors, in the table's order."""
        return self._errors.first

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """The names of the columns that the cells of `errors` are from, or () without a header."""
        return self._excerpts.columns if self._excerpts else ()

    @property
    def error_count(self) -> int:
        """The number of all errors so far."""
        return self._errors.count

    @property
    def products(self) -> int:
        """The number of valid rows so far."""
        return self._rows.products if self._rows else 0

    @property
    def images(self) -> int:
        """The number of images in the valid rows so far."""
        return self._rows.images if self._rows else 0

    def feed(self, data: bytes) -> list[Product]:
        """Read a piece of the file. Return its valid products."""
        products: list[Product] = []
        for start in range(0, len(data), _PIECE_BYTES):
            if self._finished:
                break
            try:
                self._read(self._decoder.feed(data[start : start + _PIECE_BYTES]), products)
            except DecodingError as error:
                self._add_decoding_error(error, products)
        return [] if self._errors.count else products

    def close(self) -> list[Product]:
        """Read the rest, at the end of the file. Return its valid products."""
        products: list[Product] = []
        if self._finished:
            return products
        try:
            self._read(self._decoder.close(), products)
            if self._parser is None:
                self._start_parsing(self._detector.close(), products)
            if self._parser is not None:
                self._read_complete(self._parser.close(), products)
        except DecodingError as error:
            self._add_decoding_error(error, products)
        if (
            not self._finished
            and not self._errors.count
            and not (self._rows and self._rows.has_rows)
        ):
            self._add_no_products()
        self._finished = True
        return [] if self._errors.count else products

    def _read(self, text: str, products: list[Product]) -> None:
        if self._parser is not None:
            self._read_records(self._parser, text, products)
            return
        delimiter = self._detector.feed(text)
        if delimiter is not None:
            self._start_parsing(delimiter, products)

    def _start_parsing(self, delimiter: str, products: list[Product]) -> None:
        """Parse the text that was read to detect the delimiter again, now with this delimiter."""
        text, self._row = self._detector.text, self._detector.skipped
        self._detector = DelimiterDetector()
        self._delimiter = delimiter
        self._parser = RecordParser(delimiter)
        for start in range(0, len(text), _PIECE_BYTES):
            if not self._finished:
                self._read_records(self._parser, text[start : start + _PIECE_BYTES], products)

    def _read_records(self, parser: RecordParser, text: str, products: list[Product]) -> None:
        control = _has_control(text)
        self._may_have_control = self._may_have_control or control
        complete = parser.feed(text)
        self._read_complete(complete, products)
        # If a record ended in this text, an unfinished record also began in it.
        self._may_have_control = parser.in_record and (
            control if complete else self._may_have_control
        )

    def _read_complete(self, complete: list[Record], products: list[Product]) -> None:
        used = 0
        while self._rows is None and used < len(complete) and not self._finished:
            self._read_header(complete[used])
            used += 1
        if self._rows is not None:
            self._read_rows(self._rows, complete[used:] if used else complete, products)
            if self._max_images is not None and self._rows.images > self._max_images:
                self._finished = True

    def _read_rows(self, rows: RowReader, complete: list[Record], products: list[Product]) -> None:
        may_have_control = self._may_have_control
        listed_errors = len(self._errors.first)
        for row, record in enumerate(complete, self._row + 1):
            if isinstance(record, InvalidRecord):
                rows.add_invalid(row, record)
            elif (product := rows.read(row, record, may_have_control=may_have_control)) is not None:
                products.append(product)
        if len(self._errors.first) > listed_errors and self._excerpts is not None:
            self._errors.add_cells(self._row + 1, complete, self._excerpts)
        self._row += len(complete)

    def _read_header(self, record: Record) -> None:
        """Read a record as the header, unless it is blank or a line `sep=;`.

        If the header is invalid, reading stops.
        """
        row = self._row + 1
        if isinstance(record, InvalidRecord):
            if record.has_nul:
                self._add_not_text()
            else:
                add_invalid_record(self._errors, row, record, None)
            self._finished = True
            return
        if row == 1 and is_separator_line(record):
            return
        self._row = row
        if is_blank(record):
            return
        layout = read_header(record, row)
        control = [cell for cell in record if CONTROL.search(cell)]
        if control and (isinstance(layout, list) or any("\x00" in cell for cell in control)):
            self._add_not_text()
        elif isinstance(layout, Layout):
            for cell in control:
                add_control_character(self._errors, row, cell, cell.strip() or None)
            self._rows = RowReader(layout, self._delimiter, self._errors)
            self._excerpts = RowExcerpts(layout, self._delimiter)
        else:
            for error in layout:
                self._errors.add(error.code, error.message, error.row, error.column)
            self._finished = True

    def _add_decoding_error(self, error: DecodingError, products: list[Product]) -> None:
        """Record the errors of the text before the invalid bytes, then these bytes. Stop reading."""
        if error.text:
            self._read(error.text, products)
        if self._finished:
            return
        if self._parser is None and _has_control(self._detector.text):
            self._add_not_text()
            return
        row = column = None
        if error.code is FileErrorCode.BAD_ENCODING:
            row = self._row + 1 if self._parser else self._detector.row
            if self._parser and self._rows:
                column = self._rows.layout.column_name(self._parser.cell_index)
        self._errors.add(error.code, error.message, row, column, error.value)
        self._finished = True

    def _add_not_text(self) -> None:
        self._errors.add(
            FileErrorCode.NOT_CSV,
            f"The file contains binary data, so it is not CSV. {HOW_TO_SAVE_CSV}",
        )
        self._finished = True

    def _add_no_products(self) -> None:
        if self._rows is None:
            self._errors.add(
                FileErrorCode.EMPTY_FILE,
                "The file is empty. It needs a header row (Product Name, Input Image Urls) and one row "
                "per product.",
            )
        else:
            self._errors.add(
                FileErrorCode.NO_ROWS,
                "The file has a header but no products. Add one row per product below the header.",
            )


def _has_control(text: str) -> bool:
    """Return whether the text has a control character that no cell may contain. Fast for ASCII."""
    if text.isascii():
        return len(text.encode().translate(None, _ASCII_CONTROL)) != len(text)
    return CONTROL.search(text) is not None
