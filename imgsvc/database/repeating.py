"""Copies the rows of a request to a new request, in slices, to process its images again."""

from __future__ import annotations

import sqlite3

from imgsvc.database import mappers
from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.models import Request

COPIED_ROWS = 500
"""Maximum number of products that one transaction copies, so that it delays no other writer."""
COPIED_IMAGES = 2_000
"""A slice ends after the product with this image."""
COPIED_CHARACTERS = 1_000_000
"""A slice ends after the product with this character of its cells."""


def find(c: sqlite3.Connection, request_id: str) -> Request:
    """Return a request to repeat.

    Raise `ProblemError` NOT_FOUND, or NOT_AVAILABLE while the request is being deleted.
    """
    deleting = (
        request_id.isascii()
        and c.execute(
            "SELECT 1 FROM requests WHERE request_id = ? AND stage = 'deleting'", (request_id,)
        ).fetchone()
    )
    if deleting:
        raise _being_deleted()
    return mappers.find_request(c, request_id)


def copy_slice(c: sqlite3.Connection, source_key: int, request_key: int) -> bool:
    """Copy the next products of a request to a staged one. Return whether there may be more.

    The images of the copy are pending. Raise `ProblemError` NOT_AVAILABLE if the source is being
    deleted, and LookupError if no such request is staged.
    """
    accepted = c.execute(
        "SELECT 1 FROM requests WHERE key = ? AND stage = 'accepted'", (source_key,)
    ).fetchone()
    if accepted is None:
        raise _being_deleted()
    staged = c.execute(
        "SELECT products + skipped, pending FROM requests WHERE key = ? AND stage = 'staging'",
        (request_key,),
    ).fetchone()
    if staged is None:
        raise LookupError(f"no staged request {request_key}")
    first, first_image = staged
    rows = skipped = images = characters = 0
    for image_count, is_skipped, length in c.execute(_SIZES, (source_key, first, COPIED_ROWS)):
        rows += 1
        skipped += is_skipped
        images += image_count
        characters += length
        if images >= COPIED_IMAGES or characters >= COPIED_CHARACTERS:
            break
    if not rows:
        return False
    c.execute(_COPY_PRODUCTS, (request_key, source_key, first, first + rows))
    c.execute(_COPY_IMAGES, (request_key, source_key, first_image, first_image + images))
    c.execute(
        "UPDATE requests SET products = products + ?, skipped = skipped + ?, pending = pending + ?, "
        "duplicate_urls = (SELECT duplicate_urls FROM requests WHERE key = ?) WHERE key = ?",
        (rows - skipped, skipped, images, source_key, request_key),
    )
    return True


_SIZES = """
SELECT image_count, errors IS NOT NULL,
  length(serial_number) + length(product_name) + coalesce(length(extra), 0)
  + coalesce(length(source), 0) + coalesce(length(cells), 0) + coalesce(length(errors), 0)
FROM products WHERE request_key = ? AND number >= ? ORDER BY number LIMIT ?
"""
_COPY_PRODUCTS = """
INSERT INTO products (request_key, number, serial_number, product_name, extra, first_image,
  image_count, first_position, source, cells, errors)
SELECT ?, number, serial_number, product_name, extra, first_image,
  image_count, first_position, source, cells, errors
FROM products WHERE request_key = ? AND number >= ? AND number < ?
"""
_COPY_IMAGES = """
INSERT INTO images (request_key, number, product, url, fetch_url, url_key, host_key)
SELECT ?, number, product, url, fetch_url, url_key, host_key
FROM images WHERE request_key = ? AND number >= ? AND number < ?
"""


def _being_deleted() -> ProblemError:
    return ProblemError(
        ProblemCode.NOT_AVAILABLE,
        "The request is being deleted, so it cannot be repeated. Upload its file again.",
    )
