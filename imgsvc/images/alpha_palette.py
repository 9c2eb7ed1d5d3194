"""Reduce images with an alpha channel to a palette, by one cut of colour and alpha.

Colours are compared as a person sees them: drawn on white and on black. The sum of both squared
differences is, apart from a factor, the squared difference of the colours drawn on mid-grey plus 3/4 of
that of alpha. So a pixel is a point with four coordinates: its colour on grey, and its alpha times the
root of 3/4. tests/bench/IMAGES.md has the measurements.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from PIL import Image, ImageChops

from imgsvc.images import clusters, indexed
from imgsvc.images.clusters import Centre, Cluster
from imgsvc.images.indexed import TRANSPARENT, Colour

_MID_GREY = 128
"""The level of mid-grey."""

_ALPHA_SCALE = 0.75**0.5
"""Factor of alpha in a point."""

_PIXELS_PER_POINT = 8
_MIN_POINTS, _MAX_POINTS = 1_024, 16_384
"""An image has at most one different point per eight pixels, within these limits.

Coordinates are rounded until it has. More points take more time and change little.
"""

_ROUNDINGS = (
    (8, 8),
    (7, 6),
    (6, 6),
    (6, 5),
    (5, 5),
    (5, 4),
    (4, 4),
    (4, 3),
    (3, 3),
    (3, 2),
    (3, 1),
)
"""Bits of a colour coordinate and of alpha, from exact to at most 1,024 different points."""

_TRANSLUCENT_DIVISOR = 5
"""Translucent pixels get at least 1/5 of the palette. Soft edges have few pixels, but are noticed."""

_ROUNDS = 2
_SMALL_ROUNDS = 1
_SMALL_PIXELS = 100_000
"""Rounds of k-means, and those of images up to this size. The means of the pixels are one more round.

Small images take less time so, and have an SSIM that is at most 0.001 lower.
"""

_STRIP_PIXELS = 1_000_000
"""Images are processed in strips of about this size, to save memory."""

_Counted = list[tuple[int, tuple[int, int, int, int]]]
"""Numbers of pixels, and their levels."""


def reduce(image: Image.Image, colours: int) -> Image.Image:
    """Convert an RGBA image to mode P, with a palette of at most `colours` entries.

    Opaque pixels stay opaque, and fully transparent pixels, which must be black, stay transparent. If
    Pillow's octree has a smaller error on white or on black, return its result.
    """
    return octree_if_closer(image, _reduce_jointly(image, colours), colours)


def is_translucent(image: Image.Image) -> bool:
    """Return whether an RGBA image has pixels that are neither opaque nor fully transparent."""
    return any(image.getchannel("A").histogram()[1:255])


def octree_if_closer(image: Image.Image, reduced: Image.Image | None, colours: int) -> Image.Image:
    """Return `reduced`, or the result of Pillow's octree if its error is smaller."""
    octree = image.quantize(colours, Image.Quantize.FASTOCTREE)
    if reduced is None:
        return octree
    octree_is_translucent = any(0 < entry[3] < 255 for entry in indexed.entries(octree))
    if octree_is_translucent and not is_translucent(image):
        return reduced
    for background in ("white", "black"):
        error, octree_error = _errors(image, (reduced, octree), background)
        if error > octree_error:
            return octree
    return reduced


