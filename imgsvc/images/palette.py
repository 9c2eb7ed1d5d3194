"""Reduce images to a palette. In formats without a quality setting, fewer colours replace it.

Images with few colours keep all of them. For other images the palette is computed by median cut.
There is no dithering: it costs bytes and increases the colour difference. Translucent pixels get a
share of the palette, divided into bands of alpha. tests/bench/IMAGES.md has the measurements.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

from PIL import Image, ImageChops, ImageStat

from imgsvc.images.colour import drop_opaque_alpha

_MAX_CUT_PIXELS = 4_000_000
_MAX_CUT_COLOURS = 32_768
"""Numbers of pixels or colours up to which the palette is computed from the complete image.

For larger images it is computed from a sample.
"""

_SAMPLE_SIDE = 113
"""Width and height of the sample, in pixels. A prime, to avoid aliasing with patterns in the image."""

_DARK_LEVELS = (128, 64)
"""Levels below which the palette entry of a dark pixel is looked up again, with more precision."""

_TRANSLUCENT_DIVISOR = 8
"""Translucent pixels get at least 1/8 of the palette. Palettes below 8 colours are not divided."""

_MAX_BANDS = 6
"""Largest number of alpha bands."""

_MIN_COLOURS_PER_BAND = 4
"""Fewest colours of an alpha band."""

Colour = bytes
"""Four bytes: red, green, blue and alpha."""

TRANSPARENT: Colour = b"\0\0\0\0"


def colour_count(quality: int) -> int:
    """Return the number of colours for a quality of 1 to 100: that percentage of 256, at least 2."""
    return max(2, 256 * quality // 100)


def reduce(images: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    """Convert images (L, LA, RGB or RGBA, of equal size) to mode P, with one shared palette.

    The palette has at most `colours` (1 to 256) entries.
    """
    if all(image.mode == "L" for image in images):
        return _reduce_grey(images, colours)
    images = [drop_opaque_alpha(image) for image in images]
    alpha = any(image.mode in {"LA", "RGBA"} for image in images)
    converted = [_clear_transparent(image.convert("RGBA")) if alpha else image for image in images]
    converted = [image if alpha else image.convert("RGB") for image in converted]
    table = exact_colours(converted, colours)
    if table is not None:
        return [map_to_colours(image, table) for image in converted]
    stack = converted[0] if len(converted) == 1 else _stack(converted)
    return _split(
        _reduce_rgba(stack, colours) if alpha else _reduce_rgb(stack, colours), len(converted)
    )


def exact_colours(images: Sequence[Image.Image], limit: int) -> list[Colour] | None:
    """Return all colours of the images (RGB or RGBA), sorted by alpha, the transparent ones first.

    Return None if there are more than `limit`.
    """
    found: set[Colour] = set()
    for image in images:
        image_colours = image.getcolors(limit)
        if image_colours is None:
            return None
        found.update(bytes(colour).ljust(4, b"\xff") for _, colour in image_colours)  # type: ignore[arg-type]
        if len(found) > limit:
            return None
    return sorted(found, key=lambda colour: (colour[3], colour))


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


def _clear_transparent(image: Image.Image) -> Image.Image:
    """Return the image with all fully transparent pixels set to one colour."""
    visible = image.getchannel("A").point([0] + [255] * 255)
    cleared = Image.new("RGBA", image.size)
    cleared.paste(image, mask=visible)
    return cleared


def _stack(images: Sequence[Image.Image]) -> Image.Image:
    """Return one image that contains all frames, stacked vertically."""
    width, height = images[0].size
    stack = Image.new(images[0].mode, (width, height * len(images)))
    for number, image in enumerate(images):
        stack.paste(image, (0, number * height))
    return stack


def _split(stack: Image.Image, count: int) -> list[Image.Image]:
    if count == 1:
        return [stack]
    width, height = stack.width, stack.height // count
    return [stack.crop((0, top, width, top + height)) for top in range(0, stack.height, height)]


def _reduce_grey(images: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    counts = [sum(column) for column in zip(*(image.histogram() for image in images), strict=True)]
    used = _merge_levels(counts, colours)
    nearest = bytes(min(range(len(used)), key=lambda i: abs(used[i] - v)) for v in range(256))
    table = [bytes((level, level, level, 255)) for level in used]
    return [
        set_palette(Image.frombytes("P", image.size, image.tobytes().translate(nearest)), table)
        for image in images
    ]


def _merge_levels(counts: Sequence[int], limit: int) -> list[int]:
    """Return at most `limit` grey levels that represent a histogram.

    Repeatedly merge the pair of neighbouring levels with the lowest cost, into the level that more
    pixels have.
    """
    groups = [(count, level) for level, count in enumerate(counts) if count]
    costs = [_merging_cost(*pair) for pair in pairwise(groups)]
    while len(groups) > limit:
        at = costs.index(min(costs))
        (n, a), (m, b) = groups[at : at + 2]
        groups[at : at + 2] = [(n + m, a if n >= m else b)]
        around = groups[max(0, at - 1) : at + 2]
        costs[max(0, at - 1) : at + 2] = [_merging_cost(*pair) for pair in pairwise(around)]
    return [level for _, level in groups]


def _merging_cost(one: tuple[int, int], other: tuple[int, int]) -> int:
    return min(one[0], other[0]) * abs(one[1] - other[1])


def _reduce_rgb(image: Image.Image, colours: int) -> Image.Image:
    is_small = image.width * image.height <= _MAX_CUT_PIXELS
    if is_small or image.getcolors(_MAX_CUT_COLOURS) is not None:
        return image.quantize(colours, Image.Quantize.MEDIANCUT)
    sample = image.resize((_SAMPLE_SIDE, _SAMPLE_SIDE), Image.Resampling.NEAREST)
    return _map_to_nearest(image, sample.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=1))


def _map_to_nearest(image: Image.Image, indexed: Image.Image) -> Image.Image:
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


def _reduce_rgba(image: Image.Image, colours: int) -> Image.Image:
    """Reduce opaque pixels as in an image without alpha. Other pixels get a part of the palette."""
    alpha = image.getchannel("A")
    counts = alpha.histogram()
    if any(counts[1:255]) and colours < _TRANSLUCENT_DIVISOR:
        return image.quantize(colours, Image.Quantize.FASTOCTREE)
    table: list[Colour] = [TRANSPARENT] if counts[0] else []
    indices = Image.new("P", image.size)
    for low, high, share in _bands(counts, colours - len(table)):
        mask = alpha.point([255 if low <= level <= high else 0 for level in range(256)])
        level = round(ImageStat.Stat(alpha, mask).mean[0])
        box = mask.getbbox() or (0, 0, 1, 1)
        mask = mask.crop(box)
        indexed = _reduce_rgb(_masked(image.crop(box), mask), share)
        shift = len(table)
        shifted = indexed.tobytes().translate(bytes(min(255, i + shift) for i in range(256)))
        indices.paste(Image.frombytes("P", mask.size, shifted), box, mask)
        table += [entry[:3] + bytes([level]) for entry in entries(indexed)[:share]]
    return set_palette(indices, table)


def _bands(counts: Sequence[int], colours: int) -> Iterator[tuple[int, int, int]]:
    """Yield ranges of alpha (first, last) and the number of colours for each.

    Opaque pixels are one range. The others are divided into ranges of about equal pixel counts.
    """
    translucent, opaque = sum(counts[1:255]), counts[255]
    share = colours
    if opaque:
        share = colours * translucent // (translucent + opaque)
        min_share = max(1, colours // _TRANSLUCENT_DIVISOR) if translucent else 0
        share = min(max(share, min_share), colours * 7 // 8)
    band_count = max(1, min(_MAX_BANDS, share // _MIN_COLOURS_PER_BAND))
    low, counted, yielded = 1, 0, 0
    for level in range(1, 255):
        counted += counts[level]
        reached = counted * band_count // translucent if translucent else 0
        if reached > yielded:
            yield low, level, share // band_count
            low, yielded = level + 1, reached
    if opaque:
        yield 255, 255, colours - share


def _masked(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the pixels under the mask. All others are set to one colour that occurs there."""
    box = mask.getbbox() or (0, 0, 1, 1)
    row = mask.crop((0, box[1], image.width, box[1] + 1)).getbbox() or (0, 0, 1, 1)
    fill = image.getpixel((row[0], box[1]))
    found = Image.new("RGB", image.size, fill[:3] if isinstance(fill, tuple) else 0)
    found.paste(image.convert("RGB"), mask=mask)
    return found


def entries(image: Image.Image) -> list[Colour]:
    """Return the palette of an image in mode P."""
    flat = bytes(image.getpalette("RGBA") or ())
    return [flat[at : at + 4] for at in range(0, len(flat), 4)]
