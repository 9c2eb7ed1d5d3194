"""A table's header: the role of each column, and the delimiter."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from imgsvc.errors import FileError, FileErrorCode
from imgsvc.models import ColumnRole, Columns
from imgsvc.table.cells import (
    DELIMITERS,
    INPUT_IMAGE_URLS,
    OUTPUT_COLUMNS,
    PRODUCT_NAME,
    SERIAL_NUMBER,
)
from imgsvc.table.records import InvalidRecord, Record, RecordParser
from imgsvc.urls import WHITE_SPACE

TITLES = {
    ColumnRole.SERIAL: SERIAL_NUMBER,
    ColumnRole.NAME: PRODUCT_NAME,
    ColumnRole.IMAGE: INPUT_IMAGE_URLS,
}
"""The titles of the standard columns."""

_SPELLINGS: dict[ColumnRole, frozenset[str]] = {
    ColumnRole.SERIAL: frozenset(
        {"sno", "slno", "srno", "serialno", "snumber", "serialnumber", "serialnum", "serial"}
    ),
    ColumnRole.NAME: frozenset({"productname", "productnames", "nameofproduct"}),
    ColumnRole.IMAGE: frozenset(
        f"input{images}{links}"
        for images in ("image", "images")
        for links in ("", "url", "urls", "url(s)", "link", "links")
    ),
}
"""Usual spellings of the standard columns, normalised by `_normalised`."""

_LOOSE_SPELLINGS: dict[ColumnRole, frozenset[str]] = {
    ColumnRole.SERIAL: frozenset({"no", "sn", "#"}),
    ColumnRole.NAME: frozenset({"product", "producttitle", "name", "itemname"}),
    ColumnRole.IMAGE: frozenset(
        {"imageurls", "imageurl", "imageurl(s)", "imagelinks", "imagelink", "images"}
        | {"inputurls", "inputurl", "urls", "url"}
    ),
}
"""Spellings that name a standard column only if no other name in the header does."""

_IGNORED = re.compile(r"[\s._\-\u200b\ufeff]+")


def _normalised(name: str) -> str:
    """Return a column name in one case, without white space, dots, underscores and hyphens."""
    return _IGNORED.sub("", name).casefold()


_OUTPUTS = frozenset(map(_normalised, OUTPUT_COLUMNS))


@dataclass(frozen=True, slots=True)
class Layout:
    """The positions of the columns in a record.

    `names` are the header's own spellings. `width` is the number of columns up to the last one with a
    name. A record has at least `width` cells, and may have more for the unnamed columns after them.
    `extra` are the positions of the extra columns. `unnamed` are the positions of the columns without
    a name; only the rows show whether these have any value.
    """

    names: tuple[str, ...]
    roles: tuple[ColumnRole | None, ...]
    width: int
    serial: int | None
    name: int
    urls: int
    extra: tuple[int, ...]
    unnamed: tuple[int, ...]

    @property
    def urls_are_last(self) -> bool:
        """Whether the URLs are the last column, so that surplus cells of a row belong to them."""
        return self.urls == len(self.names) - 1

    def columns(self, empty: Collection[int]) -> Columns:
        """Return the columns to keep. `empty` are the positions of unnamed columns without values."""
        kept = {n: role for n, role in enumerate(self.roles) if role and n not in empty}
        if not any(n > self.urls and self.names[n].strip(WHITE_SPACE) for n in kept):
            # Move the URLs to the end: unnamed columns after them would be read as more URLs.
            kept[self.urls] = kept.pop(self.urls)
        return Columns(
            tuple(self.names[n] for n in kept),
            tuple(kept.values()),
            tuple(position for position, n in enumerate(self.extra) if n not in empty),
        )

    def column_name(self, cell_index: int) -> str | None:
        """Return the name of the column that a cell belongs to, in the header's spelling."""
        if cell_index >= len(self.names):
            return self.names[-1].strip(WHITE_SPACE) if self.urls_are_last else None
        return self.names[cell_index].strip(WHITE_SPACE) or None


MAX_DETECTION_LENGTH = 2**20
"""Characters of a header after which the delimiter is guessed from the text so far."""

MAX_TRAILING_UNNAMED = 256
"""Maximum number of unnamed columns after the last named one.

Rows need not contain these columns, but the status pads every row to the widest one. More columns would
turn a small table into a huge status CSV.
"""

REQUIRED = {ColumnRole.NAME, ColumnRole.IMAGE}


def read_header(cells: Sequence[str], row: int) -> Layout | list[FileError]:
    """Return the layout of a header, or its errors."""
    names = list(cells)
    roles = _roles(names)
    if errors := [error for role in TITLES if (error := _check_column(role, names, roles, row))]:
        return errors
    width = 1 + max(n for n, name in enumerate(names) if name.strip(WHITE_SPACE))
    urls = roles.index(ColumnRole.IMAGE)
    max_width = width if urls == width - 1 else width + MAX_TRAILING_UNNAMED
    del names[max_width:], roles[max_width:]
    return Layout(
        names=tuple(names),
        roles=tuple(roles),
        width=width,
        serial=roles.index(ColumnRole.SERIAL) if ColumnRole.SERIAL in roles else None,
        name=roles.index(ColumnRole.NAME),
        urls=urls,
        extra=tuple(n for n, role in enumerate(roles) if role is ColumnRole.EXTRA),
        unnamed=tuple(n for n, name in enumerate(names) if not name.strip(WHITE_SPACE)),
    )


