"""Records → products, by the table's header, and the errors of invalid rows."""

from __future__ import annotations

import re
from bisect import bisect_left

from imgsvc.errors import FileErrorCode
from imgsvc.table.cells import join_urls, split_cell, url_text
from imgsvc.table.columns import Header, is_blank
from imgsvc.table.file_errors import FileErrors
from imgsvc.table.groups import ProductGroup, ProductGroups
from imgsvc.table.records import MAX_CELLS, MAX_RECORD_BYTES, InvalidRecord
from imgsvc.table_types import (
    Columns,
    ImageCell,
    ImageUrl,
    Product,
    SourceCells,
    TableOptions,
)
from imgsvc.urls import WHITE_SPACE, UrlError, parse_url

MAX_URLS = 1_000
"""Maximum number of URLs in a row."""
MAX_NAME_LENGTH = 512
"""Maximum length of a product name, in characters, after trimming."""

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters that no cell may contain. Quoted cells may contain tabs and line breaks."""

_SCHEME_FIRST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+://")
_PLAIN_CELL = re.compile(
    r"https?://[A-Za-z0-9._~:/?#@!$*+()=%-]*+(?<=[A-Za-z0-9])"
    r"(?>(?:,https?://[A-Za-z0-9._~:/?#@!$*+()=%-]*+(?<=[A-Za-z0-9]))*)"
)
"""URLs without decoration, separated by commas. Most cells are such; they need no closer look."""
_NO_IMAGE = frozenset({"n/a", "-", "none", "null"})
"""Values that mean "no image" outside the standard layout, in lower case."""

_DELIMITER_EXAMPLES = {
    ",": 'a comma, e.g. "Mug, blue"',
    ";": 'a semicolon, e.g. "Mug; blue"',
    "\t": "a tab",
    "|": 'a pipe, e.g. "Mug | blue"',
}


class RowReader:
    """Reads the records below a header. `has_rows` is true after the first one that is not blank.

    `products` and `images` are the numbers of valid rows and of their images, `skipped` the number of
    invalid rows that were skipped. `has_text` is whether an image column has a value that is not a URL.
    With `pads`, a short record has empty cells at its end.
    """

    def __init__(
        self,
        header: Header,
        delimiter: str,
        errors: FileErrors,
        options: TableOptions,
        *,
        pads: bool = False,
    ) -> None:
        self._delimiter = delimiter
        self._errors = errors
        self._skips = options.skip_invalid
        self._pads = pads
        self._allows_empty = options.allow_empty or header.is_status_csv or not header.is_standard
        self._groups = None if header.is_standard else ProductGroups()
        self.has_rows = False
        self.has_text = False
        self.products = 0
        self.images = 0
        self.skipped = 0
        self.header = header
        self._width = header.width
        self._serial = header.serial
        self._name = header.name
        self._first_cell = header.images[0] if header.name is None else header.name
        self._image = header.images[0] if len(header.images) == 1 else None
        self._extra = header.held[: bisect_left(header.held, header.width)]
        self._empty = header.unnamed

    @property
    def columns(self) -> Columns:
        """The table's columns. Unnamed ones are dropped unless a row so far has a value in them."""
        return self.header.columns(empty=set(self._empty))

    def read(self, row: int, cells: list[str], *, may_have_control: bool) -> Product | None:
        """Return the product of a record, or None if the record is blank, or invalid and not skipped.

        `may_have_control` is false if the record is known to contain no control characters.
        """
        if (len(cells) != self._width or not cells[self._first_cell]) and is_blank(cells):
            return None
        self.has_rows = True
        record, errors_before = cells, self._errors.count
        if may_have_control:
            cells = self._without_control(row, cells)
        extra = self._extra
        if len(cells) != self._width:
            fitted = self._fit(row, cells)
            if fitted is None:
                return self._skip(row, record)
            cells = fitted
            if len(cells) > self._width:
                extra = self.header.held[: bisect_left(self.header.held, len(cells))]
        if self._empty and self._empty[0] < len(cells):
            self._check_empty_columns(cells)
        given = "" if self._name is None else cells[self._name]
        name = given
        group: ProductGroup | None = None
        if self._groups is not None or len(given) > MAX_NAME_LENGTH or not given.strip(WHITE_SPACE):
            name, group = self._find_name(row, cells, given)
        images, source = self._read_images(row, cells)
        if self._errors.count > errors_before:
            return self._skip(row, record)
        if source is None and name != given:
            source = (split_cell(cells[self.header.images[0]], MAX_URLS),)
        position = 1
        if group is not None:
            position += group.images
            group.images += len(images)
        self.products += 1
        self.images += len(images)
        return Product(
            row,
            str(self.products + self.skipped) if self._serial is None else cells[self._serial],
            name,
            images,
            tuple([cells[n] for n in extra]) if extra else (),
            position,
            None if source is None else SourceCells(given, source),
        )

    def add_invalid(self, row: int, record: InvalidRecord) -> None:
        """Record the error of a record that cannot be parsed. It refuses the table."""
        self.has_rows = True
        add_invalid_record(self._errors, row, record, self._column_name(record.cell_index))

    def _skip(self, row: int, record: list[str]) -> Product | None:
        """Return an invalid record with its errors if such rows are skipped."""
        if not self._skips:
            return None
        self.skipped += 1

        def cell(position: int | None) -> str:
            return "" if position is None or position >= len(record) else record[position]

        return Product(
            row,
            str(self.products + self.skipped) if self._serial is None else cell(self._serial),
            cell(self._name),
            (),
            tuple(record[n] for n in self.header.held if n < len(record)),
            cells=tuple(record),
            errors=self._errors.take_row(),
        )

    def _column_name(self, cell_index: int) -> str | None:
        return self.header.column_name(cell_index)

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
        if filled < width and self._pads:
            return [*cells, *[""] * (width - filled)]
        if filled == width:
            return cells[:width]
        max_width, end = self.header.max_width, filled
        while end > width and not cells[end - 1].strip(WHITE_SPACE):
            end -= 1
        if end > width and self.header.images_are_last:
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

    def _find_name(self, row: int, cells: list[str], given: str) -> tuple[str, ProductGroup | None]:
        """Return the name of a row's product, and its group outside the standard layout.

        If the name is invalid, record an error.
        """
        length = len(given.strip(WHITE_SPACE))
        if length > MAX_NAME_LENGTH:
            self._errors.add(
                FileErrorCode.TOO_LONG,
                f"The name has {length:,} characters. Shorten it to {MAX_NAME_LENGTH} or fewer.",
                row,
                self._column_name(self._first_cell),
                given.strip(WHITE_SPACE),
            )
            given = given.strip(WHITE_SPACE)[:MAX_NAME_LENGTH]
        if self._groups is not None:
            key = "" if self.header.group is None else cells[self.header.group].strip(WHITE_SPACE)
            group = self._groups.find(key, given if length else "")
            return group.name or self._fallback_name(row, cells), group
        if not length:
            self._errors.add(
                FileErrorCode.EMPTY_VALUE,
                "The product has no name. Add one, or delete the row.",
                row,
                self._column_name(self._first_cell),
                given,
            )
        return given, None

    def _fallback_name(self, row: int, cells: list[str]) -> str:
        """Return the SKU, handle or id of a row; if it has none, its number."""
        for position in self.header.fallbacks:
            name = cells[position].strip(WHITE_SPACE)
            if 0 < len(name) <= MAX_NAME_LENGTH:
                return name
        return f"Row {row}"

    def _read_images(
        self, row: int, cells: list[str]
    ) -> tuple[tuple[ImageUrl, ...], tuple[ImageCell, ...] | None]:
        """Return the images of a row, and its image cells if the URLs alone do not rebuild them.

        Record an error for each invalid URL.
        """
        if self._image is not None and _PLAIN_CELL.fullmatch(cell := cells[self._image]):
            try:
                if "," not in cell:
                    return (parse_url(cell),), None
                if cell.count(",") < MAX_URLS:
                    return tuple(map(parse_url, cell.split(","))), None
            except UrlError:
                pass
        positions = self.header.images
        images: list[ImageUrl] = []
        split: list[ImageCell] = []
        for position in positions:
            pieces = split_cell(cells[position], MAX_URLS)
            if self._groups is not None:
                pieces = self._without_text(pieces)
            if len(images) + len(pieces) // 2 > MAX_URLS:
                self._errors.add(
                    FileErrorCode.TOO_MANY_URLS,
                    f"The row has more than {MAX_URLS:,} URLs. Split it into several rows.",
                    row,
                    self._column_name(position),
                    cells[position],
                )
                return (), None
            self._parse_urls(row, position, pieces, images)
            split.append(pieces)
        if not images and not self._allows_empty and all(len(pieces) == 1 for pieces in split):
            self._errors.add(
                FileErrorCode.EMPTY_VALUE,
                "The product has no image URL. Add one, or delete the row.",
                row,
                self._column_name(positions[0]),
                cells[positions[0]],
            )
        if len(positions) == 1 and cells[positions[0]] == join_urls([i.text for i in images]):
            return tuple(images), None
        return tuple(images), tuple(split)

    def _without_text(self, cell: ImageCell) -> ImageCell:
        """Return a cell in which only the parts with a scheme are URLs. The others are text."""
        if len(cell) == 3 and cell[1].startswith(("https://", "http://")):
            return cell
        pieces = [cell[0]]
        for n in range(1, len(cell), 2):
            if _SCHEME_FIRST.match(url_text(cell[n])):
                pieces += cell[n : n + 2]
            else:
                pieces[-1] += cell[n] + cell[n + 1]
                self.has_text = self.has_text or cell[n].strip().casefold() not in _NO_IMAGE
        return tuple(pieces)

    def _parse_urls(self, row: int, position: int, cell: ImageCell, images: list[ImageUrl]) -> None:
        """Append the images of a cell. Record an error for each invalid URL."""
        for n in range(1, len(cell), 2):
            url = url_text(cell[n])
            try:
                images.append(parse_url(url))
            except UrlError as error:
                subject = "The URL" if len(cell) == 3 else f"URL {n // 2 + 1} of {len(cell) // 2}"
                self._errors.add(
                    error.code,
                    f"{subject} {error.message}.",
                    row,
                    self._column_name(position),
                    url,
                )

    def _without_control(self, row: int, cells: list[str]) -> list[str]:
        """Record control characters as errors. Return the cells without them, for the other checks."""
        for number, cell in enumerate(cells):
            if CONTROL.search(cell):
                add_control_character(self._errors, row, cell, self._column_name(number))
        return [CONTROL.sub("", cell) for cell in cells]


def add_control_character(
    errors: FileErrors, row: int, cell: str, column: str | None, *, refuses: bool = False
) -> None:
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
        refuses=refuses,
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
    errors.add(record.code, message, row, column, refuses=True)
