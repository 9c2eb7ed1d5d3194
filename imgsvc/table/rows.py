"""Records → products, by the header's layout; and what is wrong with them."""

from __future__ import annotations

import re
from bisect import bisect_left

from imgsvc.errors import FileError, FileErrorCode
from imgsvc.models import Columns, ImageUrl, Product
from imgsvc.table.cells import split_urls
from imgsvc.table.columns import Layout, is_blank
from imgsvc.table.records import MAX_CELLS, MAX_RECORD_BYTES, Broken
from imgsvc.urls import BLANKS, UrlError, parse_url

MAX_FILE_ERRORS = 100
"""Faults that are kept; all are counted."""
MAX_URLS = 1_000
"""URLs in one row."""
MAX_NAME_LENGTH = 512
"""Characters of a product's name, trimmed."""
MAX_VALUE_LENGTH = 100
"""Characters of an offending value, and of its column's name, that are shown."""

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Characters that no cell may hold. Tabs and line breaks may stand in quoted cells."""


class FileErrors:
    """The faults of a table, in its order: the first 100, and how many there are in all."""

    def __init__(self) -> None:
        self.first: list[FileError] = []
        self.count = 0

    def add(
        self,
        code: FileErrorCode,
        message: str,
        row: int | None = None,
        column: str | None = None,
        value: str | None = None,
    ) -> None:
        self.count += 1
        if len(self.first) < MAX_FILE_ERRORS:
            self.first.append(
                FileError(
                    code, message, row, column and _shortened(column), value and _shortened(value)
                )
            )


def _shortened(value: str) -> str:
    return value if len(value) <= MAX_VALUE_LENGTH else f"{value[: MAX_VALUE_LENGTH - 1]}…"


class Rows:
    """Reads the records below a header. `seen` tells whether there was one that is not blank."""

    def __init__(self, layout: Layout, delimiter: str, errors: FileErrors) -> None:
        self._delimiter = delimiter
        self._errors = errors
        self.seen = False
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
        """The table's columns. Those without a name are among them that held anything so far."""
        return self.layout.columns(empty=set(self._empty))

    def read(self, row: int, cells: list[str], *, suspect: bool) -> Product | None:
        """Make a product of a record, or None where it is blank or faulty.

        `suspect` says that there may be control characters in it.
        """
        if (len(cells) != self._width or not cells[self._name]) and is_blank(cells):
            return None
        if suspect:
            cells = self._without_control(row, cells)
        self.seen = True
        extra = self._extra
        if len(cells) != self._width:
            fitted = self._fit(row, cells)
            if fitted is None:
                return None
            cells = fitted
            if len(cells) > self._width:
                extra = (*extra, *range(self._width, len(cells)))
        if self._empty and self._empty[0] < len(cells):
            self._look_at_unnamed(cells)
        name = cells[self._name]
        named = self._check_name(row, name)
        images = self._images(row, cells[self._urls])
        if not images or not named:
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

    def add_broken(self, row: int, record: Broken) -> None:
        """Note a record that could not be read."""
        self.seen = True
        note_broken(self._errors, row, record, self._title(record.cell))

    def _title(self, cell: int) -> str | None:
        return self.layout.title(cell)

    def _look_at_unnamed(self, cells: list[str]) -> None:
        """See whether a column without a name, and without a value so far, has one here."""
        among = self._empty[: bisect_left(self._empty, len(cells))]
        if filled := {n for n in among if cells[n] and cells[n].strip(BLANKS)}:
            self._empty = tuple(n for n in self._empty if n not in filled)

    def _fit(self, row: int, cells: list[str]) -> list[str] | None:
        """Bring a record to the header's width: drop padding, and join a list that spilled over."""
        width = self._width
        filled = len(cells)
        while filled > width and not cells[filled - 1]:
            filled -= 1
        if filled == width:
            return cells[:width]
        most, end = len(self.layout.names), filled
        while end > width and not cells[end - 1].strip(BLANKS):
            end -= 1
        if end > width and self.layout.spills:
            return [*cells[: width - 1], self._delimiter.join(cells[width - 1 : end])]
        if width <= end <= most:
            return cells[: min(filled, most)]
        if end > most:
            width = most
        delimiter = "tab" if self._delimiter == "\t" else self._delimiter
        self._errors.add(
            FileErrorCode.WRONG_CELL_COUNT,
            f"The row has {end:,} cell{'s' if end > 1 else ''}, the header {width:,}. "
            f"Quote cells that hold the delimiter ( {delimiter} ), and fill up what is missing.",
            row,
            None,
            cells[width] if end > width else self._delimiter.join(cells),
        )
        return None

    def _check_name(self, row: int, name: str) -> bool:
        length = len(name.strip(BLANKS))
        if 0 < length <= MAX_NAME_LENGTH:
            return True
        if length:
            self._errors.add(
                FileErrorCode.TOO_LONG,
                f"The name has {length:,} characters; at most {MAX_NAME_LENGTH} are allowed.",
                row,
                self._title(self._name),
                name.strip(BLANKS),
            )
        else:
            self._errors.add(
                FileErrorCode.EMPTY_VALUE,
                "The product has no name. Fill it in, or remove the row.",
                row,
                self._title(self._name),
                name,
            )
        return False

    def _images(self, row: int, cell: str) -> tuple[ImageUrl, ...]:
        """Give the images of a cell, or nothing where any is faulty."""
        urls = split_urls(cell, MAX_URLS)
        if 0 < len(urls) <= MAX_URLS:
            return self._parsed(row, urls)
        column = self._title(self._urls)
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
                "The product has no image URL. Fill one in, or remove the row.",
                row,
                column,
                cell,
            )
        return ()

    def _parsed(self, row: int, urls: list[str]) -> tuple[ImageUrl, ...]:
        images = []
        for number, url in enumerate(urls, 1):
            try:
                images.append(parse_url(url))
            except UrlError as error:
                which = f"URL {number} of {len(urls)}" if urls[1:] else "The URL"
                self._errors.add(
                    error.code,
                    f"{which} cannot be used: {error.message}.",
                    row,
                    self._title(self._urls),
                    url,
                )
        return tuple(images) if len(images) == len(urls) else ()

    def _without_control(self, row: int, cells: list[str]) -> list[str]:
        """Note control characters, and take them out, so that the rest of the row can be checked."""
        for number, cell in enumerate(cells):
            if CONTROL.search(cell):
                note_control(self._errors, row, cell, self._title(number))
        return [CONTROL.sub("", cell) for cell in cells]


def note_control(errors: FileErrors, row: int, cell: str, column: str | None) -> None:
    """Note a cell with a control character in it."""
    found = CONTROL.search(cell)
    character = f"U+{ord(found[0]):04X}" if found else ""
    errors.add(
        FileErrorCode.CONTROL_CHARACTER,
        f"The cell holds the control character {character}, which is no text. Remove it.",
        row,
        column,
        cell,
    )


def note_broken(errors: FileErrors, row: int, record: Broken, column: str | None) -> None:
    """Note a record that could not be read."""
    if record.code is FileErrorCode.UNCLOSED_QUOTE:
        message = (
            "A quote that opens in this row is not closed properly. Put one at the end of the cell, "
            'and write a quote inside a quoted cell twice ("").'
        )
    else:
        message = (
            f"The row is larger than {MAX_RECORD_BYTES // 2**20} MiB, or has more than {MAX_CELLS:,} "
            "cells. If it should not be, look for a quote that is not closed."
        )
    errors.add(record.code, message, row, column)
