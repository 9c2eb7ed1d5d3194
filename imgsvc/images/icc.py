"""Build ICC profiles for images that describe their colours only by a few numbers.

`icc_parser.py` reads profiles.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from typing import NamedTuple

Vector = Sequence[float]
Matrix = Sequence[Vector]

_PNG_FACTOR = 100_000
"""PNG stores gamma and chromaticities as integers, multiplied by this factor."""

_SRGB_GAMMA = 45_455
_SRGB_PRIMARIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
BT709, BT2020, _P3 = 1, 9, 12
_PRIMARIES = {
    BT709: _SRGB_PRIMARIES,
    BT2020: (31_270, 32_900, 70_800, 29_200, 17_000, 79_700, 13_100, 4_600),
    _P3: (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000),
}
"""Chromaticities by code point (ITU-T H.273). Others are treated as BT.709."""

_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_CURVES: dict[int, tuple[float, ...]] = {
    **dict.fromkeys((1, 2, 6, 13, 14, 15), _SRGB_CURVE),
    4: (2.2, 1.0, 0.0, 1.0, 0.0),
    5: (2.8, 1.0, 0.0, 1.0, 0.0),
    7: (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0913),
    8: (1.0, 1.0, 0.0, 1.0, 0.0),
}
"""Parameters (g, a, b, c, d of ICC's function type 3) of the transfer code points (ITU-T H.273).

The video curves 1, 6, 14 and 15 are displayed with the sRGB curve.
"""

_GAMMA_TOLERANCE, _PRIMARIES_TOLERANCE = 2_500, 1_000
"""Largest differences from sRGB, in PNG units, that still count as sRGB."""
_D50 = (0.9642, 1.0, 0.8249)
"""XYZ of the ICC profile connection space's white point."""
_BRADFORD: Matrix = (
    (0.8951, 0.2664, -0.1614),
    (-0.7502, 1.7135, 0.0367),
    (0.0389, -0.0685, 1.0296),
)
"""Matrix from XYZ to cone responses, for adapting the white point (ICC.1:2001-04, annex E)."""


class HdrTransfer(IntEnum):
    """The code points (ITU-T H.273) of transfers that formats of 8 bits and SDR screens cannot hold."""

    LINEAR = 8
    PQ = 16
    HLG = 18


class Hdr(NamedTuple):
    """The colours of an image of high dynamic range.

    `primaries` is a code point. `peak` is the luminance of the brightest pixel in cd/m², 0 if unknown.
    """

    primaries: int
    transfer: HdrTransfer
    peak: int = 0


def from_gamma(gamma: int | None, primaries: Sequence[int] | None) -> bytes | None:
    """Return an ICC profile for the gAMA and cHRM values of a PNG, in PNG units.

    `primaries` are x and y of white, red, green and blue; None means those of sRGB. Return None if
    the values mean sRGB or make no sense.
    """
    if gamma is None or not _PNG_FACTOR // 10 <= gamma <= _PNG_FACTOR * 5:
        return None
    points = tuple(primaries or _SRGB_PRIMARIES)
    has_srgb_primaries = all(
        abs(a - b) <= _PRIMARIES_TOLERANCE for a, b in zip(points, _SRGB_PRIMARIES, strict=True)
    )
    if has_srgb_primaries and abs(gamma - _SRGB_GAMMA) <= _GAMMA_TOLERANCE:
        return None
    try:
        columns = _colorants([value / _PNG_FACTOR for value in points])
    except ZeroDivisionError:
        return None
    if any(abs(value) > 2 for column in columns for value in column):
        return None
    return _build_profile(
        columns, struct.pack(">4s4xIH2x", b"curv", 1, round(_PNG_FACTOR / gamma * 256))
    )


def from_code_points(primaries: int, transfer: int, peak: int = 0) -> bytes | None:
    """Return an ICC profile for the code points (ITU-T H.273) in a PNG's cICP or an AVIF's nclx.

    Return None for sRGB and for unknown transfers. The profile of an image of high dynamic range has
    a `cicp` tag, and a `lumi` tag with its peak luminance, if that is known.
    """
    if primaries not in _PRIMARIES:
        primaries = BT709
    tags = []
    if transfer in set(HdrTransfer):
        tags.append((b"cicp", struct.pack(">4s4x4B", b"cicp", primaries, transfer, 0, 1)))
        if peak:
            tags.append((b"lumi", b"XYZ \0\0\0\0" + struct.pack(">3i", 0, peak << 16, 0)))
    elif transfer not in _CURVES or (primaries == BT709 and _CURVES[transfer] is _SRGB_CURVE):
        return None
    columns = _colorants([value / _PNG_FACTOR for value in _PRIMARIES[primaries]])
    parameters = _fixed_point(_CURVES.get(transfer, _SRGB_CURVE))
    return _build_profile(columns, struct.pack(">4s4xH2x", b"para", 3) + parameters, tags)


@cache
def conversion(source: int, target: int) -> Matrix:
    """Return the matrix from linear RGB with the primaries `source` to those of `target`."""
    to_xyz, from_xyz = (
        _transpose(_colorants([value / _PNG_FACTOR for value in _PRIMARIES[primaries]]))
        for primaries in (source, target)
    )
    columns = [multiply(_invert(from_xyz), column) for column in _transpose(to_xyz)]
    return _transpose(columns)


def _colorants(points: Vector) -> Matrix:
    """Return XYZ of red, green and blue, adapted to the white point D50."""
    white, *primaries = [
        (x / y, 1.0, (1 - x - y) / y) for x, y in zip(points[::2], points[1::2], strict=True)
    ]
    scales = multiply(_invert(_transpose(primaries)), white)
    source_cones, target_cones = multiply(_BRADFORD, white), multiply(_BRADFORD, _D50)
    from_cones = _invert(_BRADFORD)
    adapted = []
    for primary, scale in zip(primaries, scales, strict=True):
        cone_response = multiply(_BRADFORD, [scale * value for value in primary])
        scaled = [
            s * w / c for s, w, c in zip(cone_response, target_cones, source_cones, strict=True)
        ]
        adapted.append(multiply(from_cones, scaled))
    return adapted


def multiply(matrix: Matrix, vector: Vector) -> list[float]:
    """Return the product of a matrix and a vector."""
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _transpose(matrix: Matrix) -> list[list[float]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def _invert(matrix: Matrix) -> list[list[float]]:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    cofactors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return [[value / determinant for value in row] for row in cofactors]


def _build_profile(
    columns: Matrix, curve: bytes, more_tags: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """Return a version 2 display profile from three colorants and one tone curve."""
    text = b"PNG gamma"
    name = struct.pack(">4s4xI", b"desc", len(text) + 1) + text + bytes(1 + 78 + 9)
    bodies = [
        (b"desc", name + bytes(-len(name) % 4)),
        (b"cprt", b"text\0\0\0\0CC0\0"),
        (b"wtpt", _xyz(_D50)),
        *zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, columns), strict=True),
        *((tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")),
        *more_tags,
    ]
    table, data = b"", b""
    start = 128 + 4 + 12 * len(bodies)
    for tag, body in bodies:
        table += struct.pack(">4sII", tag, start + len(data), len(body))
        data += body
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x12s",
        *(start + len(data), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp", _fixed_point(_D50)),
    )
    return header.ljust(128, b"\0") + struct.pack(">I", len(bodies)) + table + data


def _xyz(values: Vector) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed_point(values)


def _fixed_point(values: Vector) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65_536)) for value in values)
