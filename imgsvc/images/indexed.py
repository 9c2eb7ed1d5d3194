"""Images in mode P: their palettes, and the mapping of pixels to palette entries."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from PIL import Image, ImageChops

_DARK_LEVELS = (128, 64)
"""Levels below which the palette entry of a dark pixel is looked up again, with more precision."""

Colour = bytes
"""Four bytes: red, green, blue and alpha."""

TRANSPARENT: Colour = b"\0\0\0\0"


def entries(image: Image.Image) -> list[Colour]:
    """Return the palette of an image in mode P."""
    flat = bytes(image.getpalette("RGBA") or ())
    return [flat[at : at + 4] for at in range(0, len(flat), 4)]


def map_to_colours(image: Image.Image, table: Sequence[Colour]) -> Image.Image:
    """Convert an image to mode P, with a palette that contains all its colours."""
    positions = {
        int.from_bytes(colour, sys.byteorder): position for position, colour in enumerate(table)
    }
    pixels = memoryview(image.convert("RGBA").tobytes()).cast("I")
    indices = Image.frombytes("P", image.size, bytes(map(positions.__getitem__, pixels)))
    return set_palette(indices, table)


def set_palette(indices: Image.Image, table: Sequence[Colour]) -> Image.Image:
    """Replace the palette of an image in mode P, and return the image."""
    if all(colour[3] == 255 for colour in table):
        indices.putpalette(b"".join(colour[:3] for colour in table), "RGB")
    else:
        indices.putpalette(b"".join(table), "RGBA")
    return indices


def map_to_nearest(image: Image.Image, indexed: Image.Image) -> Image.Image:
    """Map an RGB image to the nearest palette entries of `indexed`, an image in mode P.

    Pillow looks entries up in steps of four levels, which is visible in dark areas. There the levels
    of the image and of the palette are stretched, so that the steps become finer.
    """
    found = image.quantize(palette=indexed, dither=Image.Dither.NONE)
    red, green, blue = image.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    for limit in _DARK_LEVELS:
        mask = brightest.point([255] * limit + [0] * (256 - limit))
        box = mask.getbbox()
        if box is None:
            break
        stretch = [min(255, level * 256 // limit) for level in range(256)]
        finer = indexed.copy()
        finer.putpalette([stretch[level] for level in indexed.getpalette("RGB") or ()], "RGB")
        dark = image.crop(box).point(stretch * 3)
        refined = dark.quantize(palette=finer, dither=Image.Dither.NONE)
        found.paste(refined, box, mask.crop(box))
    return found
