"""A table's header: which column is what, and which delimiter is between them."""

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
from imgsvc.table.records import Broken, Record, Records
from imgsvc.urls import BLANKS

TITLES = {
    ColumnRole.SERIAL: SERIAL_NUMBER,
    ColumnRole.NAME: PRODUCT_NAME,
    ColumnRole.URLS: INPUT_IMAGE_URLS,
}
"""The names of the known columns."""

_USUAL: dict[ColumnRole, frozenset[str]] = {
    ColumnRole.SERIAL: frozenset(
        {"sno", "slno", "srno", "serialno", "snumber", "serialnumber", "serialnum", "serial"}
    ),
    ColumnRole.NAME: frozenset({"productname", "productnames", "nameofproduct"}),
    ColumnRole.URLS: frozenset(
        f"input{images}{links}"
        for images in ("image", "images")
        for links in ("", "url", "urls", "url(s)", "link", "links")
    ),
}
"""The known columns' usual spellings, without case, blanks, dots, underscores and hyphens."""

_LOOSE: dict[ColumnRole, frozenset[str]] = {
    ColumnRole.SERIAL: frozenset({"no", "sn", "#"}),
    ColumnRole.NAME: frozenset({"product", "producttitle", "name", "itemname"}),
    ColumnRole.URLS: frozenset(
        {"imageurls", "imageurl", "imageurl(s)", "imagelinks", "imagelink", "images"}
        | {"inputurls", "inputurl", "urls", "url"}
    ),
}
"""Names that mean a known column only where nothing else in the header does."""

_IGNORED = re.compile(r"[\s._\-\u200b\ufeff]+")


def _plain(name: str) -> str:
    return _IGNORED.sub("", name).casefold()


_OUTPUTS = frozenset(map(_plain, OUTPUT_COLUMNS))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in a record the columns stand.

    `names` are the header's own spellings; a record has at least `width` cells, up to the last column
    with a name, and may have those of the unnamed ones behind it. `extra` are the further columns,
    `unnamed` those of them without a name, of which only the records tell whether they hold anything.
    `spills` says that the URLs are the last column, so that surplus cells belong to them.
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
    def spills(self) -> bool:
        return self.urls == len(self.names) - 1

    def columns(self, empty: Collection[int]) -> Columns:
        """What is kept, where these of the unnamed columns hold nothing."""
        kept = {n: role for n, role in enumerate(self.roles) if role and n not in empty}
        if not any(n > self.urls and self.names[n].strip(BLANKS) for n in kept):
            # The URLs go last: behind them, what has no name would be read as a list that spilled over.
            kept[self.urls] = kept.pop(self.urls)
        return Columns(
            tuple(self.names[n] for n in kept),
            tuple(kept.values()),
            tuple(place for place, n in enumerate(self.extra) if n not in empty),
        )

    def title(self, cell: int) -> str | None:
        """The name, as the header spells it, of the column that a record's cell belongs to."""
        if cell >= len(self.names):
            return self.names[-1].strip(BLANKS) if self.spills else None
        return self.names[cell].strip(BLANKS) or None


MAX_SEARCH = 2**20
"""Characters of a header after which its delimiter is guessed from what there is."""

MAX_UNNAMED_BEHIND = 256
"""Columns without a name behind the last that has one. No row need reach them, but each comes back as
wide as the widest: more would make a huge status of a small table."""

NEEDED = {ColumnRole.NAME, ColumnRole.URLS}


def read_header(cells: Sequence[str], row: int) -> Layout | list[FileError]:
    """Find the columns in a header, or say what is wrong with it."""
    names = list(cells)
    roles = _roles(names)
    if errors := [fault for role in TITLES if (fault := _wrong(role, names, roles, row))]:
        return errors
    width = 1 + max(n for n, name in enumerate(names) if name.strip(BLANKS))
    urls = roles.index(ColumnRole.URLS)
    most = width if urls == width - 1 else width + MAX_UNNAMED_BEHIND
    del names[most:], roles[most:]
    return Layout(
        names=tuple(names),
        roles=tuple(roles),
        width=width,
        serial=roles.index(ColumnRole.SERIAL) if ColumnRole.SERIAL in roles else None,
        name=roles.index(ColumnRole.NAME),
        urls=urls,
        extra=tuple(n for n, role in enumerate(roles) if role is ColumnRole.EXTRA),
        unnamed=tuple(n for n, name in enumerate(names) if not name.strip(BLANKS)),
    )