def _roles(names: Sequence[str]) -> list[ColumnRole | None]:
    """Return the role of each column; None for an output column, which is dropped."""
    normalised = [_normalised(name) for name in names]
    roles = [_role(name) for name in normalised]
    for role, spellings in _LOOSE_SPELLINGS.items():
        loose = [number for number, name in enumerate(normalised) if name in spellings]
        if role not in roles and len(loose) == 1:
            roles[loose[0]] = role
    return roles


def _role(normalised: str) -> ColumnRole | None:
    if normalised in _OUTPUTS:
        return None
    return next(
        (role for role, spellings in _SPELLINGS.items() if normalised in spellings),
        ColumnRole.EXTRA,
    )


def _check_column(
    role: ColumnRole, names: Sequence[str], roles: Sequence[ColumnRole | None], row: int
) -> FileError | None:
    """Return an error if the column of this role is duplicate, or required and missing."""
    title = TITLES[role]
    found = [name.strip(WHITE_SPACE) for name, its in zip(names, roles, strict=True) if its is role]
    if len(found) > 1:
        return FileError(
            FileErrorCode.DUPLICATE_COLUMN,
            f'Several columns mean "{title}": {_quoted_list(found)}. Keep one and rename the others.',
            row,
            found[1],
        )
    if found or role not in REQUIRED:
        return None
    named = [name.strip(WHITE_SPACE) for name in names if name.strip(WHITE_SPACE)]
    return FileError(
        FileErrorCode.MISSING_COLUMN,
        f'The column "{title}" is missing. Add it, or rename the column that holds these values. '
        f"Row {row:,} names the columns; it has {_quoted_list(named)}.",
        row,
        title,
    )


def _quoted_list(names: Sequence[str]) -> str:
    text = ", ".join(f'"{name}"' for name in names)
    return text if len(text) <= 300 else f"{text[:299]}…"


class DelimiterDetector:
    """Finds the delimiter with which the first record that is not blank has the most known columns.

    The text is parsed with all delimiters in parallel, because the end of a quoted cell depends on the
    delimiter.
    """

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._parsers = {delimiter: RecordParser(delimiter) for delimiter in DELIMITERS}
        self._scores: dict[str, tuple[bool, int, int]] = {}
        self._certain = False
        self.row = 1
        """The number of the record that is being read."""
        self.skipped = 0
        """The number of blank records before `text`."""

    @property
    def text(self) -> str:
        """The text that was fed. Blank records before the header may be left out."""
        return self._text.getvalue()

    def feed(self, text: str) -> str | None:
        """Add more text. Return the delimiter, or None if it is not known yet."""
        self._text.write(text)
        for delimiter, parser in self._parsers.items():
            if delimiter not in self._scores:
                self._score(delimiter, parser.feed(text))
        scored = len(self._scores)
        if (
            self._certain
            or scored == len(self._parsers)
            or self._text.tell() > MAX_DETECTION_LENGTH
        ):
            return self._best()
        if (
            not scored
            and text[-1:] != "\r"
            and not any(p.in_record for p in self._parsers.values())
        ):
            self._text = io.StringIO(newline="")
            self.skipped = self.row - 1
        return None

    def close(self) -> str:
        """Return the most likely delimiter, at the end of the text."""
        for delimiter, parser in self._parsers.items():
            if delimiter not in self._scores:
                self._score(delimiter, parser.close())
        return self._best()

    def _score(self, delimiter: str, records: Sequence[Record]) -> None:
        """Score a delimiter by the first record that is not blank.

        A score is: whether the record is a line `sep=;`, the number of known columns, the number of
        delimiters.
        """
        for record in records:
            if isinstance(record, InvalidRecord):
                self._scores[delimiter] = (False, 0, record.cell_index)
                return
            if not is_blank(record):
                hint, known = is_separator_line(record), _known_roles(record)
                self._scores[delimiter] = (hint, len(known), len(record) - 1)
                self._certain = self._certain or hint or known >= REQUIRED
                return
            if delimiter == DELIMITERS[0]:
                self.row += 1

    def _best(self) -> str:
        def score(delimiter: str) -> tuple[bool, int, int]:
            return self._scores.get(delimiter) or (False, 0, self._parsers[delimiter].cell_index)

        return max(DELIMITERS, key=score)


def is_separator_line(cells: Sequence[str]) -> bool:
    """Return whether a first line is `sep=;`, which sets the delimiter in Excel and is not shown."""
    return len(cells) == 2 and cells[0].lower() == "sep=" and not cells[1]


def is_blank(cells: list[str]) -> bool:
    """Return whether a record has no value: it is a blank line, or all its cells are empty."""
    return not "".join(cells).strip(WHITE_SPACE)


def _known_roles(cells: Sequence[str]) -> set[ColumnRole | None]:
    return {*_roles(cells)} - {None, ColumnRole.EXTRA}
