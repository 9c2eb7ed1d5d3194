"""Shared code of the tests of tables."""

from __future__ import annotations

from imgsvc.models import ImageRow, ImageStatus, ProductRow
from imgsvc.table_types import Product


def whole_row(product: Product) -> ProductRow:
    """Return an uploaded product as a whole row of a status."""
    images = tuple(ImageRow(image.text, ImageStatus.PENDING, 0) for image in product.images)
    return ProductRow(
        0,
        product.serial_number,
        product.name,
        product.extra,
        images,
        product.source,
        cells=product.cells,
        errors=product.errors,
    )
