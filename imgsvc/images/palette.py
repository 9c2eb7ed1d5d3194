"""Fewer colours: what stands for quality in formats that have none.

Pictures of few colours keep each of them. For others the palette is a median cut, refined by
k-means, of a sample of the pixels; each pixel then gets its nearest entry, without dithering, which
costs a third more bytes and looks further away. tests/bench/IMAGES.md has the measurements.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from PIL import Image

from imgsvc.images.colour import without_idle_alpha

_SAMPLE_SIDE = 110
_REFINEMENTS = 1

Colour = bytes
"""Four bytes: red, green, blue, alpha."""

CLEAR: Colour = b"\0\0\0\0"


def reduce(images: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    """The pictures (L, LA, RGB or RGBA, equally large) in mode P, with one palette for all of them,
    of at most `colours` (2 to 256) entries."""
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
    return _with_palette(indices, table)


def _with_palette(indices: Image.Image, table: Sequence[Colour]) -> Image.Image:
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
    """Levels at equal distances, unless there are few enough to keep them all."""
    counts = [sum(column) for column in zip(*(image.histogram() for image in images), strict=True)]
    used = [level for level, count in enumerate(counts) if count]
    low, high = used[0], used[-1]
    if len(used) > colours:
        steps = colours - 1
        used = [low + (high - low) * step // steps for step in range(colours)]
    nearest = [min(range(len(used)), key=lambda i: abs(used[i] - level)) for level in range(256)]
    table = [bytes((level, level, level, 255)) for level in used]
    reduced = []
    for image in images:
        indices = image.point(nearest)
        reduced.append(_with_palette(Image.frombytes("P", image.size, indices.tobytes()), table))
    return reduced


def _reduce_rgb(image: Image.Image, colours: int) -> Image.Image:
    return image.quantize(palette=_median_cut(_sample(image), colours), dither=Image.Dither.NONE)


def _sample(image: Image.Image) -> Image.Image:
    side = (min(_SAMPLE_SIDE, image.width), min(_SAMPLE_SIDE, image.height))
    return image.resize(side, Image.Resampling.NEAREST)


def _median_cut(sample: Image.Image, colours: int) -> Image.Image:
    return sample.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=_REFINEMENTS)


def _reduce_rgba(image: Image.Image, colours: int) -> Image.Image:
    """Opaque pixels as in a picture without alpha; a share of the palette for all the others."""
    inks = _opaque_sample(image)
    if inks is None:
        return image.quantize(colours, Image.Quantize.FASTOCTREE)
    solid = image.getchannel("A").point([0] * 255 + [255])
    rest = image.copy()
    rest.paste((0, 0, 0, 0), mask=solid)
    share = _translucent_share(image, colours)
    table = exact([rest], share)
    indices = index(rest, table) if table else rest.quantize(share, Image.Quantize.FASTOCTREE)
    table = entries(indices)
    room = colours - len(table)
    opaque = image.convert("RGB").quantize(
        palette=_median_cut(inks, room), dither=Image.Dither.NONE
    )
    shifted = opaque.tobytes().translate(bytes(min(255, i + len(table)) for i in range(256)))
    indices.paste(Image.frombytes("P", image.size, shifted), mask=solid)
    return _with_palette(indices, table + entries(opaque)[:room])


def _translucent_share(image: Image.Image, colours: int) -> int:
    """How much of a palette goes to pixels that are not opaque: by their number, within reason."""
    counts = image.getchannel("A").histogram()
    translucent, solid = sum(counts[1:255]), counts[255]
    share = colours * translucent // (translucent + solid)
    least, most = colours // 8 if translucent else 1, colours * 7 // 8
    return max(1, min(max(share, least), most))


def _opaque_sample(image: Image.Image) -> Image.Image | None:
    """A sample of the opaque pixels, as RGB; None where there are none in it."""
    sample = _sample(image)
    pixels = memoryview(sample.tobytes()).cast("I")
    mask = sample.getchannel("A").tobytes()
    inks = [ink for ink, alpha in zip(pixels, mask, strict=True) if alpha == 255]
    if not inks:
        return None
    raw = b"".join(ink.to_bytes(4, sys.byteorder) for ink in inks)
    return Image.frombytes("RGBA", (len(inks), 1), raw).convert("RGB")


def entries(image: Image.Image) -> list[Colour]:
    """The palette of a picture in mode P."""
    flat = bytes(image.getpalette("RGBA") or ())
    return [flat[at : at + 4] for at in range(0, len(flat), 4)]
