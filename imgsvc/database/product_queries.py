"""Reads the products of a request with their images, page by page."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from imgsvc.database import mappers
from imgsvc.database.limits import DatabaseLimits
from imgsvc.models import ImageRow, ProductRow

CELL_CHARACTERS = 4
"""The characters that each cell of an extra column counts in addition to its text. Even an empty cell
needs memory, though it may not be stored."""

_SELECT_PRODUCT = "number, serial_number, product_name, extra, first_image, image_count"
_SELECT_IMAGES = (
    f"SELECT i.product, {mappers.IMAGE_COLUMNS}, {mappers.IMAGE_INFO_COLUMNS} FROM images i "
)


def page(
    c: sqlite3.Connection,
    request_key: int,
    extra_positions: Sequence[int],
    first: int,
    size: int,
    *,
    limits: DatabaseLimits,
) -> list[ProductRow]:
    """Return at most `size` products from number `first` on, but at least one if there are more.

    `extra_positions` are those of `Columns`.
    """
    products = _fill_page(
        c.execute(
            f"SELECT {_SELECT_PRODUCT} FROM products "
            "WHERE request_key = ? AND number >= ? ORDER BY number LIMIT ?",
            (request_key, first, size),
        ),
        extra_positions,
        limits,
    )
    if not products:
        return []
    found = c.execute(
        f"{_SELECT_IMAGES} LEFT JOIN files f ON f.key = i.file_key "
        "WHERE i.request_key = ? AND i.number >= ? AND i.number < ? ORDER BY i.number",
        (request_key, products[0][4], products[-1][4] + products[-1][5]),
    )
    return _with_images(products, extra_positions, found)


def failed_page(
    c: sqlite3.Connection,
    request_key: int,
    extra_positions: Sequence[int],
    first: int,
    size: int,
    *,
    limits: DatabaseLimits,
) -> list[ProductRow]:
    """Return products with failed images, with only these images, like `page`."""
    found = c.execute(
        f"{_SELECT_IMAGES} INDEXED BY images_failed LEFT JOIN files f ON f.key = i.file_key "
        "WHERE i.request_key = ? AND i.status = 'failed' AND i.number >= coalesce("
        "(SELECT first_image FROM products WHERE request_key = ? AND number = ?), 1 << 62) "
        "ORDER BY i.number LIMIT ?",
        (request_key, request_key, first, limits.page_images),
    ).fetchall()
    groups = [(number, list(images)) for number, images in groupby(found, lambda row: row[0])]
    if len(found) == limits.page_images and len(groups) > 1:
        groups.pop()  # may be incomplete; the next page contains it completely
    products = _fill_page(
        c.execute(
            f"SELECT {_SELECT_PRODUCT} FROM products "
            "WHERE request_key = ? AND number IN (SELECT value FROM json_each(?)) ORDER BY number",
            (request_key, json.dumps([number for number, _ in groups[:size]])),
        ),
        extra_positions,
        limits,
    )
    page_groups = groups[: len(products)]
    images = (image for _, group in page_groups for image in group)
    return _with_images(products, extra_positions, images)


def _fill_page(
    rows: Iterable[Sequence[Any]], extra_positions: Sequence[int], limits: DatabaseLimits
) -> list[Sequence[Any]]:
    """Return the first rows that fill a page, at least one if there is any."""
    products = []
    images = characters = 0
    for product in rows:
        products.append(product)
        _, serial_number, name, extra, _, image_count = product
        images += image_count
        characters += (
            len(serial_number)
            + len(name)
            + len(extra or "")
            + len(extra_positions) * CELL_CHARACTERS
        )
        if images >= limits.page_images or characters >= limits.page_characters:
            break
    return products


def _with_images(
    products: Sequence[Sequence[Any]],
    extra_positions: Sequence[int],
    images: Iterable[Sequence[Any]],
) -> list[ProductRow]:
    """Return the products with their images. Both are sorted by the product's number."""
    images_of: dict[int, list[ImageRow]] = {product[0]: [] for product in products}
    for image in images:
        images_of[image[0]].append(mappers.image_row(image[1:]))
    return [
        ProductRow(
            number,
            serial_number,
            name,
            mappers.extra_from(extra, extra_positions),
            tuple(images_of[number]),
        )
        for number, serial_number, name, extra, *_ in products
    ]
