"""The errors of a table, with the cells of the rows that they are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imgsvc.errors import FileError, FileErrorCode
from imgsvc.table.columns import Header
from imgsvc.table.records import InvalidRecord, Record
from imgsvc.urls import WHITE_SPACE

MAX_FILE_ERRORS = 100
"""Maximum number of errors that are kept. All are counted."""
MAX_VALUE_LENGTH = 100
"""Maximum length of an invalid value, and of its column's name, in an error; in characters."""
MAX_SHOWN_CELLS = 50
"""Maximum number of cells of an invalid row that are kept."""
MAX_CELL_LENGTH = 200
"""Maximum length of such a cell, in characters."""
MAX_SHOWN_HEADERS = 500
"""Maximum number of columns that are named if a header is invalid."""


class FileErrors:
    """Collects the errors of a table in its order: the first 100, and the number of all.

    `refused` is whether an error refuses the whole table. With `skips_rows`, errors in the values of a
    row do not, and the errors of each row are collected too.
    """

    def __init__(self, *, skips_rows: bool = False) -> None:
        self.first: list[FileError] = []
        self.count = 0
        self.refused = False
        self._skips_rows = skips_rows
        self._of_row: list[FileError] = []

    def add(
        self,
        code: FileErrorCode,
        message: str,
        row: int | None = None,
        column: str | None = None,
        value: str | None = None,
        *,
        refuses: bool = False,
    ) -> None:
        """Record an error."""
        self.count += 1
        self.refused = self.refused or refuses or not self._skips_rows
        lists = [self.first, self._of_row] if self._skips_rows else [self.first]
        if open_lists := [errors for errors in lists if len(errors) < MAX_FILE_ERRORS]:
            column, value = column and _shortened(column), value and _shortened(value)
            error = FileError(code, message, row, column, value)
            for errors in open_lists:
                errors.append(error)

    def add_refusing(self, error: FileError) -> None:
        """Record an error that refuses the whole table."""
        self.count += 1
        self.refused = True
        if len(self.first) < MAX_FILE_ERRORS:
            column, value = error.column, error.value
            error = replace(
                error, column=column and _shortened(column), value=value and _shortened(value)
            )
            self.first.append(error)

    def take_row(self) -> tuple[FileError, ...]:
        """Return the errors since the last call, at most 100."""
        errors, self._of_row = tuple(self._of_row), []
        return errors

    def refuse(self, code: FileErrorCode, message: str) -> None:
        """Record an error of the whole table before all others."""
        self.count += 1
        self.refused = True
        self.first = [FileError(code, message), *self.first[: MAX_FILE_ERRORS - 1]]

    def add_cells(self, first_row: int, records: Sequence[Record], excerpts: RowExcerpts) -> None:
        """Add the cells of these records, the first of which has the number `first_row`."""
        for number, error in enumerate(self.first):
            if error.cells is not None or error.row is None:
                continue
            index = error.row - first_row
            if 0 <= index < len(records):
                record = records[index]
                if not isinstance(record, InvalidRecord):
                    cells = excerpts.cells(record, error.value)
                    self.first[number] = replace(error, cells=cells)


def shown_headers(headers: Sequence[str]) -> tuple[str, ...]:
    """Return the names to choose columns from. Those that are too long for a column are left out."""
    return tuple(name for name in headers if len(name) <= MAX_VALUE_LENGTH)[:MAX_SHOWN_HEADERS]


class RowExcerpts:
    """Selects the cells of invalid rows that are shown with their errors.

    `columns` are the names of the columns that are shown: at most `MAX_SHOWN_CELLS` of those with a
    name, the serial number, the product name and the image columns first.
    """

    def __init__(self, header: Header, delimiter: str) -> None:
        self._header = header
        self._delimiter = delimiter
        known = {n for n in (header.serial, header.name, *header.images) if n is not None}
        known = set(sorted(known)[:MAX_SHOWN_CELLS])
        others = [
            n for n, name in enumerate(header.names) if name.strip(WHITE_SPACE) and n not in known
        ]
        self._positions = sorted([*known, *others[: MAX_SHOWN_CELLS - len(known)]])
        self.columns = tuple(
            _shortened(header.names[n].strip(WHITE_SPACE)) for n in self._positions
        )

    def cells(self, record: list[str], value: str | None) -> tuple[str, ...]:
        """Return the row's cells in `columns`, then its surplus cells up to the last that is not blank.

        Surplus cells that belong to a list of URLs are joined with it. Of a long cell, the part around
        the invalid value is returned.
        """
        width, end = self._header.max_width, len(record)
        while end > width and not record[end - 1].strip(WHITE_SPACE):
            end -= 1
        record = record[:end]
        if self._header.images_are_last and end > width:
            record = [*record[: width - 1], self._delimiter.join(record[width - 1 :])]
        shown = [record[n] if n < len(record) else "" for n in self._positions]
        shown += record[width:][: MAX_SHOWN_CELLS - len(shown)]
        return tuple(_excerpt(cell, value) for cell in shown)


def _shortened(value: str) -> str:
    return value if len(value) <= MAX_VALUE_LENGTH else f"{value[: MAX_VALUE_LENGTH - 1]}…"


def _excerpt(cell: str, value: str | None) -> str:
    """Return a cell, or the part of it around the value if it is long. An ellipsis marks each cut."""
    if len(cell) <= MAX_CELL_LENGTH:
        return cell
    found = cell.find(value.removesuffix("…")) if value else 0
    start = max(0, found - MAX_CELL_LENGTH // 4)
    end = start + MAX_CELL_LENGTH - 2
    return f"{'…' if start else ''}{cell[start:end]}{'…' if end < len(cell) else ''}"
