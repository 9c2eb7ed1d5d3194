"""Estimate the quality of a JPEG from its quantisation tables.

libjpeg computes its tables from two base tables and a quality of 1 to 100 (`jpeg_set_quality` in
jcparam.c; the base tables are those of ITU-T T.81, annex K.1). This module computes the tables of
every quality with the same formula. The result is exact for files written by libjpeg and its forks.
For the tables of other encoders it is the quality with the nearest libjpeg tables, by least squares.
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
"""Largest divisors in 8-bit and 16-bit tables."""

Table = Sequence[int]
"""64 divisors in natural order (row by row)."""


def jpeg_quality(luminance: Table, chrominance: Table | None = None) -> int:
    """Return the quality, 1 to 100, of a JPEG with these quantisation tables.

    `chrominance` is None if the image has no separate table for it (grey images, or one table for
    all components). The result is exact for libjpeg's tables, with and without clamping to 255, and
    the nearest quality for others.
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
    """Return the tables that libjpeg writes at `quality`, luminance before chrominance."""
    scale = 5_000 // quality if quality < 50 else 200 - 2 * quality
    base = _LUMINANCE + _CHROMINANCE if with_chrominance else _LUMINANCE
    return tuple(min(max((value * scale + 50) // 100, 1), limit) for value in base)


def _distance(one: Table, other: Table) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=False))
