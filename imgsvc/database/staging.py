"""Rows of a table → rows of the database, many at a time."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from imgsvc.database.bloom_filter import BloomFilter
from imgsvc.database.index_keys import host_key, text_key
from imgsvc.database.mappers import extra_text
from imgsvc.models import Product

ROWS_PER_STATEMENT = 500
"""Python's lock changes hands at each statement, and a busy main thread may keep it for milliseconds:
few statements of many rows are up to seven times as fast as many of one."""

# What is mostly NULL is bound as an empty text: the sqlite3 module takes ten times as long for a None.
_PRODUCTS = (
    "products (request_key, number, serial_number, product_name, first_image, image_count, extra)"
)
_PRODUCT = "(?1, ?, ?, ?, ?, ?, nullif(?, ''))"
_IMAGES = "images (request_key, number, product, url, host_key, fetch_url, url_key)"
_IMAGE = "(?1, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''))"
_BOUND = 6
"""Values of each row, besides the request's key."""

_Value = int | str


def stage(
    c: sqlite3.Connection, request_key: int, products: Sequence[Product], seen: BloomFilter
) -> None:
    """Add rows, and their images, to a request that is being staged."""
    row = c.execute(
        "SELECT products, pending FROM requests WHERE key = ? AND stage = 'staging'", (request_key,)
    ).fetchone()
    if row is None:
        raise LookupError(f"no request {request_key} is being staged")
    first_row, first_image = row
    image = first_image
    duplicate_urls = 0
    product_values: list[_Value] = []
    image_values: list[_Value] = []
    for number, (_, serial_number, name, images, extra) in enumerate(products, first_row):
        product_values += (number, serial_number, name, image, len(images), extra_text(extra))
        for given, fetched, host_url in images:
            url_key: _Value = ""
            if seen.add(fetched):
                url_key = text_key(fetched)
                duplicate_urls += 1
            fetch_url = "" if fetched == given else fetched
            image_values += (image, number, given, host_key(host_url), fetch_url, url_key)
            image += 1
    _insert(c, _PRODUCTS, _PRODUCT, request_key, product_values)
    _insert(c, _IMAGES, _IMAGE, request_key, image_values)
    c.execute(
        "UPDATE requests SET products = products + ?, pending = pending + ?, duplicate_urls = duplicate_urls + ? "
        "WHERE key = ?",
        (len(products), image - first_image, duplicate_urls, request_key),
    )


def _insert(
    c: sqlite3.Connection, into: str, places: str, request_key: int, values: list[_Value]
) -> None:
    """Insert rows, whose values stand one behind the other."""
    step = ROWS_PER_STATEMENT * _BOUND
    for start in range(0, len(values), step):
        part = values[start : start + step]
        rows = ", ".join([places] * (len(part) // _BOUND))
        c.execute(f"INSERT INTO {into} VALUES {rows}", [request_key, *part])
