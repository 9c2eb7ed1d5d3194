"""Rows → CSV, as defined by RFC 4180, and products → rows of the input's own columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from imgsvc.models import ProductRow
from imgsvc.table.cells import join_urls, replace_urls
from imgsvc.table_types import HELD_ROLES, ColumnRole, Columns


def encode_rows(
    rows: Iterable[Sequence[str]], delimiter: str = ",", encoding: str = "utf-8"
) -> bytes:
    """Return rows as CSV: CRLF, without a byte-order mark.

    A row is quoted if a cell begins or ends with white space, which some programs trim otherwise.
    Other cells are quoted only if RFC 4180 requires it. A large table can be encoded in parts: their
    concatenation is the CSV of the whole table.
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow
    quoted = csv.writer(
        text, delimiter=delimiter, lineterminator="\r\n", quoting=csv.QUOTE_ALL
    ).writerow
    for row in rows:
        if all(cell == cell.strip() for cell in row):
            plain(row)
        else:
            quoted(row)
    return text.getvalue().encode(encoding)


def input_row(
    columns: Columns,
    product: ProductRow,
    outputs: Sequence[str | None],
    *,
    remove_missing: bool = False,
) -> Sequence[str]:
    """Return a whole row in the input's own columns, with its URLs replaced by `outputs`.

    None in `outputs` keeps the input URL, or removes it if `remove_missing` is set. A skipped row is
    unchanged.
    """
    if product.errors:
        return product.cells
    images = _image_cells(product, outputs, remove_missing=remove_missing)
    extra = iter(product.extra)
    row = []
    for role in columns.roles:
        if role in HELD_ROLES:
            row.append(next(extra, ""))
        elif role is ColumnRole.IMAGE:
            row.append(next(images, ""))
        elif role is ColumnRole.NAME:
            row.append(product.name if product.source is None else product.source.name)
        else:
            row.append(product.serial_number)
    return row


def _image_cells(
    product: ProductRow, outputs: Sequence[str | None], *, remove_missing: bool
) -> Iterator[str]:
    """Yield the cells of the image columns."""
    if product.source is None:
        urls = zip(outputs, product.images, strict=True)
        yield join_urls(
            output or image.url for output, image in urls if output or not remove_missing
        )
        return
    start = 0
    for cell in product.source.images:
        end = start + len(cell) // 2
        yield replace_urls(cell, outputs[start:end], remove_missing=remove_missing)
        start = end


def failed_row(columns: Columns, product: ProductRow) -> Sequence[str]:
    """Return a whole row with only its failed URLs, as the upload wrote them.

    `product.images` are its failed images.
    """
    outputs: list[str | None] = [image.url for image in product.images]
    if product.source is not None:
        failed = set(product.positions or ())
        written = [url for cell in product.source.images for url in cell[1::2]]
        outputs = [url if number in failed else None for number, url in enumerate(written)]
    return input_row(columns, product, outputs, remove_missing=True)
