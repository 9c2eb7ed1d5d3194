"""The status of a request as a table: which rows and columns it has, and how its CSV is written."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from imgsvc.errors import ProblemCode, ProblemError
from imgsvc.models import ImageRow, ProductRow, Request
from imgsvc.table.cells import (
    INPUT_IMAGE_URLS,
    OUTPUT_COLUMNS,
    PRODUCT_NAME,
    SERIAL_NUMBER,
    join_urls,
)
from imgsvc.table.writer import encode_rows, failed_row, input_row
from imgsvc.table_types import STATUS_ROLES, ColumnRole, InputTable

STATUS_COLUMNS = (SERIAL_NUMBER, PRODUCT_NAME, INPUT_IMAGE_URLS, *OUTPUT_COLUMNS)
"""The first columns of the status CSV. The other columns of the input follow them."""

Rows = Iterator[Sequence[str]]
UrlOf = Callable[[ImageRow], str]
"""Returns the URL of an image's output. The image must have one."""

_MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
"""The byte-order marks, by Python codec."""


class StatusLayout(StrEnum):
    """The columns of the status: our own (`standard`), or those of the uploaded table (`input`)."""

    STANDARD = "standard"
    INPUT = "input"


class FailedImages(StrEnum):
    """What the layout `input` has for an image without an output: its input URL, or nothing."""

    KEEP = "keep"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class StatusTable:
    """The options of a status that is a table.

    With `only_failed` it has only the rows with failed images and the skipped rows, in the input's own
    columns, and `layout` has no effect. `excel` adds a byte-order mark and uses the upload's delimiter;
    None: only if the upload was .xlsx. With `input_encoding`, the layout `input` has the upload's
    encoding.
    """

    layout: StatusLayout = StatusLayout.STANDARD
    failed: FailedImages = FailedImages.KEEP
    only_failed: bool = False
    excel: bool | None = None
    input_encoding: bool = False

    @property
    def whole(self) -> bool:
        """Whether the rows are made from whole rows."""
        return self.only_failed or self.layout is StatusLayout.INPUT

    def check(self, request: Request) -> None:
        """Raise `ProblemError` NOT_AVAILABLE if too little of the uploaded table was stored."""
        if self.layout is StatusLayout.INPUT and not self.only_failed and not request.table.layout:
            raise ProblemError(
                ProblemCode.NOT_AVAILABLE,
                "The layout `input` is not available for requests made by version 1.0. Upload the "
                "file again, or use the layout `standard`.",
            )

    def header(self, request: Request) -> Rows:
        """Yield the rows up to the header."""
        columns = request.table.columns
        if self.only_failed:
            yield columns.names
        elif self.layout is StatusLayout.INPUT:
            yield from request.table.rows_above
            yield columns.names
        else:
            yield (*STATUS_COLUMNS, *columns.extra)

    def rows(self, products: Iterable[ProductRow], request: Request, url_of: UrlOf) -> Rows:
        """Yield the rows of these products, which are whole if `whole` is set."""
        if self.only_failed:
            columns = request.table.columns
            return (failed_row(columns, product) for product in products)
        if self.layout is StatusLayout.INPUT:
            remove_missing = self.failed is FailedImages.EMPTY
            return _input_rows(products, request, url_of, remove_missing=remove_missing)
        return _status_rows(products, request, url_of)

    def csv_format(self, table: InputTable) -> CsvFormat:
        """Return how the CSV is written."""
        from_xlsx = table.layout is not None and table.delimiter is None
        excel = from_xlsx if self.excel is None else self.excel
        delimiter, encoding, has_mark = ",", "utf-8", excel
        if excel and table.delimiter:
            delimiter = table.delimiter
        if self.layout is StatusLayout.INPUT and not self.only_failed:
            delimiter = table.delimiter or delimiter
            has_mark = excel or table.has_mark
            if self.input_encoding and table.encoding:
                encoding = table.encoding
        return CsvFormat(delimiter, encoding, _MARKS.get(encoding, b"") if has_mark else b"")


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """How a CSV is written. `encoding` is a Python codec, `mark` the byte-order mark, or empty."""

    delimiter: str
    encoding: str
    mark: bytes

    def encode(self, rows: Iterable[Sequence[str]]) -> bytes:
        """Return the rows as CSV, without the byte-order mark."""
        return encode_rows(rows, self.delimiter, self.encoding)


def _status_rows(products: Iterable[ProductRow], request: Request, url_of: UrlOf) -> Rows:
    request_id = request.request_id
    for product in products:
        if product.errors:
            yield _skipped_row(product, request)
            continue
        yield (
            product.serial_number,
            product.name,
            join_urls([image.url for image in product.images]),
            ",".join([url_of(image) if image.file else "" for image in product.images]),
            request_id,
            product.progress.status,
            _error_cell(product.images),
            *product.extra,
        )


def _skipped_row(product: ProductRow, request: Request) -> Sequence[str]:
    """Return the row of a skipped product, with the text of its image cells as its URLs."""
    roles = request.table.columns.roles
    missing = max(0, len(roles) - len(product.cells))
    record = [*product.cells, *[""] * missing]
    cells = [(role, cell) for role, cell in zip(roles, record, strict=False)]
    if roles[-1] is ColumnRole.IMAGE:  # further cells are more URLs
        cells += [(ColumnRole.IMAGE, cell) for cell in record[len(roles) :]]

    def of(role: ColumnRole) -> list[str]:
        return [cell for its, cell in cells if its is role]

    return (
        *(of(ColumnRole.SERIAL) or [product.serial_number]),
        *(of(ColumnRole.NAME) or [product.name]),
        join_urls(cell for cell in of(ColumnRole.IMAGE) if cell.strip()),
        "",
        request.request_id,
        product.status,
        "; ".join(f"{each.code}: {each.message.removesuffix('.')}" for each in product.errors),
        *(cell for role, cell in cells if role in STATUS_ROLES),
    )


def _error_cell(images: Sequence[ImageRow]) -> str:
    """Return the errors of a product's images in one cell, without the final full stop of each."""
    return "; ".join(
        [
            f"{position}: {image.error_code}: {(image.error_message or '').removesuffix('.')}"
            for position, image in enumerate(images, 1)
            if image.error_code
        ]
    )


def _input_rows(
    products: Iterable[ProductRow], request: Request, url_of: UrlOf, *, remove_missing: bool
) -> Rows:
    columns = request.table.columns
    for product in products:
        outputs = [url_of(image) if image.file else None for image in product.images]
        yield input_row(columns, product, outputs, remove_missing=remove_missing)
