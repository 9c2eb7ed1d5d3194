"""A table's header: the position and the role of each column, or the errors of the header."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from imgsvc.errors import FileError, FileErrorCode, Suggestion
from imgsvc.table.cells import INPUT_IMAGE_URLS, OUTPUT_COLUMNS, PRODUCT_NAME, SERIAL_NUMBER
from imgsvc.table.layouts import (
    FALLBACK_NAMES,
    GENERIC_LAYOUT,
    LAYOUTS,
    STANDARD,
    Layout,
    find_first,
    find_layout,
    has_url,
    normalised,
)
from imgsvc.table.records import InvalidRecord, Record
from imgsvc.table_types import (
    HELD_ROLES,
    ColumnRole,
    Columns,
    TableOptions,
)
from imgsvc.urls import WHITE_SPACE

TITLES = {
    ColumnRole.SERIAL: SERIAL_NUMBER,
    ColumnRole.NAME: PRODUCT_NAME,
    ColumnRole.IMAGE: INPUT_IMAGE_URLS,
}
"""The titles of the standard columns."""

_SERIAL = frozenset(
    {"sno", "slno", "srno", "serialno", "snumber", "serialnumber", "serialnum", "serial"}
)
"""Usual spellings of the serial number, normalised."""
_LOOSE_SERIAL = frozenset({"no", "sn", "#"})
_LOOSE_NAME = frozenset({"product", "producttitle", "name", "itemname"})
"""Spellings that name a column of the standard layout only if exactly one header has one of them."""

_OUTPUTS = frozenset(map(normalised, OUTPUT_COLUMNS))
_STATUS_CSV = [
    normalised(name) for name in (SERIAL_NUMBER, PRODUCT_NAME, INPUT_IMAGE_URLS, *OUTPUT_COLUMNS)
]
"""The first columns of a status CSV, normalised. The columns after them are the upload's own."""
_IMAGE_ADDRESS = re.compile(
    r"https?://[^\s,;|]+?\.(?:jpe?g|png|webp|gif|avif|heic|bmp|tiff?)(?![A-Za-z0-9])", re.IGNORECASE
)

_SEARCHED_LENGTH = 300
"""Characters of a cell in which the address of an image is searched."""
_EXAMPLE_LENGTH = 100
"""Characters of such a cell that are shown."""
_MAX_SUGGESTIONS = 10
"""Maximum number of columns with images that an error suggests."""

MAX_TRAILING_UNNAMED = 256
"""Maximum number of unnamed columns after the last named one.

Rows need not contain these columns, but the status pads every row to the widest one. More columns would
turn a small table into a huge status CSV.
"""


@dataclass(frozen=True, slots=True)
class Header:
    """The layout of a table, and the positions of the columns in a record.

    `names` are the header's own spellings. `width` is the number of columns up to the last one with a
    name. A record has at least `width` cells, and may have more for the unnamed columns after them.
    `held` are the positions of the columns whose cells are in `Product.extra`. `unnamed` are the
    positions of the columns without a name; only the rows show whether these have any value.
    `fallbacks` are the positions of the columns that replace a missing name, the best first.
    `is_status_csv` is whether the table has all columns that the status CSV adds.
    """

    layout: str
    names: tuple[str, ...]
    roles: tuple[ColumnRole, ...]
    width: int
    serial: int | None
    name: int | None
    images: tuple[int, ...]
    group: int | None
    held: tuple[int, ...]
    unnamed: tuple[int, ...]
    fallbacks: tuple[int, ...]
    is_status_csv: bool

    @property
    def is_standard(self) -> bool:
        """Whether the rules of the standard layout apply: every row has a name, and only URLs."""
        return self.layout == STANDARD

    @property
    def images_are_last(self) -> bool:
        """Whether an image column is the last one, so that surplus cells of a row belong to it."""
        return self.width - 1 in self.images

    @property
    def max_width(self) -> int:
        """The maximum number of cells of a record, surplus cells of an image column apart."""
        return self.width if self.images_are_last else len(self.names)

    def columns(self, empty: Collection[int]) -> Columns:
        """Return the table's columns. `empty` are the positions of unnamed columns without values."""
        roles = tuple(
            ColumnRole.DROPPED if n in empty else role for n, role in enumerate(self.roles)
        )
        return Columns(self.names, roles, tuple(range(len(self.held))))

    def column_name(self, cell_index: int) -> str | None:
        """Return the name of the column that a cell belongs to, in the header's spelling."""
        if self.images_are_last:
            cell_index = min(cell_index, self.width - 1)
        elif cell_index >= len(self.names):
            return None
        return self.names[cell_index].strip(WHITE_SPACE) or None