def _errors(image: Image.Image, candidates: Sequence[Image.Image], background: str) -> list[int]:
    """Return the sums of the squared differences of images from one, drawn on a background."""
    errors = [0] * len(candidates)
    for box in _strips(image.size):
        drawn = []
        for part in (image.crop(box), *(each.crop(box).convert("RGBA") for each in candidates)):
            canvas = Image.new("RGBA", part.size, background)
            canvas.alpha_composite(part)
            drawn.append(canvas.convert("RGB"))
        for number, other in enumerate(drawn[1:]):
            histogram = ImageChops.difference(drawn[0], other).histogram()
            errors[number] += sum(n * (i % 256) ** 2 for i, n in enumerate(histogram) if n)
    return errors


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes that together cover an image of this size."""
    width, height = size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield (0, top, width, min(top + rows, height))


def _reduce_jointly(image: Image.Image, colours: int) -> Image.Image | None:
    """Convert an RGBA image to mode P. Divide its opaque and its translucent points in one cut.

    Then translucent points may join the clusters of opaque or transparent pixels, if those are nearer.
    Return None if the opaque and the translucent points cannot both have a colour.
    """
    alpha = image.getchannel("A")
    on_grey = Image.new("RGB", image.size, (_MID_GREY, _MID_GREY, _MID_GREY))
    on_grey.paste(image.convert("RGB"), mask=alpha)
    coordinates = on_grey.copy()
    coordinates.putalpha(alpha)
    opaque = _points(coordinates, alpha.point([0] * 255 + [255]))
    translucent = _points(coordinates, alpha.point([0] + [255] * 254 + [0]))
    centres: list[Centre] = []
    fixed_alphas: dict[int, int] = {}
    if alpha.getextrema()[0] == 0:
        centres.append((_MID_GREY, _MID_GREY, _MID_GREY, 0))
        fixed_alphas[0] = 0
    limit = colours - len(centres)
    groups = [[points.cluster] for points in (opaque, translucent) if points.cluster]
    if limit < len(groups):
        return None
    if len(groups) == 2:
        groups[1:] = clusters.cut(groups[1:], limit // _TRANSLUCENT_DIVISOR)
    found = clusters.cut(groups, limit)
    rounds = _SMALL_ROUNDS if image.width * image.height <= _SMALL_PIXELS else _ROUNDS
    indices = Image.new("P", image.size)
    if opaque.cluster:
        refined = clusters.refine(found.pop(0), [], rounds)
        opaque.paste_numbers(indices, refined, len(centres))
        for cluster in refined:
            fixed_alphas[len(centres)] = 255
            centres.append(clusters.centre(cluster))
    if translucent.cluster:
        refined = clusters.refine(found.pop(0), centres, rounds)
        translucent.paste_numbers(indices, refined, 0)
    return _with_mean_colours(indices, (*on_grey.split(), alpha), fixed_alphas)


@dataclass(frozen=True, slots=True)
class _Points:
    """The points of the pixels under a mask. `image` has their coordinates, and zeros elsewhere."""

    image: Image.Image
    mask: Image.Image
    cluster: Cluster

    def paste_numbers(
        self, indices: Image.Image, found: Sequence[Cluster], first_number: int
    ) -> None:
        """Set each pixel under the mask to the number of the cluster that has its point."""
        numbers = {0: 0}
        for number, cluster in enumerate(found, first_number):
            for _, red, green, blue, alpha in cluster:
                pixel = bytes((int(red), int(green), int(blue), round(alpha / _ALPHA_SCALE)))
                numbers[int.from_bytes(pixel, sys.byteorder)] = number
        for box in _strips(self.image.size):
            strip = self.image.crop(box)
            pixels = memoryview(strip.tobytes()).cast("I")
            part = Image.frombytes("P", strip.size, bytes(map(numbers.__getitem__, pixels)))
            indices.paste(part, box, self.mask.crop(box))


def _points(coordinates: Image.Image, mask: Image.Image) -> _Points:
    """Return the points of the pixels under a mask (0 or 255), rounded until they are few enough."""
    pixels = mask.histogram()[255]
    limit = min(max(pixels // _PIXELS_PER_POINT, _MIN_POINTS), _MAX_POINTS)
    masked = Image.new("RGBA", coordinates.size)
    masked.paste(coordinates, mask=mask)
    for colour_bits, alpha_bits in _ROUNDINGS:
        rounded = masked.point(_rounding(colour_bits) * 3 + _rounding(alpha_bits))
        counted = rounded.getcolors(limit + 1)
        if counted is not None:
            break
    cluster: Cluster = [
        (count, red, green, blue, alpha * _ALPHA_SCALE)
        for count, (red, green, blue, alpha) in cast("_Counted", counted)
        if alpha
    ]
    return _Points(rounded, mask, cluster)


def _rounding(bits: int) -> list[int]:
    """Return a table that rounds each level to the middle of its step. Only zero becomes zero."""
    step = 256 >> bits
    return [0] + [max(1, level // step * step + step // 2) for level in range(1, 256)]


def _with_mean_colours(
    indices: Image.Image, bands: Sequence[Image.Image], alphas: dict[int, int]
) -> Image.Image:
    """Return the image with the mean of its pixels as the colour of each palette entry.

    `bands` are the colours on grey, and alpha. `alphas` sets the alpha of some entries. Entries are
    sorted by alpha, and unused ones dropped.
    """
    counts = indices.histogram()
    numbers = Image.frombytes("L", indices.size, indices.tobytes())
    sums = [[0] * 256 for _ in bands]
    for band, levels in zip(sums, bands, strict=True):
        pairs = Image.merge("LA", (numbers, levels)).getcolors(1 << 16) or ()
        for count, (number, level) in pairs:  # type: ignore[misc]
            band[number] += count * level
    table = {}
    for number, count in enumerate(counts):
        if count:
            *on_grey, alpha = (band[number] / count for band in sums)
            table[number] = _entry(on_grey, alphas.get(number, round(alpha)))
    order = sorted(table, key=lambda number: (table[number][3], number))
    positions = {number: position for position, number in enumerate(order)}
    translation = bytes(positions.get(number, 0) for number in range(256))
    sorted_indices = Image.frombytes("P", indices.size, indices.tobytes().translate(translation))
    return indexed.set_palette(sorted_indices, [table[number] for number in order])


def _entry(on_grey: Sequence[float], alpha: int) -> Colour:
    """Return the colour that looks like `on_grey` if it is drawn on grey with this alpha."""
    if not alpha:
        return TRANSPARENT
    background = _MID_GREY * (255 - alpha)
    return bytes(
        [*(min(255, max(0, round((c * 255 - background) / alpha))) for c in on_grey), alpha]
    )
