"""Reduce images to a palette. In formats without a quality setting, fewer colours replace it.

Images with few colours keep all of them. For other images the palette is computed by median cut.
There is no dithering: it costs bytes and increases the colour difference. `alpha_palette.py` reduces
images with an alpha channel. tests/bench/IMAGES.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from PIL import Image

from imgsvc.images import alpha_palette
from imgsvc.images.colour import drop_opaque_alpha
from imgsvc.images.indexed import (
    TRANSPARENT,
    Colour,
    entries,
    map_to_colours,
    map_to_nearest,
    set_palette,
)

_MAX_CUT_PIXELS = 4_000_000
_MAX_CUT_COLOURS = 32_768
"""Numbers of pixels or colours up to which the palette is computed from the complete image.

For larger images it is computed from a sample.
"""

_MIN_CUT_OUT_COLOURS = 16
"""Fewest colours for which the opaque pixels of a cut-out are reduced like an opaque image."""

_SAMPLE_SIDE = 113
"""Width and height of the sample, in pixels. A prime, to avoid aliasing with patterns in the image."""


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
        _reduce_rgba(stack, colours) if alpha else _reduce_rgb(stack, colours),
        len(converted),
    )


def reduce_animation(images: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    """Convert RGBA images of equal size to mode P, with one palette of at most `colours` entries.

    Opaque images, too, get the palette for images with alpha: it takes longer than a median cut, but
    has less error if many frames share it.
    """
    return _split(alpha_palette.reduce(_stack(images), colours), len(images))


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


def _reduce_rgba(image: Image.Image, colours: int) -> Image.Image:
    """Reduce an image with alpha. Without translucent pixels, its opaque ones are cut like RGB."""
    mask = image.getchannel("A")
    box = mask.getbbox()
    if box is None or colours < _MIN_CUT_OUT_COLOURS or alpha_palette.is_translucent(image):
        return alpha_palette.reduce(image, colours)
    left = (mask.crop((0, box[1], image.width, box[1] + 1)).getbbox() or box)[0]
    mask = mask.crop(box)
    opaque = Image.new("RGB", mask.size, image.getpixel((left, box[1]))[:3])  # type: ignore[index]
    opaque.paste(image.crop(box).convert("RGB"), mask=mask)
    cut = _reduce_rgb(opaque, colours - 1)
    shifted = cut.tobytes().translate(bytes(min(255, number + 1) for number in range(256)))
    indices = Image.new("P", image.size)
    indices.paste(Image.frombytes("P", mask.size, shifted), box, mask)
    set_palette(indices, [TRANSPARENT, *(entry[:3] + b"\xff" for entry in entries(cut))])
    return alpha_palette.octree_if_closer(image, indices, colours)


def _reduce_rgb(image: Image.Image, colours: int) -> Image.Image:
    is_small = image.width * image.height <= _MAX_CUT_PIXELS
    if is_small or image.getcolors(_MAX_CUT_COLOURS) is not None:
        return image.quantize(colours, Image.Quantize.MEDIANCUT)
    sample = image.resize((_SAMPLE_SIDE, _SAMPLE_SIDE), Image.Resampling.NEAREST)
    return map_to_nearest(image, sample.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=1))
