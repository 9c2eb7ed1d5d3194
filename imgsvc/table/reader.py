"""The Validator: bytes in, products and faults out. Pure, incremental, no I/O."""

from __future__ import annotations

from imgsvc.errors import FileError, FileErrorCode
from imgsvc.models import Columns, Product
from imgsvc.table.columns import HeaderSearch, Layout, is_blank, is_hint, read_header
from imgsvc.table.decoding import Decoder, DecodingError
from imgsvc.table.records import Broken, Record, Records
from imgsvc.table.rows import CONTROL, FileErrors, Rows, note_broken, note_control

_PIECE = 2**16
"""Bytes that are looked at together: what is held beside a record that has not ended."""

_ASCII_CONTROL = bytes(n for n in [*range(32), 127] if n not in b"\t\r\n")


class TableReader:
    """Reads an uploaded table, of any size, in bounded memory.

    `feed` and `close` give the valid products so far, and none once anything is wrong with the table;
    it is checked to its end even so. With more than `max_images` valid images reading stops.
    """

    def __init__(self, max_images: int | None = None) -> None:
        self._max_images = max_images
        self._decoder = Decoder()
        self._search = HeaderSearch()
        self._records: Records | None = None
        self._rows: Rows | None = None
        self._delimiter = ","
        self._row = 0
        self._errors = FileErrors()
        self._suspect = False
        self._over = False

    @property
    def columns(self) -> Columns | None:
        """The table's columns, once the header has been read; all of them, once the table has.

        Columns without a name are among them only where a row had a value in them.
        """
        return self._rows.columns if self._rows else None

    @property
    def errors(self) -> list[FileError]:
        """The first 100 faults, in the table's order."""
        return self._errors.first

    @property
    def error_count(self) -> int:
        """How many faults there are in all, so far."""
        return self._errors.count

    @property
    def products(self) -> int:
        """How many rows were valid so far."""
        return self._rows.products if self._rows else 0

    @property
    def images(self) -> int:
        """How many images the valid rows have."""
        return self._rows.images if self._rows else 0

    def feed(self, data: bytes) -> list[Product]:
        """Read a piece of the file."""
        products: list[Product] = []
        for start in range(0, len(data), _PIECE):
            if self._over:
                break
            try:
                self._read(self._decoder.feed(data[start : start + _PIECE]), products)
            except DecodingError as error:
                self._give_up(error, products)
        return [] if self._errors.count else products

    def close(self) -> list[Product]:
        """Read what is left, as the file has ended."""
        products: list[Product] = []
        if self._over:
            return products
        try:
            self._read(self._decoder.close(), products)
            if self._records is None:
                self._begin(self._search.close(), products)
            if self._records is not None:
                self._take(self._records.close(), products)
        except DecodingError as error:
            self._give_up(error, products)
        if not self._over and not self._errors.count and not (self._rows and self._rows.seen):
            self._note_nothing()
        self._over = True
        return [] if self._errors.count else products

    def _read(self, text: str, products: list[Product]) -> None:
        if self._records is not None:
            self._read_records(self._records, text, products)
            return
        delimiter = self._search.feed(text)
        if delimiter is not None:
            self._begin(delimiter, products)

    def _begin(self, delimiter: str, products: list[Product]) -> None:
        """Read anew, with the right delimiter now, what was read in search of it."""
        text, self._row = self._search.text, self._search.skipped
        self._search = HeaderSearch()
        self._delimiter = delimiter
        self._records = Records(delimiter)
        for start in range(0, len(text), _PIECE):
            if not self._over:
                self._read_records(self._records, text[start : start + _PIECE], products)

    def _read_records(self, records: Records, text: str, products: list[Product]) -> None:
        control = _has_control(text)
        self._suspect = self._suspect or control
        complete = records.feed(text)
        self._take(complete, products)
        # What has not ended began in this text, if anything ended in it.
        self._suspect = records.midway and (control if complete else self._suspect)

    def _take(self, complete: list[Record], products: list[Product]) -> None:
        begun = 0
        while self._rows is None and begun < len(complete) and not self._over:
            self._take_header(complete[begun])
            begun += 1
        if self._rows is not None:
            self._take_rows(self._rows, complete[begun:] if begun else complete, products)
            if self._max_images is not None and self._rows.images > self._max_images:
                self._over = True

    def _take_rows(self, rows: Rows, complete: list[Record], products: list[Product]) -> None:
        suspect = self._suspect
        for row, record in enumerate(complete, self._row + 1):
            if isinstance(record, Broken):
                rows.add_broken(row, record)
            elif (product := rows.read(row, record, suspect=suspect)) is not None:
                products.append(product)
        self._row += len(complete)

    def _take_header(self, record: Record) -> None:
        """Read the first record that is not blank. Without a good header nothing else can be read."""
        row = self._row + 1
        if isinstance(record, Broken):
            if record.binary:
                self._refuse_binary()
            else:
                note_broken(self._errors, row, record, None)
            self._over = True
            return
        if row == 1 and is_hint(record):
            return
        self._row = row
        if is_blank(record):
            return
        layout = read_header(record, row)
        control = [cell for cell in record if CONTROL.search(cell)]
        if control and (isinstance(layout, list) or any("\x00" in cell for cell in control)):
            self._refuse_binary()
        elif isinstance(layout, Layout):
            for cell in control:
                note_control(self._errors, row, cell, cell.strip() or None)
            self._rows = Rows(layout, self._delimiter, self._errors)
        else:
            for fault in layout:
                self._errors.add(fault.code, fault.message, fault.row, fault.column)
            self._over = True

    def _give_up(self, error: DecodingError, products: list[Product]) -> None:
        """Note bytes that are no text, behind all that is wrong before them."""
        if error.text:
            self._read(error.text, products)
        if self._over:
            return
        if self._records is None and _has_control(self._search.text):
            self._refuse_binary()
            return
        row = column = None
        if error.code is FileErrorCode.BAD_ENCODING:
            row = self._row + 1 if self._records else self._search.row
            if self._records and self._rows:
                column = self._rows.layout.title(self._records.cell)
        self._errors.add(error.code, error.message, row, column, error.value)
        self._over = True

    def _refuse_binary(self) -> None:
        self._errors.add(
            FileErrorCode.NOT_CSV,
            "The file is not text, and so no CSV. Save the table as CSV and upload that.",
        )
        self._over = True

    def _note_nothing(self) -> None:
        if self._rows is None:
            self._errors.add(
                FileErrorCode.EMPTY_FILE,
                "The file is empty. It needs a row that names the columns, and a row per product.",
            )
        else:
            self._errors.add(
                FileErrorCode.NO_ROWS,
                "The table has a header, but no product below it. Add a row per product.",
            )


def _has_control(text: str) -> bool:
    """Tell whether there is a control character that no cell may hold; fast where there is none."""
    if text.isascii():
        return len(text.encode().translate(None, _ASCII_CONTROL)) != len(text)
    return CONTROL.search(text) is not None