def read_header(
    cells: Sequence[str], row: int, options: TableOptions, rows_below: Iterable[Record] = ()
) -> Header | list[FileError]:
    """Return the header of a table, or its errors.

    `rows_below` are a few of the next records; errors name the columns that seem to have image URLs.
    """
    layout = find_layout(cells)
    chosen = _chosen_columns(cells, options)
    if chosen.missing:
        return [_missing_column(title, cells, row, rows_below) for title in chosen.missing]
    if layout is None and chosen.images:
        layout = GENERIC_LAYOUT
    if layout is None or layout.name == STANDARD:
        roles = _standard_roles(cells, chosen)
        errors = _missing_columns(cells, roles, row, rows_below)
        errors += _duplicate_columns(cells, roles, row, may_repeat=chosen.images)
        if errors:
            return errors
        layout = LAYOUTS[0]
    else:
        roles = _layout_roles(cells, layout, chosen)
    return _create_header(layout.name, cells, roles)


@dataclass(frozen=True, slots=True)
class _ChosenColumns:
    """The positions of the columns that the options name. `missing` are those the table lacks."""

    name: int | None
    images: tuple[int, ...]
    missing: tuple[str, ...]


def _chosen_columns(cells: Sequence[str], options: TableOptions) -> _ChosenColumns:
    missing: list[str] = []
    images: list[int] = []
    for title in options.image_columns:
        found = _positions(cells, title)
        images += found
        if not found:
            missing.append(title)
    name = None
    if options.name_column is not None:
        name = next(iter(_positions(cells, options.name_column)), None)
        if name is None:
            missing.append(options.name_column)
    return _ChosenColumns(name, tuple(images), tuple(missing))


def _positions(cells: Sequence[str], title: str) -> list[int]:
    """Return the positions of the columns with this title; only if there are none, of similar ones."""
    title = title.strip(WHITE_SPACE)
    exact = [n for n, cell in enumerate(cells) if cell.strip(WHITE_SPACE) == title]
    key = normalised(title)
    return exact or [n for n, cell in enumerate(cells) if key and normalised(cell) == key]


def _standard_roles(cells: Sequence[str], chosen: _ChosenColumns) -> list[ColumnRole]:
    """Return the role of each column in the standard layout. Several may have the same role."""
    keys = [normalised(cell) for cell in cells]
    roles = [ColumnRole.EXTRA] * len(cells)
    images = chosen.images or LAYOUTS[0].image_positions(cells)
    if keys[: len(_STATUS_CSV)] == _STATUS_CSV:
        keys[len(_STATUS_CSV) :] = [""] * (len(keys) - len(_STATUS_CSV))
        images = chosen.images or [_STATUS_CSV.index(normalised(INPUT_IMAGE_URLS))]
    names = {normalised(name) for name in LAYOUTS[0].names}
    named = [n for n, key in enumerate(keys) if key in names]
    loose = [n for n, key in enumerate(keys) if key in _LOOSE_NAME and n not in images]
    if chosen.name is not None:
        named = [chosen.name]
    elif not named and len(loose) == 1:
        named = loose
    seen: set[str] = set()
    for n, key in enumerate(keys):
        if key in _OUTPUTS and key not in seen:  # the table's own column of this name stays
            roles[n] = ColumnRole.DROPPED
            seen.add(key)
    for n in _serials(keys):
        roles[n] = ColumnRole.SERIAL
    for n in named:
        roles[n] = ColumnRole.NAME
    for n in images:
        roles[n] = ColumnRole.IMAGE
    return roles


def _layout_roles(cells: Sequence[str], layout: Layout, chosen: _ChosenColumns) -> list[ColumnRole]:
    """Return the role of each column in a layout that is not the standard one."""
    roles = [ColumnRole.EXTRA] * len(cells)
    serials = _serials([normalised(cell) for cell in cells])
    name = chosen.name
    if name is None:
        name = find_first(cells, (*layout.names, *GENERIC_LAYOUT.names))
    group = find_first(cells, (layout.group,)) if layout.group else None
    for n in serials[:1]:
        roles[n] = ColumnRole.SERIAL
    if group is not None:
        roles[group] = ColumnRole.GROUP
    if name is not None:
        roles[name] = ColumnRole.NAME
    for n in chosen.images or layout.image_positions(cells):
        roles[n] = ColumnRole.IMAGE
    return roles


def _serials(keys: Sequence[str]) -> list[int]:
    """Return the positions of the serial numbers: of the usual spellings, or of one loose one."""
    exact = [n for n, key in enumerate(keys) if key in _SERIAL]
    loose = [n for n, key in enumerate(keys) if key in _LOOSE_SERIAL]
    return exact or (loose if len(loose) == 1 else [])


def _create_header(layout: str, cells: Sequence[str], roles: Sequence[ColumnRole]) -> Header:
    named = [n for n, name in enumerate(cells) if name.strip(WHITE_SPACE)]
    width = 1 + max([*named, *(n for n, role in enumerate(roles) if role is ColumnRole.IMAGE)])
    names = tuple(cells[: width + MAX_TRAILING_UNNAMED])
    roles = tuple(roles[: len(names)])

    def first(wanted: ColumnRole) -> int | None:
        return roles.index(wanted) if wanted in roles else None

    fallbacks = (find_first(names, (title,)) for title in FALLBACK_NAMES)
    return Header(
        layout=layout,
        names=names,
        roles=roles,
        width=width,
        serial=first(ColumnRole.SERIAL),
        name=first(ColumnRole.NAME),
        images=tuple(n for n, role in enumerate(roles) if role is ColumnRole.IMAGE),
        group=first(ColumnRole.GROUP),
        held=tuple(n for n, role in enumerate(roles) if role in HELD_ROLES),
        unnamed=tuple(n for n, name in enumerate(names) if not name.strip(WHITE_SPACE)),
        fallbacks=tuple(n for n in fallbacks if n is not None),
        is_status_csv={normalised(name) for name in names} >= _OUTPUTS,
    )


