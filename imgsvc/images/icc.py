"""Build ICC profiles for images that describe their colours only by a few numbers."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Matrix = tuple[tuple[float, float, float], ...]
Vector = Sequence[float]

_PNG_FACTOR = 100_000
"""PNG stores gamma and chromaticities as integers, multiplied by this factor."""

_SRGB_GAMMA = 45_455
_SRGB_PRIMARIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
_WIDE_PRIMARIES = {
    9: (31_270, 32_900, 70_800, 29_200, 17_000, 79_700, 13_100, 4_600),
    12: (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000),
}
"""Chromaticities of BT.2020 and Display P3, by code point (ITU-T H.273)."""

_SRGB_LIKE_TRANSFERS = {1, 6, 13, 14, 15}
"""Code points of the sRGB curve, and of the video curves that are displayed with it."""

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


def from_code_points(primaries: int, transfer: int) -> bytes | None:
    """Return an ICC profile for the code points (ITU-T H.273) in a PNG's cICP or an AVIF's nclx.

    Return None for sRGB, and for colours that a profile cannot describe, such as high dynamic range.
    """
    if primaries not in _WIDE_PRIMARIES or transfer not in _SRGB_LIKE_TRANSFERS:
        return None
    columns = _colorants([value / _PNG_FACTOR for value in _WIDE_PRIMARIES[primaries]])
    parameters = _fixed_point((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    return _build_profile(columns, struct.pack(">4s4xH2x", b"para", 3) + parameters)


def _colorants(points: Vector) -> Sequence[Vector]:
    """Return XYZ of red, green and blue, adapted to the white point D50."""
    white, *primaries = [
        (x / y, 1.0, (1 - x - y) / y) for x, y in zip(points[::2], points[1::2], strict=True)
    ]
    scales = _multiply(_invert(_transpose(primaries)), white)
    source_cones, target_cones = _multiply(_BRADFORD, white), _multiply(_BRADFORD, _D50)
    from_cones = _invert(_BRADFORD)
    adapted = []
    for primary, scale in zip(primaries, scales, strict=True):
        cone_response = _multiply(_BRADFORD, [scale * value for value in primary])
        scaled = [
            s * w / c for s, w, c in zip(cone_response, target_cones, source_cones, strict=True)
        ]
        adapted.append(_multiply(from_cones, scaled))
    return adapted


def _multiply(matrix: Sequence[Vector], vector: Vector) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _transpose(matrix: Sequence[Vector]) -> list[list[float]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def _invert(matrix: Sequence[Vector]) -> list[list[float]]:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    cofactors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return [[value / determinant for value in row] for row in cofactors]


def _build_profile(columns: Sequence[Vector], curve: bytes) -> bytes:
    """Return a version 2 display profile from three colorants and one tone curve."""
    text = b"PNG gamma"
    name = struct.pack(">4s4xI", b"desc", len(text) + 1) + text + bytes(1 + 78 + 9)
    bodies = [
        (b"desc", name + bytes(-len(name) % 4)),
        (b"cprt", b"text\0\0\0\0CC0\0"),
        (b"wtpt", _xyz(_D50)),
        *zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, columns), strict=True),
        *((tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")),
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
