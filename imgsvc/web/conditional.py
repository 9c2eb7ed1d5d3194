"""What a call's headers ask for: a media type, a version, a range. Pure."""

from __future__ import annotations

import re

from imgsvc.web.options import StatusFormat

_OFFERS = {StatusFormat.CSV: ("text", "csv"), StatusFormat.JSON: ("application", "json")}
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_ETAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)


def wanted_format(accept: str) -> StatusFormat:
    """Weigh an `Accept` header; what we lack, and a tie, get the CSV.

    A type that is named weighs more than one that a wildcard admits at the same q.
    """
    weights = {offer: _weight(accept, *names) for offer, names in _OFFERS.items()}
    better = weights[StatusFormat.JSON] > weights[StatusFormat.CSV]
    return StatusFormat.JSON if better else StatusFormat.CSV


def _weight(accept: str, kind: str, subtype: str) -> tuple[float, int]:
    """The q of a media type and how exactly it is named; the most exact name decides."""
    found = (0.0, -1)
    for each in accept.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        exactness = {f"{kind}/{subtype}": 2, f"{kind}/*": 1, "*/*": 0}.get(name, -1)
        quality = _q(parameters)
        if exactness > found[1] and quality is not None:
            found = (quality, exactness)
    return found if found[0] else (0.0, -1)


def _q(parameters: list[str]) -> float | None:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            match = _QUALITY.fullmatch(value.strip())
            return float(match[0]) if match else None
    return 1.0


def matches(if_none_match: str, etag: str) -> bool:
    """Whether an `If-None-Match` names this version (weakly compared, as RFC 9110 has it)."""
    if if_none_match.strip() == "*":
        return True
    return etag.removeprefix("W/") in _ETAG.findall(if_none_match)


class RangeNotSatisfiableError(Exception):
    """The range asks for bytes that are not there."""


def wanted_range(header: str, size: int) -> tuple[int, int] | None:
    """Give the first byte and the count that a `Range` asks for; None: all of it.

    What is malformed, of another unit, or several ranges, is as if it were not there. Raises
    `RangeNotSatisfiableError`.
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
