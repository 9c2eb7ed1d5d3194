"""Products → rows, and rows → CSV as defined by RFC 4180."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from imgsvc.models import ColumnRole, ImageCell, InputTable, SourceCells
from imgsvc.table.cells import replace_urls


def encode_rows(rows: Iterable[Sequence[str]]) -> bytes:
    """Return rows as CSV: commas, CRLF, UTF-8 without a byte-order mark.

    A row is quoted if a cell begins or ends with white space, which some programs trim otherwise.
    Other cells are quoted only if RFC 4180 requires it. A large table can be encoded in parts: their
    concatenation is the CSV of the whole table.
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\r\n").writerow
    quoted = csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL).writerow
    for row in rows:
        if all(cell == cell.strip() for cell in row):
            plain(row)
        else:
            quoted(row)
    return text.getvalue().encode("utf-8")


def input_row(
    table: InputTable,
    *,
    serial_number: str,
    name: str,
    images: Sequence[str],
    extra: Sequence[str],
    source: SourceCells | None,
    outputs: Sequence[str | None],
    remove_missing: bool = False,
) -> list[str]:
    """Return a product's row as uploaded, with each output in place of its URL.

    The arguments up to `source` are those of `Product`; `images` are the texts of its URLs. An output
    of None keeps the URL, or removes it with `remove_missing`.
    """
    split = (_url_list(images),) if source is None else source.images
    image_cells = iter(_replace_in_cells(split, outputs, remove_missing=remove_missing))
    positions = iter(table.columns.extra_positions)
    row = []
    for role in table.columns.roles:
        if role is ColumnRole.IMAGE:
            row.append(next(image_cells))
        elif role is ColumnRole.SERIAL:
            row.append(serial_number)
        elif role is ColumnRole.NAME:
            row.append(name if source is None else source.name)
        else:
            position = next(positions)
            row.append(extra[position] if position < len(extra) else "")
    return row


def _url_list(urls: Sequence[str]) -> ImageCell:
    """Return the image cell of URLs separated by commas."""
    pieces = [""]
    for url in urls:
        pieces += [url, ","]
    return (*pieces[:-1], "") if urls else ("",)


def _replace_in_cells(
    cells: Sequence[ImageCell], outputs: Sequence[str | None], *, remove_missing: bool
) -> Iterable[str]:
    """Yield image cells with each output in place of its URL."""
    used = 0
    for cell in cells:
        count = len(cell) // 2
        yield replace_urls(cell, outputs[used : used + count], remove_missing=remove_missing)
        used += count
