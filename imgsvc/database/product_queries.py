"""Reads the products of a request with their images, page by page."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

from imgsvc.database import mappers
from imgsvc.database.limits import DatabaseLimits
from imgsvc.errors import FileError
from imgsvc.models import ImageRow, ProductRow

CELL_CHARACTERS = 4
"""The characters that each cell of an extra column counts in addition to its text. Even an empty cell
needs memory, though it may not be stored."""

_SELECT_IMAGES = (
    f"SELECT i.product, {mappers.IMAGE_COLUMNS}, {mappers.IMAGE_INFO_COLUMNS}, i.number "
    "FROM images i "
)


@dataclass(frozen=True, slots=True)
class ProductSelection:
    """The products of a request, and the cells to read of each.

    `extra_positions` are positions in `Product.extra`. With `source`, read `Product.source` too.
    """

    request_key: int
    extra_positions: Sequence[int]
    source: bool = False

    @property
    def columns(self) -> str:
        """The columns of `products` to select."""
        source = "source" if self.source else "NULL"
        return (
            "number, serial_number, product_name, extra, first_image, image_count, "
            f"{source}, cells, errors"
        )


def page(
    c: sqlite3.Connection,
    selection: ProductSelection,
    first: int,
    size: int,
    *,
    limits: DatabaseLimits,
) -> list[ProductRow]:
    """Return at most `size` products from number `first` on, but at least one if there are more."""
    products = _fill_page(
        c.execute(
            f"SELECT {selection.columns} FROM products "
            "WHERE request_key = ? AND number >= ? ORDER BY number LIMIT ?",
            (selection.request_key, first, size),
        ),
        selection,
        limits,
    )
    if not products:
        return []
    found = c.execute(
        f"{_SELECT_IMAGES} LEFT JOIN files f ON f.key = i.file_key "
        "WHERE i.request_key = ? AND i.number >= ? AND i.number < ? ORDER BY i.number",
        (selection.request_key, products[0][4], products[-1][4] + products[-1][5]),
    )
    return _with_images(products, selection, found)


def failed_page(
    c: sqlite3.Connection,
    selection: ProductSelection,
    first: int,
    size: int,
    *,
    limits: DatabaseLimits,
) -> list[ProductRow]:
    """Return products with failed images, with only these images, and skipped rows, like `page`."""
    key = selection.request_key
    found = c.execute(
        f"{_SELECT_IMAGES} INDEXED BY images_failed LEFT JOIN files f ON f.key = i.file_key "
        "WHERE i.request_key = ? AND i.status = 'failed' AND i.number >= coalesce("
        "(SELECT first_image FROM products WHERE request_key = ? AND number = ?), 1 << 62) "
        "ORDER BY i.number LIMIT ?",
        (key, key, first, limits.page_images),
    ).fetchall()
    groups = {number: list(images) for number, images in groupby(found, lambda row: row[0])}
    numbers = list(groups)
    if len(found) == limits.page_images and len(groups) > 1:
        numbers.pop()  # may be incomplete; the next page contains it completely
    skipped = c.execute(
        "SELECT number FROM products INDEXED BY products_skipped "
        "WHERE request_key = ? AND errors IS NOT NULL AND number >= ? ORDER BY number LIMIT ?",
        (key, first, size),
    )
    last = numbers[-1] if len(found) == limits.page_images else math.inf
    numbers = sorted([*numbers, *(number for (number,) in skipped if number < last)])
    products = _fill_page(
        c.execute(
            f"SELECT {selection.columns} FROM products "
            "WHERE request_key = ? AND number IN (SELECT value FROM json_each(?)) ORDER BY number",
            (key, json.dumps(numbers[:size])),
        ),
        selection,
        limits,
    )
    images = [image for product in products for image in groups.get(product[0], ())]
    return _with_images(products, selection, images, only_some=True)


def skipped_errors(c: sqlite3.Connection, request_key: int, limit: int) -> tuple[FileError, ...]:
    """Return at most `limit` errors of a request's skipped rows, in the table's order."""
    rows = c.execute(
        "SELECT errors FROM products INDEXED BY products_skipped "
        "WHERE request_key = ? AND errors IS NOT NULL ORDER BY number LIMIT ?",
        (request_key, limit),
    )
    errors = (error for (text,) in rows for error in mappers.errors_from(text))
    return tuple(islice(errors, limit))


def _fill_page(
    rows: Iterable[Sequence[Any]], selection: ProductSelection, limits: DatabaseLimits
) -> list[Sequence[Any]]:
    """Return the first rows that fill a page, at least one if there is any."""
    products = []
    images = characters = 0
    empty_cells = len(selection.extra_positions) * CELL_CHARACTERS
    for product in rows:
        products.append(product)
        _, serial_number, name, extra, _, image_count, source, cells, errors = product
        images += image_count
        characters += len(serial_number) + len(name) + len(extra or "") + empty_cells
        characters += len(source or "") + len(cells or "") + len(errors or "")
        if images >= limits.page_images or characters >= limits.page_characters:
            break
    return products


def _with_images(
    products: Sequence[Sequence[Any]],
    selection: ProductSelection,
    images: Iterable[Sequence[Any]],
    *,
    only_some: bool = False,
) -> list[ProductRow]:
    """Return the products with their images. Both are sorted by the product's number.

    With `only_some`, `images` are not all of them, so the products get their positions.
    """
    images_of: dict[int, list[ImageRow]] = {product[0]: [] for product in products}
    numbers_of: dict[int, list[int]] = {product[0]: [] for product in products if only_some}
    for image in images:
        images_of[image[0]].append(mappers.image_row(image[1:-1]))
        if only_some:
            numbers_of[image[0]].append(image[-1])
    rows = []
    for number, serial_number, name, extra, first_image, _, source, cells, errors in products:
        row = ProductRow(
            number,
            serial_number,
            name,
            mappers.extra_from(extra, selection.extra_positions),
            tuple(images_of[number]),
        )
        if source:
            row = replace(row, source=mappers.source_from(source))
        if only_some:
            row = replace(row, positions=tuple([n - first_image for n in numbers_of[number]]))
        if errors:
            row = replace(row, cells=mappers.cells_from(cells), errors=mappers.errors_from(errors))
        rows.append(row)
    return rows
