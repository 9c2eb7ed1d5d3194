"""Images in mode P: their palettes, and the mapping of pixels to palette entries."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from PIL import Image, ImageChops

_STRETCHED_LEVELS = (128, 64)
"""Ranges of dark and of bright levels. In 3/4 of them, entries are looked up with more precision."""

_STEP = 4
"""Number of levels that Pillow looks up together."""

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

    Pillow looks entries up in steps of four levels, which is visible in dark and in bright areas.
    There the levels of the image and of the palette are stretched, so that the steps become finer.
    """
    table = indexed.getpalette("RGB") or []
    found = _look_up(image, table, 1)
    for inverted in (False, True):
        levels = range(255, -1, -1) if inverted else range(256)
        red, green, blue = image.point([*levels] * 3).split() if inverted else image.split()
        brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
        for limit in _STRETCHED_LEVELS:
            # Entries above the limit are clipped to it, and would seem near to pixels close to it.
            mask = brightest.point([255 if level * 4 < limit * 3 else 0 for level in range(256)])
            box = mask.getbbox()
            if box is None:
                break
            stretch = [min(255, level * 256 // limit) for level in levels]
            dark = image.crop(box).point(stretch * 3)
            refined = _look_up(dark, [stretch[level] for level in table], 256 / limit)
            found.paste(refined, box, mask.crop(box))
    found.putpalette(table, "RGB")
    return found


def _look_up(image: Image.Image, table: Sequence[int], distance: float) -> Image.Image:
    """Return the numbers of the nearest palette entries, as Pillow looks them up.

    Pillow looks four levels up together, by the lowest one. So the entries are shifted by the mean
    offset of the levels. `distance` is the distance of neighbouring levels of the image, at most 4.
    """
    shift = (_STEP - distance) / 2
    palette = Image.new("P", (1, 1))
    palette.putpalette([max(0, round(level - shift)) for level in table], "RGB")
    return image.quantize(palette=palette, dither=Image.Dither.NONE)
