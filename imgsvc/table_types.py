"""Data types of uploaded tables: the options of reading one, its columns and its rows.

Tables have up to millions of rows and images. A named tuple is created twice as fast as a dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from imgsvc.errors import FileError


class ColumnRole(StrEnum):
    """The purpose of a column of the uploaded table.

    Cells of a `group` column are equal in the rows of one product. `dropped` columns are missing in the
    status: empty unnamed columns, and, in the standard layout, columns named like our output columns.
    """

    SERIAL = "serial"
    NAME = "name"
    IMAGE = "image"
    GROUP = "group"
    EXTRA = "extra"
    DROPPED = "dropped"

    @classmethod
    def _missing_(cls, value: object) -> ColumnRole | None:
        return cls.IMAGE if value == "urls" else None  # written by 1.0


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of the uploaded table, in its order: header text and role.

    `extra_positions` are the positions in `Product.extra` of the cells of the `group`, `extra` and
    `dropped` columns. Version 1.0 did not keep the dropped columns.
    """

    names: tuple[str, ...]
    roles: tuple[ColumnRole, ...]
    extra_positions: tuple[int, ...]

    @property
    def extra(self) -> tuple[str, ...]:
        """The names of the columns that the status adds to its own."""
        return tuple(n for n, r in zip(self.names, self.roles, strict=True) if r in STATUS_ROLES)

    @property
    def status_positions(self) -> tuple[int, ...]:
        """The positions in `Product.extra` of the cells of `extra`."""
        held = [role for role in self.roles if role in HELD_ROLES]
        pairs = zip(held, self.extra_positions, strict=True)
        return tuple(position for role, position in pairs if role in STATUS_ROLES)


STATUS_ROLES = frozenset({ColumnRole.GROUP, ColumnRole.EXTRA})
"""The roles of the columns that the status adds to its own columns, unchanged."""
HELD_ROLES = STATUS_ROLES | {ColumnRole.DROPPED}
"""The roles of the columns whose cells are in `Product.extra`."""


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The options of an upload that change how its table is read.

    `name_column` and `image_columns` are header texts, which replace the columns of a layout.
    `encoding` is a Python codec; None means that it is detected. With `allow_empty`, rows of the
    standard layout need no image. With `skip_invalid`, invalid rows are skipped instead of refusing the
    table.
    """

    name_column: str | None = None
    image_columns: tuple[str, ...] = ()
    encoding: str | None = None
    allow_empty: bool = False
    skip_invalid: bool = False


@dataclass(frozen=True, slots=True)
class InputTable:
    """The uploaded table without its rows.

    `layout` is the name of its layout; None means that version 1.0 read it, which stored too little to
    return it unchanged. `encoding` is a Python codec and `delimiter` a character; both are None for
    .xlsx. `has_mark` is whether the file began with a byte-order mark. `rows_above` are the records
    above the header.
    """

    columns: Columns
    layout: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    has_mark: bool = False
    rows_above: tuple[tuple[str, ...], ...] = ()


class ImageUrl(NamedTuple):
    """One image URL of a row.

    `text` is the user's spelling, trimmed, which is displayed. `fetch_url` is the valid ASCII form,
    which is sent. `host_url` is its `scheme://host:port`.
    """

    text: str
    fetch_url: str
    host_url: str


ImageCell = tuple[str, ...]
"""A cell of an image column, split: text, URL, text, URL, …, text. Joined, it is the cell.

It has 2n + 1 strings for n URLs. Each URL is as written, with its decoration, such as a leading
apostrophe. A cell without URLs is one string.
"""


class SourceCells(NamedTuple):
    """The cells of a row that its name and URLs alone do not rebuild.

    `name` is the cell of the name column, "" without one. `images` are the cells of the image columns,
    in the table's order.
    """

    name: str
    images: tuple[ImageCell, ...]


class Product(NamedTuple):
    """One row of the uploaded table.

    `row` is its number in the file. `extra` are its cells in the positions of
    `Columns.extra_positions`; a short row has fewer. It includes the cells of all unnamed columns,
    because only the last row shows which of these columns are empty.

    `first_position` is the position of its first image among the images of its group. `source` is None
    if the name cell is `name`, and the table has one image column, whose cell is the URLs separated by
    commas. A skipped row has `errors`, no images, and in `cells` its whole record.
    """

    row: int
    serial_number: str
    name: str
    images: tuple[ImageUrl, ...]
    extra: tuple[str, ...] = ()
    first_position: int = 1
    source: SourceCells | None = None
    cells: tuple[str, ...] = ()
    errors: tuple[FileError, ...] = ()
