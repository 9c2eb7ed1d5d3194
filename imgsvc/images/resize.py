"""Shrink images to a largest width and height.

Levels are averaged as stored, without linear light, as browsers do it. Pillow multiplies the colours
with the alpha channel first, so colours of transparent pixels do not show at edges.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

PixelSize = tuple[int, int]
"""Width and height, in pixels."""

_MIN_GAP = 3
"""How many times the final size a first, fast reduction leaves at least: its errors are invisible then.

Sharp photographs differ by up to 40 levels at 2, and by 3 at 3 (tests/bench/IMAGES.md).
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest width and height of an output, in pixels. 0: no limit."""

    max_width: int = 0
    max_height: int = 0

    def fit(self, size: PixelSize) -> PixelSize:
        """Return `size`, or if it exceeds the bounds, the largest of the same aspect ratio within.

        Sides are rounded, and at least 1.
        """
        width, height = size
        max_width = min(self.max_width or width, width)
        max_height = min(self.max_height or height, height)
        if max_width * height <= max_height * width:
            return max_width, _rounded_share(height, max_width, width)
        return _rounded_share(width, max_height, height), max_height


def _rounded_share(side: int, numerator: int, denominator: int) -> int:
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def shrink(image: Image.Image, size: PixelSize) -> Image.Image:
    """Return the image (L, LA, RGB or RGBA) with a smaller size."""
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=_MIN_GAP)


def draft_size(size: PixelSize) -> PixelSize:
    """Return the smallest size at which a JPEG may be decoded before it is shrunk to `size`."""
    return _MIN_GAP * size[0], _MIN_GAP * size[1]
