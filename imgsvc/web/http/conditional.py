"""Parsers for the headers `Accept`, `If-None-Match` and `Range`. Pure functions."""

from __future__ import annotations

import re

from imgsvc.table.xlsx_writer import XLSX_MEDIA_TYPE
from imgsvc.web.schema.options import StatusFormat

_OFFERED_TYPES = {
    StatusFormat.CSV: "text/csv",
    StatusFormat.JSON: "application/json",
    StatusFormat.XLSX: XLSX_MEDIA_TYPE,
}
_Q_VALUE = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_ETAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)


def negotiate_format(accept: str) -> StatusFormat:
    """Return the status format that an `Accept` header prefers.

    CSV is the default: it is returned for a tie and for types that are not offered. At equal q, a
    type that is named exactly is preferred to one that matches a wildcard.
    """
    return max(_OFFERED_TYPES, key=lambda offer: _weight(accept, _OFFERED_TYPES[offer]))


def _weight(accept: str, media_type: str) -> tuple[float, int]:
    """Return the q of a media type and the specificity of the range that matches it.

    The most specific range decides. Specificity: 2 for an exact name, 1 for `type/*`, 0 for `*/*`,
    -1 if the type is not acceptable.
    """
    main_type = media_type.partition("/")[0]
    best = (0.0, -1)
    for media_range in accept.split(","):
        name, *parameters = (part.strip().lower() for part in media_range.split(";"))
        specificity = {media_type: 2, f"{main_type}/*": 1, "*/*": 0}.get(name, -1)
        q = _q(parameters)
        if specificity > best[1] and q is not None:
            best = (q, specificity)
    return best if best[0] else (0.0, -1)


def _q(parameters: list[str]) -> float | None:
    """Return the q parameter's value: 1 if there is none, None if it is malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            match = _Q_VALUE.fullmatch(value.strip())
            return float(match[0]) if match else None
    return 1.0


def etag_matches(if_none_match: str, etag: str) -> bool:
    """Return whether an `If-None-Match` header matches `etag` (weak comparison, RFC 9110)."""
    if if_none_match.strip() == "*":
        return True
    return etag.removeprefix("W/") in _ETAG.findall(if_none_match)


class RangeNotSatisfiableError(Exception):
    """The requested range starts after the last byte, or is empty."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the offset and the number of bytes of a `Range` header, or None for the whole file.

    A header that is malformed, uses another unit or lists several ranges is ignored. Raises
    `RangeNotSatisfiableError` if the range lies outside `size` bytes.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        count = min(int(match[2]), size)
        if not count:
            raise RangeNotSatisfiableError
        return size - count, count
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise RangeNotSatisfiableError
    return first, last - first + 1
