"""Convert images of high dynamic range (PQ and HLG) to sRGB, as Chromium shows them on an SDR screen.

The curve is the reference white tone mapping operator of SMPTE ST 2094-50: white (203 cd/m², ITU-R
BT.2408) and what is darker is dimmed by one factor, and brighter colours are compressed up to the
peak of the image.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from PIL import Image, ImageMath

from imgsvc.images import icc

_WHITE = 203.0
"""Luminance of diffuse white in cd/m²."""

_DEFAULT_PEAK = 1_000.0
"""Peak luminance of an image that does not state it, and of the display that HLG is defined for."""

_SOFTNESS = 0.65
"""Position of the curve's control point between the knee and the end of its tangent (ST 2094-50)."""

_LUMINANCE_2020 = (0.2627, 0.6780, 0.0593)
"""Luminance of red, green and blue of BT.2020."""

_LIGHT_STEPS = 65_535
"""Steps of linear light from black to white. Fewer are visible in dark areas."""

_MIN_LUMINANCE = 1e-9
"""Scene light of black, which must not be zero."""

_BAND_PIXELS = 2**18
"""Pixels that are converted at a time: a pixel takes about 60 bytes meanwhile."""


def to_sdr(image: Image.Image, hdr: icc.Hdr) -> Image.Image:
    """Return a grey or RGB image, with or without alpha, as sRGB in the same mode."""
    colours = image.convert("RGB")
    height = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, height):
        box = (0, top, image.width, min(top + height, image.height))
        colours.paste(_band_to_sdr(colours.crop(box), hdr), box)
    colours = colours.convert(image.mode)
    if image.mode in {"LA", "RGBA"}:
        colours.putalpha(image.getchannel("A"))
    return colours


def _band_to_sdr(band: Image.Image, hdr: icc.Hdr) -> Image.Image:
    """Return a part of an RGB image as sRGB."""
    table = _light_table(hdr.transfer)
    planes = dict(zip("rgb", (plane.point(table, "F") for plane in band.split()), strict=True))

    def gain(operands: Any) -> Any:
        return _gain(operands, hdr)

    planes["gain"] = ImageMath.lambda_eval(gain, **planes)
    levels = []
    for row in icc.conversion(hdr.primaries, icc.BT709):

        def steps(operands: Any, row: icc.Vector = row) -> Any:
            light = _dot(row, operands) * operands["gain"] * float(_LIGHT_STEPS) + 0.5
            light = operands["min"](operands["max"](light, 0.0), float(_LIGHT_STEPS))
            return operands["convert"](light, "I")

        levels.append(ImageMath.lambda_eval(steps, **planes).point(_srgb_table(), "L"))
    return Image.merge("RGB", levels)


def _gain(operands: Any, hdr: icc.Hdr) -> Any:
    """Return the factor from the light of each pixel to its light on the screen, white being 1.

    `operands` are those of `ImageMath`: the planes r, g and b, and functions.
    """
    largest = operands["max"]
    wide = {
        plane: _dot(row, operands)
        for plane, row in zip("rgb", icc.conversion(hdr.primaries, icc.BT2020), strict=True)
    }
    level = largest(largest(wide["r"], wide["g"]), wide["b"])
    if hdr.transfer is icc.HdrTransfer.PQ:
        return _curve(level, operands, hdr)
    # The display's own curve, for a peak of 1,000 cd/m² (ITU-R BT.2100).
    luminance = largest(_dot(_LUMINANCE_2020, wide), _MIN_LUMINANCE)
    factor = luminance**0.2 * (_DEFAULT_PEAK / _WHITE)
    return _curve(level * factor, operands, hdr) * factor


def _curve(level: Any, operands: Any, hdr: icc.Hdr) -> Any:
    """Return the factor for colours whose largest component is `level` times white.

    Up to white it is constant (`knee`). From there to the peak, the result is a quadratic Bézier curve
    from (1, knee) to (peak, 1).
    """
    peak = (hdr.peak or _DEFAULT_PEAK) / _WHITE
    if peak <= 1:
        return level * 0.0 + 1.0
    knee = 1 - min(math.log(peak) / math.log(_DEFAULT_PEAK / _WHITE), 1) / 2
    across = 1 - _SOFTNESS + _SOFTNESS / knee
    up = (1 - _SOFTNESS) * knee + _SOFTNESS
    linear, square = 2 * (across - 1), 1 - 2 * across + peak
    bright = operands["max"](level, 1.0)
    excess = operands["min"](bright, peak) - 1.0
    root = (operands["max"](excess * (4 * square) + linear**2, 0.0)) ** 0.5
    position = excess * 2.0 / (root + linear)
    height = position * (2 * (up - knee)) + position * position * (knee - 2 * up + 1) + knee
    return height / bright


def _dot(factors: icc.Vector, planes: Any) -> Any:
    return planes["r"] * factors[0] + planes["g"] * factors[1] + planes["b"] * factors[2]


@cache
def _light_table(transfer: icc.HdrTransfer) -> list[float]:
    """Return the linear light of the levels 0 to 255."""
    curve = _pq if transfer is icc.HdrTransfer.PQ else _hlg
    return [curve(level / 255) for level in range(256)]


def _pq(value: float) -> float:
    """Return the light of a PQ value, white being 1 (SMPTE ST 2084)."""
    root: float = value ** (32 / 2_523)
    fraction = max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    light: float = 10_000 / _WHITE * fraction ** (16_384 / 2_610)
    return light


def _hlg(value: float) -> float:
    """Return the scene light, 0 to 1, of an HLG value (ITU-R BT.2100)."""
    if value <= 0.5:
        return value * value / 3
    return (math.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12


@cache
def _srgb_table() -> list[int]:
    """Return the sRGB levels of linear light in steps from black to white."""
    return [round(255 * _srgb(step / _LIGHT_STEPS)) for step in range(_LIGHT_STEPS + 1)]


def _srgb(light: float) -> float:
    return light * 12.92 if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
