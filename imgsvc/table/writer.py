"""Rows → CSV, as defined by RFC 4180."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def encode_rows(rows: Iterable[Sequence[str]]) -> bytes:
    """Return rows as CSV: commas, CRLF, UTF-8 without a byte-order mark.

    A row is quoted if a cell begins or ends with white space, which some programs trim otherwise.
    Other cells are quoted only if RFC 4180 requires it. A large table can be encoded in parts: their
    concatenation is the CSV of the whole table.
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\r\n").writerow
    quoted = csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL).writerow
    for row in rows:
        if all(cell == cell.strip() for cell in row):
            plain(row)
        else:
            quoted(row)
    return text.getvalue().encode("utf-8")