def _roles(names: Sequence[str]) -> list[ColumnRole | None]:
    """Tell each column's role; None: it is dropped."""
    plain = [_plain(name) for name in names]
    roles = [_role(name) for name in plain]
    for role, spellings in _LOOSE.items():
        loose = [number for number, name in enumerate(plain) if name in spellings]
        if role not in roles and len(loose) == 1:
            roles[loose[0]] = role
    return roles


def _role(plain: str) -> ColumnRole | None:
    if plain in _OUTPUTS:
        return None
    return next(
        (role for role, spellings in _USUAL.items() if plain in spellings), ColumnRole.EXTRA
    )


def _wrong(
    role: ColumnRole, names: Sequence[str], roles: Sequence[ColumnRole | None], row: int
) -> FileError | None:
    title = TITLES[role]
    found = [name.strip(BLANKS) for name, its in zip(names, roles, strict=True) if its is role]
    if len(found) > 1:
        return FileError(
            FileErrorCode.DUPLICATE_COLUMN,
            f'More than one column is "{title}": {_listed(found)}. Keep one, rename the others.',
            row,
            found[1],
        )
    if found or role not in NEEDED:
        return None
    return FileError(
        FileErrorCode.MISSING_COLUMN,
        f'There is no column "{title}". The first row must name the columns; it has '
        f"{_listed([name.strip(BLANKS) for name in names if name.strip(BLANKS)])}.",
        row,
        title,
    )


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(f'"{name}"' for name in names)
    return text if len(text) <= 300 else f"{text[:299]}…"


class HeaderSearch:
    """Finds the delimiter: the one with which the first record that is not blank makes sense.

    The text is tried with every delimiter at once, as a quoted cell ends elsewhere with each.
    """

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._tries = {delimiter: Records(delimiter) for delimiter in DELIMITERS}
        self._sense: dict[str, tuple[bool, int, int]] = {}
        self._certain = False
        self.row = 1
        """The number of the record that is being read."""
        self.skipped = 0
        """How many records before `text` were blank."""

    @property
    def text(self) -> str:
        """The text that was taken, from the header on at least."""
        return self._text.getvalue()

    def feed(self, text: str) -> str | None:
        """Take more text, and give the delimiter as soon as it is known."""
        self._text.write(text)
        for delimiter, records in self._tries.items():
            if delimiter not in self._sense:
                self._look(delimiter, records.feed(text))
        found = len(self._sense)
        if self._certain or found == len(self._tries) or self._text.tell() > MAX_SEARCH:
            return self._best()
        if not found and text[-1:] != "\r" and not any(t.midway for t in self._tries.values()):
            self._text = io.StringIO(newline="")
            self.skipped = self.row - 1
        return None

    def close(self) -> str:
        """Give the delimiter that is the likeliest by now."""
        for delimiter, records in self._tries.items():
            if delimiter not in self._sense:
                self._look(delimiter, records.close())
        return self._best()

    def _look(self, delimiter: str, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, Broken):
                self._sense[delimiter] = (False, 0, record.cell)
                return
            if not is_blank(record):
                hint, known = is_hint(record), _known(record)
                self._sense[delimiter] = (hint, len(known), len(record) - 1)
                self._certain = self._certain or hint or known >= NEEDED
                return
            if delimiter == DELIMITERS[0]:
                self.row += 1

    def _best(self) -> str:
        def sense(delimiter: str) -> tuple[bool, int, int]:
            return self._sense.get(delimiter) or (False, 0, self._tries[delimiter].cell)

        return max(DELIMITERS, key=sense)


def is_hint(cells: Sequence[str]) -> bool:
    """Tell a first line `sep=;`, which Excel understands and does not show."""
    return len(cells) == 2 and cells[0].lower() == "sep=" and not cells[1]


def is_blank(cells: list[str]) -> bool:
    """Tell a record without any value: a blank line, or empty cells that fill a sheet up."""
    return not "".join(cells).strip(BLANKS)


def _known(cells: Sequence[str]) -> set[ColumnRole | None]:
    return {*_roles(cells)} - {None, ColumnRole.EXTRA}
