"""Records → products, by the header's layout, and the errors of invalid rows."""

from __future__ import annotations

import re
from bisect import bisect_left

from imgsvc.errors import FileErrorCode
from imgsvc.models import Columns, ImageUrl, Product
from imgsvc.table.cells import split_urls
from imgsvc.table.columns import Layout, is_blank
from imgsvc.table.file_errors import FileErrors
from imgsvc.table.records import MAX_CELLS, MAX_RECORD_BYTES, InvalidRecord
from imgsvc.urls import WHITE_SPACE, UrlError, parse_url

MAX_URLS = 1_000
"""Maximum number of URLs in a row."""
MAX_NAME_LENGTH = 512
"""Maximum length of a product name, in characters, after trimming."""

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters that no cell may contain. Quoted cells may contain tabs and line breaks."""

_DELIMITER_EXAMPLES = {
    ",": 'a comma, e.g. "Mug, blue"',
    ";": 'a semicolon, e.g. "Mug; blue"',
    "\t": "a tab",
    "|": 'a pipe, e.g. "Mug | blue"',
}


class RowReader:
    """Reads the records below a header. `has_rows` is true after the first one that is not blank."""

    def __init__(self, layout: Layout, delimiter: str, errors: FileErrors) -> None:
        self._delimiter = delimiter
        self._errors = errors
        self.has_rows = False
        self.products = 0
        self.images = 0
        self.layout = layout
        self._width = layout.width
        self._serial = layout.serial
        self._name = layout.name
        self._urls = layout.urls
        self._extra = layout.extra[: bisect_left(layout.extra, layout.width)]
        self._empty = layout.unnamed

    @property
    def columns(self) -> Columns:
        """The table's columns; unnamed columns only if a row so far has a value in them."""
        return self.layout.columns(empty=set(self._empty))

    def read(self, row: int, cells: list[str], *, may_have_control: bool) -> Product | None:
        """Return the product of a record, or None if the record is blank or invalid.

        `may_have_control` is false if the record is known to contain no control characters.
        """
        if (len(cells) != self._width or not cells[self._name]) and is_blank(cells):
            return None
        if may_have_control:
            cells = self._without_control(row, cells)
        self.has_rows = True
        extra = self._extra
        if len(cells) != self._width:
            fitted = self._fit(row, cells)
            if fitted is None:
                return None
            cells = fitted
            if len(cells) > self._width:
                extra = (*extra, *range(self._width, len(cells)))
        if self._empty and self._empty[0] < len(cells):
            self._check_empty_columns(cells)
        name = cells[self._name]
        name_is_valid = self._check_name(row, name)
        images = self._parse_cell(row, cells[self._urls])
        if not images or not name_is_valid:
            return None
        self.products += 1
        self.images += len(images)
        return Product(
            row,
            str(self.products) if self._serial is None else cells[self._serial],
            name,
            images,
            tuple([cells[n] for n in extra]) if extra else (),
        )

    def add_invalid(self, row: int, record: InvalidRecord) -> None:
        """Record the error of a record that cannot be parsed."""
        self.has_rows = True
        add_invalid_record(self._errors, row, record, self._column_name(record.cell_index))

    def _column_name(self, cell_index: int) -> str | None:
        return self.layout.column_name(cell_index)

    def _check_empty_columns(self, cells: list[str]) -> None:
        """Remove unnamed columns from `_empty` in which this row is the first with a value."""
        among = self._empty[: bisect_left(self._empty, len(cells))]
        if filled := {n for n in among if cells[n] and cells[n].strip(WHITE_SPACE)}:
            self._empty = tuple(n for n in self._empty if n not in filled)

    def _fit(self, row: int, cells: list[str]) -> list[str] | None:
        """Return the cells in the header's width, or None and record an error.

        Padding is dropped. Surplus cells after a last column of URLs are joined with it: they come from
        a list of URLs that was not quoted.
        """
        width = self._width
        filled = len(cells)
        while filled > width and not cells[filled - 1]:
            filled -= 1
        if filled == width:
            return cells[:width]
        max_width, end = len(self.layout.names), filled
        while end > width and not cells[end - 1].strip(WHITE_SPACE):
            end -= 1
        if end > width and self.layout.urls_are_last:
            return [*cells[: width - 1], self._delimiter.join(cells[width - 1 : end])]
        if width <= end <= max_width:
            return cells[: min(filled, max_width)]
        if end > max_width:
            width = max_width
        advice = (
            f"Put quotes around every cell that contains {_DELIMITER_EXAMPLES[self._delimiter]}."
            if end > width
            else "Add the missing cells."
        )
        self._errors.add(
            FileErrorCode.WRONG_CELL_COUNT,
            f"The row has {end:,} cell{'s' if end > 1 else ''}, but the header has {width:,}. {advice}",
            row,
            None,
            cells[width] if end > width else self._delimiter.join(cells),
        )
        return None

    def _check_name(self, row: int, name: str) -> bool:
        """Return whether a product name is valid. If not, record an error."""
        length = len(name.strip(WHITE_SPACE))
        if 0 < length <= MAX_NAME_LENGTH:
            return True
        if length:
            self._errors.add(
                FileErrorCode.TOO_LONG,
                f"The name has {length:,} characters. Shorten it to {MAX_NAME_LENGTH} or fewer.",
                row,
                self._column_name(self._name),
                name.strip(WHITE_SPACE),
            )
        else:
            self._errors.add(
                FileErrorCode.EMPTY_VALUE,
                "The product has no name. Add one, or delete the row.",
                row,
                self._column_name(self._name),
                name,
            )
        return False

    def _parse_cell(self, row: int, cell: str) -> tuple[ImageUrl, ...]:
        """Return the images of a cell. If any URL is invalid, record errors and return `()`."""
        urls = split_urls(cell, MAX_URLS)
        if 0 < len(urls) <= MAX_URLS:
            return self._parse_urls(row, urls)
        column = self._column_name(self._urls)
        if urls:
            self._errors.add(
                FileErrorCode.TOO_MANY_URLS,
                f"The row has more than {MAX_URLS:,} URLs. Split it into several rows.",
                row,
                column,
                cell,
            )
        else:
            self._errors.add(
                FileErrorCode.EMPTY_VALUE,
                "The product has no image URL. Add one, or delete the row.",
                row,
                column,
                cell,
            )
        return ()

    def _parse_urls(self, row: int, urls: list[str]) -> tuple[ImageUrl, ...]:
        images = []
        for number, url in enumerate(urls, 1):
            try:
                images.append(parse_url(url))
            except UrlError as error:
                subject = f"URL {number} of {len(urls)}" if urls[1:] else "The URL"
                self._errors.add(
                    error.code,
                    f"{subject} {error.message}.",
                    row,
                    self._column_name(self._urls),
                    url,
                )
        return tuple(images) if len(images) == len(urls) else ()

    def _without_control(self, row: int, cells: list[str]) -> list[str]:
        """Record control characters as errors. Return the cells without them, for the other checks."""
        for number, cell in enumerate(cells):
            if CONTROL.search(cell):
                add_control_character(self._errors, row, cell, self._column_name(number))
        return [CONTROL.sub("", cell) for cell in cells]


def add_control_character(errors: FileErrors, row: int, cell: str, column: str | None) -> None:
    """Record a cell that contains a control character as an error."""
    found = CONTROL.search(cell)
    character = f"U+{ord(found[0]):04X}" if found else ""
    errors.add(
        FileErrorCode.CONTROL_CHARACTER,
        f"The cell contains an invisible control character ({character}). Delete the text of the "
        "cell and type it again.",
        row,
        column,
        cell,
    )


def add_invalid_record(
    errors: FileErrors, row: int, record: InvalidRecord, column: str | None
) -> None:
    """Record a record that cannot be parsed as an error."""
    if record.code is FileErrorCode.UNCLOSED_QUOTE:
        message = (
            'A quote (") in this row is not closed, or text follows its closing quote. Close every '
            'quoted cell, and write a quote inside one twice, e.g. "Plate, 12"" wide".'
        )
    else:
        message = (
            f"The row is larger than {MAX_RECORD_BYTES // 2**20} MiB or has more than {MAX_CELLS:,} "
            'cells. A common cause is a missing closing quote (") in this row.'
        )
    errors.add(record.code, message, row, column)
