"""Inserts the rows of an uploaded table, many per statement."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from imgsvc.database.bloom_filter import BloomFilter
from imgsvc.database.index_keys import host_key, text_key
from imgsvc.database.mappers import cells_text, errors_text, extra_text, source_text
from imgsvc.table_types import Product

ROWS_PER_STATEMENT = 500
"""Maximum number of rows per INSERT statement. Each statement releases Python's global lock, and a busy
main thread may then hold it for milliseconds: few statements with many rows are up to seven times as
fast as one statement per row."""

# Columns that are mostly NULL are bound as "": binding None takes the sqlite3 module ten times as long.
_INSERT_PLAIN_PRODUCTS = (
    "products (request_key, number, serial_number, product_name, first_image, image_count, extra)"
)
_PLAIN_PRODUCT_PLACEHOLDERS = "(?1, ?, ?, ?, ?, ?, nullif(?, ''))"
_INSERT_PRODUCTS = (
    f"{_INSERT_PLAIN_PRODUCTS.removesuffix(')')}, first_position, source, cells, errors)"
)
_PRODUCT_PLACEHOLDERS = (
    f"{_PLAIN_PRODUCT_PLACEHOLDERS.removesuffix(')')}, "
    "?, nullif(?, ''), nullif(?, ''), nullif(?, ''))"
)
_INSERT_IMAGES = "images (request_key, number, product, url, host_key, fetch_url, url_key)"
_IMAGE_PLACEHOLDERS = "(?1, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''))"
_Value = int | str


def stage(
    c: sqlite3.Connection, request_key: int, products: Sequence[Product], seen: BloomFilter
) -> None:
    """Add products and their images to a staged request. Raise LookupError if there is none.

    `seen` contains the URLs of the request's earlier images.
    """
    row = c.execute(
        "SELECT products + skipped, pending FROM requests WHERE key = ? AND stage = 'staging'",
        (request_key,),
    ).fetchone()
    if row is None:
        raise LookupError(f"no staged request {request_key}")
    first_row, first_image = row
    image = first_image
    duplicate_urls = 0
    skipped = sum(1 for product in products if product.errors)
    plain = not skipped and all(p.source is None and p.first_position == 1 for p in products)
    product_values: list[_Value] = []
    image_values: list[_Value] = []
    for number, product in enumerate(products, first_row):
        _, serial_number, name, images, extra = product[:5]
        product_values += (number, serial_number, name, image, len(images), extra_text(extra))
        if not plain:
            product_values += (
                product.first_position,
                source_text(product.source),
                cells_text(product.cells),
                errors_text(product.errors),
            )
        for given, fetched, host_url in images:
            url_key: _Value = ""
            if seen.add(fetched):
                url_key = text_key(fetched)
                duplicate_urls += 1
            fetch_url = "" if fetched == given else fetched
            image_values += (image, number, given, host_key(host_url), fetch_url, url_key)
            image += 1
    if plain:
        _insert(c, _INSERT_PLAIN_PRODUCTS, _PLAIN_PRODUCT_PLACEHOLDERS, request_key, product_values)
    else:
        _insert(c, _INSERT_PRODUCTS, _PRODUCT_PLACEHOLDERS, request_key, product_values)
    _insert(c, _INSERT_IMAGES, _IMAGE_PLACEHOLDERS, request_key, image_values)
    c.execute(
        "UPDATE requests SET products = products + ?, skipped = skipped + ?, pending = pending + ?, "
        "duplicate_urls = duplicate_urls + ? WHERE key = ?",
        (len(products) - skipped, skipped, image - first_image, duplicate_urls, request_key),
    )


def _insert(
    c: sqlite3.Connection, table: str, row: str, request_key: int, values: list[_Value]
) -> None:
    """Insert rows. `row` has the placeholders of one row, `values` the values of all rows."""
    width = row.count("?") - 1  # The request's key, ?1, is bound once.
    step = ROWS_PER_STATEMENT * width
    for start in range(0, len(values), step):
        part = values[start : start + step]
        rows = ", ".join([row] * (len(part) // width))
        c.execute(f"INSERT INTO {table} VALUES {rows}", [request_key, *part])
