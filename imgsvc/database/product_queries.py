"""The rows of a request, with their images, a page at a time."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from imgsvc.database import mappers
from imgsvc.models import ImageRow, ProductRow

PAGE_IMAGES = 5_000
PAGE_CHARACTERS = 2_000_000
"""A page ends early after so many images, or characters of text, whatever its rows are like."""
PLACE_CHARACTERS = 4
"""What a further column's cell counts for beside its text: empty ones may not even be stored."""

_PRODUCT = "number, serial_number, product_name, extra, first_image, image_count"
_IMAGES = f"SELECT i.product, {mappers.IMAGE_COLUMNS}, {mappers.IMAGE_INFO_COLUMNS} FROM images i "


def page(
    c: sqlite3.Connection, request_key: int, places: Sequence[int], first: int, size: int
) -> list[ProductRow]:
    """Give at most `size` rows from number `first` on; none only where there are no more.

    `places` are `Columns.places`.
    """
    products = _as_many_as_fit(
        c.execute(
            f"SELECT {_PRODUCT} FROM products "
            "WHERE request_key = ? AND number >= ? ORDER BY number LIMIT ?",
            (request_key, first, size),
        ),
        places,
    )
    if not products:
        return []
    found = c.execute(
        f"{_IMAGES} LEFT JOIN files f ON f.key = i.file_key "
        "WHERE i.request_key = ? AND i.number >= ? AND i.number < ? ORDER BY i.number",
        (request_key, products[0][4], products[-1][4] + products[-1][5]),
    )
    return _with_images(products, places, found)


def failed_page(
    c: sqlite3.Connection, request_key: int, places: Sequence[int], first: int, size: int
) -> list[ProductRow]:
    """Give at most `size` rows from number `first` on that have failed images, with just those."""
    found = c.execute(
        f"{_IMAGES} INDEXED BY images_failed LEFT JOIN files f ON f.key = i.file_key "
        "WHERE i.request_key = ? AND i.status = 'failed' AND i.number >= coalesce("
        "(SELECT first_image FROM products WHERE request_key = ? AND number = ?), 1 << 62) "
        "ORDER BY i.number LIMIT ?",
        (request_key, request_key, first, PAGE_IMAGES),
    ).fetchall()
    groups = [(number, list(images)) for number, images in groupby(found, lambda row: row[0])]
    if len(found) == PAGE_IMAGES and len(groups) > 1:
        groups.pop()  # may be cut; the next page has it whole
    products = _as_many_as_fit(
        c.execute(
            f"SELECT {_PRODUCT} FROM products "
            "WHERE request_key = ? AND number IN (SELECT value FROM json_each(?)) ORDER BY number",
            (request_key, json.dumps([number for number, _ in groups[:size]])),
        ),
        places,
    )
    fitting = groups[: len(products)]
    return _with_images(products, places, (image for _, images in fitting for image in images))


def _as_many_as_fit(found: Iterable[Sequence[Any]], places: Sequence[int]) -> list[Sequence[Any]]:
    """Take rows, one at least, until they fill a page."""
    products = []
    images = characters = 0
    for product in found:
        products.append(product)
        _, serial_number, name, extra, _, image_count = product
        images += image_count
        characters += (
            len(serial_number) + len(name) + len(extra or "") + len(places) * PLACE_CHARACTERS
        )
        if images >= PAGE_IMAGES or characters >= PAGE_CHARACTERS:
            break
    return products


def _with_images(
    products: Sequence[Sequence[Any]], places: Sequence[int], images: Iterable[Sequence[Any]]
) -> list[ProductRow]:
    """Join rows with their images; both are in the order of the rows' numbers."""
    shown: dict[int, list[ImageRow]] = {product[0]: [] for product in products}
    for image in images:
        shown[image[0]].append(mappers.image_row(image[1:]))
    return [
        ProductRow(
            number, serial_number, name, mappers.extra_from(extra, places), tuple(shown[number])
        )
        for number, serial_number, name, extra, *_ in products
    ]
