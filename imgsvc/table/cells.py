"""Column names of the standard table, and lists of URLs in a cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from imgsvc.models import ImageCell
from imgsvc.urls import WHITE_SPACE

SERIAL_NUMBER = "S. No."
PRODUCT_NAME = "Product Name"
INPUT_IMAGE_URLS = "Input Image Urls"
OUTPUT_COLUMNS = ("Output Image Urls", "Request Id", "Status", "Error")
"""Columns that the status CSV adds. In an upload they are dropped; the next status adds them again."""

DELIMITERS = (",", ";", "\t")

_SEPARATORS = WHITE_SPACE + ",;"
_ANY = f"[{re.escape(_SEPARATORS)}]"
# The look-behind matches a run of separators once, not once from each of its characters.
_SEPARATOR = re.compile(rf"{_ANY}(?<!{_ANY}{_ANY}){_ANY}*+(?=[A-Za-z][A-Za-z0-9+.-]*+://)")


def split_urls(text: str, limit: int = 0) -> list[str]:
    """Return the URLs of a cell.

    The cell is split at separators (comma, semicolon, white space, line break) that precede a
    `scheme://`. Separators at both ends are dropped, so an empty cell has no URLs. The URLs are not
    validated: text between two URLs becomes part of the first. With a `limit`, return at most
    `limit` + 1 URLs.
    """
    text = text.strip(_SEPARATORS)
    if text.startswith(("https://", "http://")) and text.count("://") == 1:
        return [text]
    return _SEPARATOR.split(text, maxsplit=limit) if text else []


def join_urls(urls: Iterable[str]) -> str:
    """Return a cell of URLs that come from `split_urls`, which splits it into the same URLs again."""
    return ",".join(urls)


def replace_urls(cell: ImageCell, outputs: Sequence[str | None], *, remove_missing: bool) -> str:
    """Return a cell with its URLs replaced by `outputs`."""
    parts = list(cell)
    parts[1::2] = [output or url for output, url in zip(outputs, cell[1::2], strict=True)]
    if remove_missing:
        return ",".join(output for output in outputs if output)
    return "".join(parts)