def known_roles(cells: Sequence[str], options: TableOptions) -> set[ColumnRole]:
    """Return the roles that the cells of a header have for sure."""
    layout = find_layout(cells)
    chosen = _chosen_columns(cells, options)
    if layout is None or layout.name == STANDARD:
        roles = _standard_roles(cells, chosen)
    else:
        roles = _layout_roles(cells, layout, chosen)
    return {*roles} - {ColumnRole.EXTRA, ColumnRole.DROPPED}


def rank_header(cells: Sequence[str], options: TableOptions) -> int:
    """Return how well a row serves as the header: 2 certainly, 1 if no other row does, 0 not.

    A title above the table may be a single cell, such as "Images".
    """
    if has_url(cells):
        return 0
    layout = find_layout(cells)
    if options.name_column is None and not options.image_columns:
        named = sum(1 for cell in cells if cell.strip(WHITE_SPACE))
        return 0 if layout is None else 2 if named > 1 else 1
    chosen = _chosen_columns(cells, options)
    found = chosen.name is not None or bool(chosen.images)
    if not chosen.missing and (layout is not None or chosen.images):
        return 2
    return 1 if found or layout is not None else 0


def _duplicate_columns(
    cells: Sequence[str], roles: Sequence[ColumnRole], row: int, may_repeat: Collection[int]
) -> list[FileError]:
    """Return an error for each standard column that occurs more than once.

    `may_repeat` are columns that an option chose.
    """
    errors = []
    for role, title in TITLES.items():
        positions = [n for n, its in enumerate(roles) if its is role and n not in may_repeat]
        found = [cells[n].strip(WHITE_SPACE) for n in positions]
        if len(found) > 1:
            message = (
                f'Several columns mean "{title}": {_quoted_list(found)}. '
                "Keep one and rename the others."
            )
            errors.append(FileError(FileErrorCode.DUPLICATE_COLUMN, message, row, found[1]))
    return errors


def _missing_columns(
    cells: Sequence[str], roles: Sequence[ColumnRole], row: int, rows_below: Iterable[Record]
) -> list[FileError]:
    """Return an error for each required standard column that is missing."""
    return [
        _missing_column(TITLES[role], cells, row, rows_below)
        for role in (ColumnRole.NAME, ColumnRole.IMAGE)
        if role not in roles
    ]


def _missing_column(
    title: str, cells: Sequence[str], row: int, rows_below: Iterable[Record]
) -> FileError:
    headers = [cell.strip(WHITE_SPACE) for cell in cells if cell.strip(WHITE_SPACE)]
    message = (
        f'The column "{title}" is missing. Add it, or rename the column that holds these values. '
        f"Row {row:,} names the columns; it has {_quoted_list(headers)}."
    )
    suggestions: tuple[Suggestion, ...] = ()
    if title == INPUT_IMAGE_URLS and (found := _columns_with_images(cells, rows_below)):
        message += (
            f" Image URLs seem to be in {_quoted_list(list(found), 100)}: choose it as imageColumn."
        )
        suggestions = tuple(Suggestion("imageColumn", *each) for each in found.items())
    return FileError(
        FileErrorCode.MISSING_COLUMN,
        message,
        row,
        title,
        suggestions=suggestions[:_MAX_SUGGESTIONS],
    )


def _columns_with_images(cells: Sequence[str], rows: Iterable[Record]) -> dict[str, str]:
    """Return the columns that have the address of an image in one of these rows: header and a cell.

    The cell is cut to its first characters.
    """
    found: dict[int, str] = {}
    for row in rows:
        if not isinstance(row, InvalidRecord):
            for n, cell in enumerate(row[: len(cells)]):
                if n not in found and _IMAGE_ADDRESS.search(cell, 0, _SEARCHED_LENGTH):
                    found[n] = cell[:_EXAMPLE_LENGTH]
    headers = ((cells[n].strip(WHITE_SPACE), found[n]) for n in sorted(found))
    return {header: cell for header, cell in headers if header}


def _quoted_list(names: Sequence[str], limit: int = 300) -> str:
    text = ", ".join(f'"{name}"' for name in names)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def is_separator_line(cells: Sequence[str]) -> bool:
    """Return whether a first line is `sep=;`, which sets the delimiter in Excel and is not shown."""
    return len(cells) == 2 and cells[0].lower() == "sep=" and not cells[1]


def is_blank(cells: Sequence[str]) -> bool:
    """Return whether a record has no value: it is a blank line, or all its cells are empty."""
    return not "".join(cells).strip(WHITE_SPACE)
