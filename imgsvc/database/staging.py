"""Rows of a table → rows of the database, many at a time."""

# Only fixed text of this package is put into SQL; values are always bound.
# ruff: noqa: S608

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from imgsvc.database.keys import origin_key, text_key
from imgsvc.database.repeats import Seen
from imgsvc.database.rows import extra_text
from imgsvc.models import Product

ROWS_PER_STATEMENT = 125
"""Python's lock changes hands at each statement, and a busy main thread may keep it for milliseconds:
few statements of many rows are up to seven times as fast as many of one."""

_PRODUCTS = (
    "products (request_key, number, serial_number, product_name, extra, first_image, image_count)"
)
_IMAGES = "images (request_key, number, product, url, fetch_url, url_key, origin_key)"
_WIDTH = 7


def stage(c: sqlite3.Connection, request_key: int, products: Sequence[Product], seen: Seen) -> None:
    """Add rows, and their images, to a request that is being staged."""
    row = c.execute(
        "SELECT products, pending FROM requests WHERE key = ? AND stage = 'staging'", (request_key,)
    ).fetchone()
    if row is None:
        raise LookupError(f"no request {request_key} is being staged")
    first_row, first_image = row
    _insert(c, _PRODUCTS, _product_rows(request_key, first_row, first_image, products))
    rows = list(_image_rows(request_key, first_row, first_image, products, seen))
    _insert(c, _IMAGES, rows)
    repeats = sum(row[5] is not None for row in rows)
    c.execute(
        "UPDATE requests SET products = products + ?, pending = pending + ?, repeats = repeats + ? "
        "WHERE key = ?",
        (len(products), len(rows), repeats, request_key),
    )


_Row = tuple[object, ...]


def _product_rows(
    request_key: int, first_row: int, first_image: int, products: Sequence[Product]
) -> Iterator[_Row]:
    for number, product in enumerate(products, first_row):
        count = len(product.images)
        yield (
            request_key,
            number,
            product.serial_number,
            product.name,
            extra_text(product.extra),
            first_image,
            count,
        )
        first_image += count


def _image_rows(
    request_key: int, first_row: int, first_image: int, products: Sequence[Product], seen: Seen
) -> Iterator[_Row]:
    number = first_image
    for row, product in enumerate(products, first_row):
        for image in product.images:
            given, fetched = image.given, image.fetched
            yield (
                request_key,
                number,
                row,
                given,
                None if fetched == given else fetched,
                text_key(fetched) if seen.add(fetched) else None,
                origin_key(image.origin),
            )
            number += 1


def _insert(c: sqlite3.Connection, into: str, rows: Iterable[_Row]) -> None:
    rows = iter(rows)
    places = f"({', '.join('?' * _WIDTH)})"
    while batch := list(islice(rows, ROWS_PER_STATEMENT)):
        if len(batch) == ROWS_PER_STATEMENT:
            values = ", ".join([places] * ROWS_PER_STATEMENT)
            c.execute(f"INSERT INTO {into} VALUES {values}", list(chain.from_iterable(batch)))
        else:
            c.executemany(f"INSERT INTO {into} VALUES {places}", batch)
