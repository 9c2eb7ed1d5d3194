"""Colour profiles for pictures that describe their colours by a few numbers alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Matrix = tuple[tuple[float, float, float], ...]
Vector = Sequence[float]

_UNIT = 100_000
"""What PNG multiplies its numbers by."""
_SRGB_GAMMA = 45_455
_SRGB_PRIMARIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
_WIDE_PRIMARIES = {
    9: (31_270, 32_900, 70_800, 29_200, 17_000, 79_700, 13_100, 4_600),
    12: (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000),
}
"""Those of BT.2020 and Display P3, by their code points."""
_USUAL_TRANSFERS = {1, 6, 13, 14, 15}
"""The code points of sRGB's curve, and of those of video, which are shown by it."""
_GAMMA_TOLERANCE, _PRIMARIES_TOLERANCE = 2_500, 1_000
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD: Matrix = (
    (0.8951, 0.2664, -0.1614),
    (-0.7502, 1.7135, 0.0367),
    (0.0389, -0.0685, 1.0296),
)
"""The cone responses by which ICC profiles adapt a white point (ICC.1:2001-04, annex E)."""


def from_gamma(gamma: int | None, primaries: Sequence[int] | None) -> bytes | None:
    """An ICC profile for PNG's gAMA and cHRM, in its units; None where they say sRGB or nonsense.

    `primaries` are x and y of white, red, green and blue, those of sRGB where there are none.
    """
    if gamma is None or not _UNIT // 10 <= gamma <= _UNIT * 5:
        return None
    points = tuple(primaries or _SRGB_PRIMARIES)
    usual = all(
        abs(a - b) <= _PRIMARIES_TOLERANCE for a, b in zip(points, _SRGB_PRIMARIES, strict=True)
    )
    if usual and abs(gamma - _SRGB_GAMMA) <= _GAMMA_TOLERANCE:
        return None
    try:
        columns = _colorants([value / _UNIT for value in points])
    except ZeroDivisionError:
        return None
    if any(abs(value) > 2 for column in columns for value in column):
        return None
    return _profile(columns, struct.pack(">4s4xIH2x", b"curv", 1, round(_UNIT / gamma * 256)))


def from_code_points(primaries: int, transfer: int) -> bytes | None:
    """An ICC profile for the code points (ITU-T H.273) of PNG's cICP and of AVIF's nclx; None where
    they say sRGB, or what has no profile, such as a high dynamic range."""
    if primaries not in _WIDE_PRIMARIES or transfer not in _USUAL_TRANSFERS:
        return None
    columns = _colorants([value / _UNIT for value in _WIDE_PRIMARIES[primaries]])
    numbers = _fixed((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    return _profile(columns, struct.pack(">4s4xH2x", b"para", 3) + numbers)


def _colorants(points: Vector) -> Sequence[Vector]:
    """XYZ of red, green and blue, seen under D50."""
    white, *inks = [
        (x / y, 1.0, (1 - x - y) / y) for x, y in zip(points[::2], points[1::2], strict=True)
    ]
    amounts = _times(_inverse(_transposed(inks)), white)
    cones, wanted = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    back = _inverse(_BRADFORD)
    adapted = []
    for ink, amount in zip(inks, amounts, strict=True):
        seen = _times(_BRADFORD, [amount * value for value in ink])
        scaled = [s * w / c for s, w, c in zip(seen, wanted, cones, strict=True)]
        adapted.append(_times(back, scaled))
    return adapted


def _times(matrix: Sequence[Vector], vector: Vector) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _transposed(matrix: Sequence[Vector]) -> list[list[float]]:
    return [list(column) for column in zip(*matrix, strict=True)]


def _inverse(matrix: Sequence[Vector]) -> list[list[float]]:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    whole = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    cofactors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return [[value / whole for value in row] for row in cofactors]


def _profile(columns: Sequence[Vector], curve: bytes) -> bytes:
    """A version 2 display profile of three colorants and one curve."""
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
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x12s",
        *(start + len(data), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp", _fixed(_D50)),
    )
    return head.ljust(128, b"\0") + struct.pack(">I", len(bodies)) + table + data


def _xyz(values: Vector) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _fixed(values: Vector) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65_536)) for value in values)
