"""Rows → CSV as RFC 4180 has it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def encode_rows(rows: Iterable[Sequence[str]]) -> bytes:
    """Write rows as CSV: commas, CRLF, UTF-8 without a byte-order mark.

    Cells are quoted where they must be, and where they begin or end with a blank, which some programs
    would trim otherwise. Call it for any part of a table; the parts follow each other seamlessly.
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
