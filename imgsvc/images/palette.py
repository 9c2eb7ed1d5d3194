"""Fewer colours: what stands for quality in formats that have none.

Pictures of few colours keep each of them. For others the palette is a median cut, without dithering,
which costs bytes and looks further away; translucent pixels get a share of the palette, cut by bands
of their alpha. tests/bench/IMAGES.md has the measurements.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

from PIL import Image, ImageChops, ImageStat

from imgsvc.images.colour import without_idle_alpha

_CUT_WHOLE = 4_000_000
_CUT_WHOLE_COLOURS = 32_768
"""Up to so many pixels, or colours, the palette is cut from all of them, beyond from a sample."""
_SAMPLE_SIDE = 113
"""A prime, so that no pattern of a picture is met always at the same place."""
_DARK = (128, 64)
"""Where all of a pixel's levels are below these, its entry is looked up again, more finely."""
_LEAST_TRANSLUCENT = 8
_MAX_BANDS = 6
_COLOURS_OF_A_BAND = 4

Colour = bytes
"""Four bytes: red, green, blue, alpha."""

CLEAR: Colour = b"\0\0\0\0"


def reduce(images: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    """The pictures (L, LA, RGB or RGBA, equally large) in mode P, with one palette for all of them,
    of at most `colours` (1 to 256) entries."""
    if all(image.mode == "L" for image in images):
        return _reduce_grey(images, colours)
    images = [without_idle_alpha(image) for image in images]
    alpha = any(image.mode in {"LA", "RGBA"} for image in images)
    plain = [_clear_hidden(image.convert("RGBA")) if alpha else image for image in images]
    plain = [image if alpha else image.convert("RGB") for image in plain]
    table = exact(plain, colours)
    if table is not None:
        return [index(image, table) for image in plain]
    sheet = plain[0] if len(plain) == 1 else _sheet(plain)
    return _cut(_reduce_rgba(sheet, colours) if alpha else _reduce_rgb(sheet, colours), len(plain))


def exact(images: Sequence[Image.Image], limit: int) -> list[Colour] | None:
    """The colours that the pictures (RGB or RGBA) have, transparent ones first; None where there
    are more than `limit`."""
    found: set[Colour] = set()
    for image in images:
        counted = image.getcolors(limit)
        if counted is None:
            return None
        found.update(bytes(colour).ljust(4, b"\xff") for _, colour in counted)  # type: ignore[arg-type]
        if len(found) > limit:
            return None
    return sorted(found, key=lambda colour: (colour[3], colour))


def index(image: Image.Image, table: Sequence[Colour]) -> Image.Image:
    """The picture in mode P, by a table that has all of its colours."""
    places = {int.from_bytes(colour, sys.byteorder): place for place, colour in enumerate(table)}
    pixels = memoryview(image.convert("RGBA").tobytes()).cast("I")
    indices = Image.frombytes("P", image.size, bytes(map(places.__getitem__, pixels)))
    return with_palette(indices, table)


def with_palette(indices: Image.Image, table: Sequence[Colour]) -> Image.Image:
    """The picture in mode P, its palette replaced."""
    if all(colour[3] == 255 for colour in table):
        indices.putpalette(b"".join(colour[:3] for colour in table), "RGB")
    else:
        indices.putpalette(b"".join(table), "RGBA")
    return indices


def _clear_hidden(image: Image.Image) -> Image.Image:
    """The picture with all that is fully transparent in one colour."""
    seen = image.getchannel("A").point([0] + [255] * 255)
    cleared = Image.new("RGBA", image.size)
    cleared.paste(image, mask=seen)
    return cleared


def _sheet(images: Sequence[Image.Image]) -> Image.Image:
    """All frames in one picture, below one another."""
    width, height = images[0].size
    sheet = Image.new(images[0].mode, (width, height * len(images)))
    for number, image in enumerate(images):
        sheet.paste(image, (0, number * height))
    return sheet


def _cut(sheet: Image.Image, count: int) -> list[Image.Image]:
    if count == 1:
        return [sheet]
    width, height = sheet.width, sheet.height // count
    return [sheet.crop((0, top, width, top + height)) for top in range(0, sheet.height, height)]


def _reduce_grey(images: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    counts = [sum(column) for column in zip(*(image.histogram() for image in images), strict=True)]
    used = _levels(counts, colours)
    nearest = bytes(min(range(len(used)), key=lambda i: abs(used[i] - v)) for v in range(256))
    table = [bytes((level, level, level, 255)) for level in used]
    return [
        with_palette(Image.frombytes("P", image.size, image.tobytes().translate(nearest)), table)
        for image in images
    ]


def _levels(counts: Sequence[int], limit: int) -> list[int]:
    """The levels that stand for a histogram's: again and again the pair of neighbours is merged that
    costs the least, into the level that more pixels have."""
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
    small = image.width * image.height <= _CUT_WHOLE
    if small or image.getcolors(_CUT_WHOLE_COLOURS) is not None:
        return image.quantize(colours, Image.Quantize.MEDIANCUT)
    sample = image.resize((_SAMPLE_SIDE, _SAMPLE_SIDE), Image.Resampling.NEAREST)
    return _nearest(image, sample.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=1))


def _nearest(image: Image.Image, inks: Image.Image) -> Image.Image:
    """The picture (RGB) in the entries of `inks` that are nearest to its colours.

    Pillow looks them up in steps of four levels, which shows where it is dark: there the levels of
    picture and palette are stretched, so that the steps become finer.
    """
    found = image.quantize(palette=inks, dither=Image.Dither.NONE)
    red, green, blue = image.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    for limit in _DARK:
        mask = brightest.point([255] * limit + [0] * (256 - limit))
        box = mask.getbbox()
        if box is None:
            break
        stretch = [min(255, level * 256 // limit) for level in range(256)]
        finer = inks.copy()
        finer.putpalette([stretch[level] for level in inks.getpalette("RGB") or ()], "RGB")
        dark = image.crop(box).point(stretch * 3)
        again = dark.quantize(palette=finer, dither=Image.Dither.NONE)
        found.paste(again, box, mask.crop(box))
    return found


def _reduce_rgba(image: Image.Image, colours: int) -> Image.Image:
    """Opaque pixels as in a picture without alpha; a share of the palette for all the others."""
    alpha = image.getchannel("A")
    counts = alpha.histogram()
    if any(counts[1:255]) and colours < _LEAST_TRANSLUCENT:
        return image.quantize(colours, Image.Quantize.FASTOCTREE)
    table: list[Colour] = [CLEAR] if counts[0] else []
    indices = Image.new("P", image.size)
    for low, high, share in _bands(counts, colours - len(table)):
        mask = alpha.point([255 if low <= level <= high else 0 for level in range(256)])
        level = round(ImageStat.Stat(alpha, mask).mean[0])
        box = mask.getbbox() or (0, 0, 1, 1)
        mask = mask.crop(box)
        inks = _reduce_rgb(_only(image.crop(box), mask), share)
        shift = len(table)
        shifted = inks.tobytes().translate(bytes(min(255, i + shift) for i in range(256)))
        indices.paste(Image.frombytes("P", mask.size, shifted), box, mask)
        table += [entry[:3] + bytes([level]) for entry in entries(inks)[:share]]
    return with_palette(indices, table)


def _bands(counts: Sequence[int], colours: int) -> Iterator[tuple[int, int, int]]:
    """Ranges of alpha, and how many colours each gets: opaque pixels one of their own, the others
    several of about equal numbers."""
    translucent, solid = sum(counts[1:255]), counts[255]
    share = colours
    if solid:
        share = colours * translucent // (translucent + solid)
        least = max(1, colours // _LEAST_TRANSLUCENT) if translucent else 0
        share = min(max(share, least), colours * 7 // 8)
    number = max(1, min(_MAX_BANDS, share // _COLOURS_OF_A_BAND))
    low, seen, made = 1, 0, 0
    for level in range(1, 255):
        seen += counts[level]
        reached = seen * number // translucent if translucent else 0
        if reached > made:
            yield low, level, share // number
            low, made = level + 1, reached
    if solid:
        yield 255, 255, colours - share


def _only(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The pixels under the mask, all others being of one colour that occurs there."""
    box = mask.getbbox() or (0, 0, 1, 1)
    row = mask.crop((0, box[1], image.width, box[1] + 1)).getbbox() or (0, 0, 1, 1)
    fill = image.getpixel((row[0], box[1]))
    found = Image.new("RGB", image.size, fill[:3] if isinstance(fill, tuple) else 0)
    found.paste(image.convert("RGB"), mask=mask)
    return found


def entries(image: Image.Image) -> list[Colour]:
    """The palette of a picture in mode P."""
    flat = bytes(image.getpalette("RGBA") or ())
    return [flat[at : at + 4] for at in range(0, len(flat), 4)]
