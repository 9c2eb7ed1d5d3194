"""A JPEG's own quality, read from its quantisation tables.

libjpeg makes its tables from two base tables and a quality of 1 to 100 (`jpeg_set_quality` in
jcparam.c; the base tables are those of ITU-T T.81, annex K.1). Its rule is repeated here for every
quality, so what libjpeg or one of its descendants wrote is recognised exactly. Tables of other makers
get the quality whose libjpeg tables lie nearest, by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

# fmt: off
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)
# fmt: on
_BASELINE_LIMIT = 255
_EXTENDED_LIMIT = 32_767

Table = Sequence[int]
"""64 divisors in natural (row by row) order."""


def jpeg_quality(luminance: Table, chrominance: Table | None = None) -> int:
    """The quality, 1 to 100, of a JPEG with these quantisation tables.

    `chrominance` is None where the picture has none of its own (grey, or one table for everything).
    Exact for libjpeg's tables, with and without its clamping to 255; the nearest otherwise.
    """
    found = tuple(luminance) + tuple(chrominance or ())
    with_chrominance = chrominance is not None
    for limit in (_BASELINE_LIMIT, _EXTENDED_LIMIT):
        for quality in range(100, 0, -1):
            if _libjpeg_tables(quality, limit, with_chrominance) == found:
                return quality
    limit = _BASELINE_LIMIT if max(found) <= _BASELINE_LIMIT else _EXTENDED_LIMIT
    return min(
        range(100, 0, -1),
        key=lambda quality: _distance(_libjpeg_tables(quality, limit, with_chrominance), found),
    )


@cache
def _libjpeg_tables(quality: int, limit: int, with_chrominance: bool) -> tuple[int, ...]:
    """What libjpeg writes at `quality`, luminance before chrominance."""
    scale = 5_000 // quality if quality < 50 else 200 - 2 * quality
    base = _LUMINANCE + _CHROMINANCE if with_chrominance else _LUMINANCE
    return tuple(min(max((value * scale + 50) // 100, 1), limit) for value in base)


def _distance(one: Table, other: Table) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=False))
