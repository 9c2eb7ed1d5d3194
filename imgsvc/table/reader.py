"""The validator: turns the bytes of an uploaded file into products and errors.

It is incremental and does no I/O.
"""

from __future__ import annotations

from imgsvc.errors import FileError, FileErrorCode
from imgsvc.table.columns import Header, is_blank, is_separator_line, read_header
from imgsvc.table.decoding import HOW_TO_SAVE, Decoder, DecodingError
from imgsvc.table.file_errors import FileErrors, RowExcerpts, shown_headers
from imgsvc.table.header_search import MAX_LENGTH_ABOVE, DelimiterDetector, HeaderSearch
from imgsvc.table.records import InvalidRecord, Record, RecordParser
from imgsvc.table.rows import (
    CONTROL,
    RowReader,
    add_control_character,
    add_invalid_record,
)
from imgsvc.table_types import InputTable, Product, TableOptions
from imgsvc.urls import WHITE_SPACE

NO_OPTIONS = TableOptions()
_PIECE_BYTES = 2**16
"""Bytes that are parsed in one step. Limits the memory used besides an unfinished record."""

_ASCII_CONTROL = bytes(n for n in [*range(32), 127] if n not in b"\t\r\n")


class TableReader:
    """Reads an uploaded table of any size in bounded memory.

    `feed`, `feed_rows` and `close` return the rows they have read: valid products, and invalid rows
    that are skipped. After an error that refuses the table they return none, but the table is still
    checked to its end. Reading stops after more than `max_images` valid images.
    """

    def __init__(self, options: TableOptions = NO_OPTIONS, max_images: int | None = None) -> None:
        self._options = options
        self._max_images = max_images
        self._decoder = Decoder(options.encoding)
        self._detector = DelimiterDetector(options)
        self._parser: RecordParser | None = None
        self._search = HeaderSearch(options)
        self._rows: RowReader | None = None
        self._excerpts: RowExcerpts | None = None
        self._delimiter = ","
        self._headers: tuple[str, ...] = ()
        self._rows_above: list[tuple[str, ...]] = []
        self._row = 0
        self._errors = FileErrors(skips_rows=options.skip_invalid)
        self._is_spreadsheet = False
        self._may_have_control = False
        self._finished = False

    @property
    def table(self) -> InputTable | None:
        """The table without its rows, or None until the header has been read.

        Unnamed columns are dropped unless a row has a value in them, so their roles are final only at
        the end of the table.
        """
        if self._rows is None:
            return None
        return InputTable(
            self._rows.columns,
            self._rows.header.layout,
            None if self._is_spreadsheet else self._decoder.encoding,
            None if self._is_spreadsheet else self._delimiter,
            not self._is_spreadsheet and self._decoder.has_mark,
            tuple(self._rows_above),
        )

    @property
    def headers(self) -> tuple[str, ...]:
        """The names in the header row, trimmed, also if required ones are missing."""
        return self._headers

    @property
    def errors(self) -> list[FileError]:
        """The first 100 errors, in the table's order."""
        return self._errors.first

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """The names of the columns that the cells of `errors` are from; those of an invalid header."""
        return self._excerpts.columns if self._excerpts else shown_headers(self._headers)

    @property
    def error_count(self) -> int:
        """The number of all errors so far, those of skipped rows included."""
        return self._errors.count

    @property
    def refused(self) -> bool:
        """Whether an error refuses the table."""
        return self._errors.refused

    @property
    def buffered_bytes(self) -> int:
        """The memory of what has been read of the header, or of an incomplete row, about."""
        if self._finished:
            return 0
        if self._parser is None:
            return self._detector.buffered_bytes
        return self._parser.buffered_bytes + self._search.length

    @property
    def products(self) -> int:
        """The number of valid rows so far."""
        return self._rows.products if self._rows else 0

    @property
    def skipped(self) -> int:
        """The number of skipped rows so far."""
        return self._rows.skipped if self._rows else 0

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
        return [] if self._errors.refused else products

    def feed_rows(self, first_row: int, rows: list[list[str]]) -> list[Product]:
        """Read rows of a worksheet; `first_row` is the number of the first. Return their products.

        A reader reads either bytes or rows.
        """
        self._is_spreadsheet = True
        products: list[Product] = []
        if not self._finished:
            self._row = first_row - 1
            self._may_have_control = any(_has_control("".join(row)) for row in rows)
            self._read_complete(list(rows), products)
        return [] if self._errors.refused else products

    def close(self) -> list[Product]:
        """Read the rest, at the end of the file. Return its products."""
        products: list[Product] = []
        if self._finished:
            return products
        try:
            if not self._is_spreadsheet:
                self._read(self._decoder.close(), products)
                if self._parser is None:
                    self._start_parsing(self._detector.close(), products)
                if self._parser is not None:
                    self._read_complete(self._parser.close(), products)
        except DecodingError as error:
            self._add_decoding_error(error, products)
        if self._rows is None and not self._finished:
            self._start_rows(products)
        if not self._finished and not self._errors.refused and not self.images:
            self._add_no_products()
        self._finished = True
        return [] if self._errors.refused else products

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
        self._detector = DelimiterDetector(self._options)
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
            self._read_first(complete[used], products)
            used += 1
        if self._rows is not None and not self._finished:
            self._read_rows(self._rows, complete[used:] if used else complete, products)

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
        if self._max_images is not None and rows.images > self._max_images:
            self._finished = True

    def _read_first(self, record: Record, products: list[Product]) -> None:
        """Read a record while the header is not known. Blank ones and a line `sep=;` cannot be it."""
        row = self._row + 1
        if isinstance(record, InvalidRecord):
            if not record.has_nul:
                self._start_rows(products)
            if self._rows is not None:
                self._read_rows(self._rows, [record], products)
            elif not self._finished:
                self._add_invalid_first(row, record)
        elif row == 1 and is_separator_line(record):
            self._rows_above.append(tuple(record))
        else:
            self._row = row
            if not is_blank(record) and self._search.add(row, record):
                self._start_rows(products)

    def _start_rows(self, products: list[Product]) -> bool:
        """Read the header, which is among the records so far, then the rows below it.

        If the header is invalid, reading stops. Return whether it continues.
        """
        if not self._search.records:
            return True
        if self._search.is_too_long:
            self._add_too_long_above()
            return False
        last_row, index = self._row, self._search.index
        above, below = self._search.records[:index], self._search.records[index + 1 :]
        row, cells = self._search.records[index]
        header = read_header(cells, row, self._options, [record for _, record in below])
        if not self._check_control(above, (row, cells), header):
            return False
        self._headers = tuple(name for cell in cells if (name := cell.strip(WHITE_SPACE)))
        if not isinstance(header, Header):
            for error in header:
                self._errors.add_refusing(error)
            self._finished = True
            return False
        self._rows_above += [tuple(record) for _, record in above]
        self._rows = RowReader(
            header, self._delimiter, self._errors, self._options, pads=self._is_spreadsheet
        )
        self._excerpts = RowExcerpts(header, self._delimiter)
        self._search = HeaderSearch(self._options)
        was_control, self._may_have_control = self._may_have_control, True
        for number, record in below:
            if not self._finished:
                self._row = number - 1
                self._read_rows(self._rows, [record], products)
        self._row, self._may_have_control = last_row, was_control
        return not self._finished

    def _check_control(
        self,
        above: list[tuple[int, list[str]]],
        header_row: tuple[int, list[str]],
        header: Header | list[FileError],
    ) -> bool:
        """Record control characters in the header and the rows above it as errors.

        Return false, and stop reading, if the file is not text.
        """
        control = [
            (row, cell)
            for row, record in (*above, header_row)
            for cell in record
            if CONTROL.search(cell)
        ]
        if control and (isinstance(header, list) or any("\x00" in cell for _, cell in control)):
            self._add_not_text()
            return False
        for row, cell in control:
            add_control_character(self._errors, row, cell, cell.strip() or None, refuses=True)
        return True

    def _add_too_long_above(self) -> None:
        self._errors.add(
            FileErrorCode.TOO_LONG,
            f"The rows above the header have more than {MAX_LENGTH_ABOVE // 2**20} MiB of text. "
            "Delete them.",
            self._search.records[0][0],
            refuses=True,
        )
        self._finished = True

    def _add_invalid_first(self, row: int, record: InvalidRecord) -> None:
        if record.has_nul:
            self._add_not_text()
        else:
            add_invalid_record(self._errors, row, record, None)
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
        if self._rows is None and not self._start_rows(products):
            return
        row = column = None
        if error.code is FileErrorCode.BAD_ENCODING:
            row = self._row + 1 if self._parser else self._detector.row
            if self._parser and self._rows:
                column = self._rows.header.column_name(self._parser.cell_index)
        self._errors.add_refusing(
            FileError(
                error.code, error.message, row, column, error.value, suggestions=error.suggestions
            )
        )
        self._finished = True

    def _add_not_text(self) -> None:
        self._errors.add(
            FileErrorCode.NOT_CSV,
            f"The file contains binary data, so it is not CSV. {HOW_TO_SAVE}",
            refuses=True,
        )
        self._finished = True

    def _add_no_products(self) -> None:
        rows = self._rows
        if rows is None:
            self._errors.refuse(
                FileErrorCode.EMPTY_FILE,
                "The file is empty. It needs a header row (Product Name, Input Image Urls) and one row "
                "per product.",
            )
        elif not rows.has_rows:
            message = (
                "The file has a header but no products. Add one row per product below the header."
            )
        elif rows.skipped and not rows.products:
            message = "Every row has an error. Fix the rows and upload the file again."
        elif rows.has_text:
            message = (
                f"No cell of {self._image_columns(rows)} has a URL, only file names or other text. "
                "Write full URLs, e.g. https://www.shop.example/0.jpg."
            )
        else:
            message = f"No row has an image. Add URLs to {self._image_columns(rows)}."
        if rows is not None:
            self._errors.refuse(FileErrorCode.NO_ROWS, message)

    def _image_columns(self, rows: RowReader) -> str:
        names = [rows.header.column_name(n) or "" for n in rows.header.images]
        return f'the column "{names[0][:100]}"' if len(names) == 1 else "the image columns"


def _has_control(text: str) -> bool:
    """Return whether the text has a control character that no cell may contain. Fast for ASCII."""
    if text.isascii():
        return len(text.encode().translate(None, _ASCII_CONTROL)) != len(text)
    return CONTROL.search(text) is not None
