"""What stands in a table's cells: the names of the columns, and lists of URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from imgsvc.urls import BLANKS

SERIAL_NUMBER = "S. No."
PRODUCT_NAME = "Product Name"
INPUT_IMAGE_URLS = "Input Image Urls"
OUTPUT_COLUMNS = ("Output Image Urls", "Request Id", "Status", "Error")
"""The columns that a status adds; in an upload they are dropped, to be written anew."""

DELIMITERS = (",", ";", "\t")

_SEPARATORS = BLANKS + ",;"
_ANY = f"[{re.escape(_SEPARATORS)}]"
# The look-behind makes a run of separators be looked at once, not once from each of its characters.
_SEPARATOR = re.compile(rf"{_ANY}(?<!{_ANY}{_ANY}){_ANY}*+(?=[A-Za-z][A-Za-z0-9+.-]*+://)")


def split_urls(text: str, limit: int = 0) -> list[str]:
    """Split a cell into its URLs: at a separator (, ; blank, line break) before the next `scheme://`.

    Separators at the ends are dropped, and so an empty cell gives no URL. Nothing is judged: what does
    not belong to a URL becomes part of one. With a `limit`, at most one more than that many come.
    """
    text = text.strip(_SEPARATORS)
    if text.startswith(("https://", "http://")) and text.count("://") == 1:
        return [text]
    return _SEPARATOR.split(text, maxsplit=limit) if text else []


def join_urls(urls: Iterable[str]) -> str:
    """Join what `split_urls` gave into a cell that it splits in the same way."""
    return ",".join(urls)
