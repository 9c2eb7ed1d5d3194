"""Write animated and still GIFs from complete frames.

Pillow's own writer merges equal frames, and does not clear pixels that become transparent again. This
writer stores every frame, and only the area that changed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops
from PIL.GifImagePlugin import getdata

from imgsvc.images import indexed, palette
from imgsvc.images.compose import Frame

_MAX_HUNDREDTHS = 65_535
"""Longest duration of a frame, in hundredths of a second."""
_MAX_SHARED_PIXELS = 16_000_000
"""Most pixels, of all frames together, for which a shared palette is computed. It limits memory."""
_MAX_ERROR_RATIO = 1.75
"""Largest squared error of a shared palette, compared with a palette for each complete frame."""
_COMPARED_FRAMES = 8
"""Number of frames for which these errors are compared."""
_MAX_REPEATS = 65_535
_DISPOSE_KEEP, _DISPOSE_CLEAR = 1, 2
"""GIF disposal methods: keep the frame, or clear its area."""

Rectangle = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""


def write(frames: Sequence[Frame], play_count: int, colours: int) -> bytes:
    """Return a GIF of the frames.

    Each frame has at most `colours` (2 to 256) colours, including transparency. The animation plays
    `play_count` times; 0 means endless. Frames that have more colours together share a palette if that
    saves bytes and the error stays similar. Otherwise each frame has its own palette.
    """
    images = [_with_binary_alpha(frame.image) for frame in frames]
    durations = [frame.duration for frame in frames]
    if len(images) == 1:
        return _encode(images, durations, 1, _Palettes(colours))
    exact = palette.exact_colours(images, colours - 1)
    if exact is not None:
        return _encode(images, durations, play_count, _Palettes(colours, exact))
    separate = _encode(images, durations, play_count, _Palettes(colours))
    if sum(image.width * image.height for image in images) > _MAX_SHARED_PIXELS:
        return separate
    reduced = palette.reduce_animation(images, colours - 1)
    palettes = _Palettes(colours, indexed.entries(reduced[0]))
    reduced = [image.convert("RGBA") for image in reduced]
    if not _is_similar(images, reduced, colours):
        return separate
    return min(separate, _encode(reduced, durations, play_count, palettes), key=len)


def _is_similar(
    images: Sequence[Image.Image], reduced: Sequence[Image.Image], colours: int
) -> bool:
    """Return whether the frames with a shared palette have little more error than with their own."""
    step = -(-len(images) // _COMPARED_FRAMES)
    shared_error = separate_error = 0
    for image, shared in list(zip(images, reduced, strict=True))[::step]:
        shared_error += _squared_error(image, shared)
        separate_error += _squared_error(image, palette.reduce([image], colours)[0].convert("RGBA"))
    return shared_error <= _MAX_ERROR_RATIO * separate_error


def _squared_error(one: Image.Image, other: Image.Image) -> int:
    """Return the sum of the squared differences of two images."""
    histogram = ImageChops.difference(one, other).histogram()
    return sum(count * (i % 256) ** 2 for i, count in enumerate(histogram) if count)


@dataclass(frozen=True, slots=True)
class _Palettes:
    """One palette for all frames, or (None) a palette of at most `limit` colours for each frame."""

    limit: int
    shared: list[indexed.Colour] | None = None


def _encode(
    images: Sequence[Image.Image],
    durations: Sequence[float],
    play_count: int,
    palettes: _Palettes,
) -> bytes:
    """Return a GIF of frames with binary alpha."""
    shared = palettes.shared
    if shared is not None and indexed.TRANSPARENT not in shared:
        palettes = _Palettes(palettes.limit, [indexed.TRANSPARENT, *shared])
    blocks: list[bytes] = []
    canvas = Image.new("RGBA", images[0].size)
    for number, image in enumerate(images):
        next_image = images[number + 1] if number + 1 < len(images) else image
        patch = _patch(canvas, image, next_image, first=number == 0)
        indices = _indices(patch, palettes)
        if number == 0:
            blocks += _header(image.size, indices, play_count)
        blocks += _frame_blocks(
            indices, patch, durations[number], number > 0 and palettes.shared is None
        )
        canvas = image
        if patch.disposal == _DISPOSE_CLEAR:
            canvas = image.copy()
            canvas.paste((0, 0, 0, 0), patch.box)
    return b"".join(blocks) + b";"


@dataclass(frozen=True, slots=True)
class _Patch:
    """The pixels that a frame draws. They are transparent where the canvas does not change."""

    image: Image.Image
    box: Rectangle
    disposal: int


def _with_binary_alpha(image: Image.Image) -> Image.Image:
    """Return the frame as RGBA whose pixels are either opaque, or transparent and black."""
    if image.mode != "RGBA":
        return image.convert("RGBA")
    opaque_mask = image.getchannel("A").point([0] * 128 + [255] * 128)
    cleared = Image.new("RGBA", image.size)
    opaque = image.copy()
    opaque.putalpha(255)
    cleared.paste(opaque, mask=opaque_mask)
    return cleared


def _patch(
    canvas: Image.Image, image: Image.Image, next_image: Image.Image, *, first: bool
) -> _Patch:
    changed = _difference_mask(canvas, image)
    box = (0, 0, *image.size) if first else changed.getbbox() or (0, 0, 1, 1)
    vanishing = ImageChops.subtract(image.getchannel("A"), next_image.getchannel("A")).getbbox()
    if vanishing is not None:
        box = _union(box, vanishing)
    pixels = Image.new("RGBA", image.size)
    pixels.paste(image, mask=changed)
    return _Patch(pixels.crop(box), box, _DISPOSE_KEEP if vanishing is None else _DISPOSE_CLEAR)


def _difference_mask(one: Image.Image, other: Image.Image) -> Image.Image:
    """Return a mask (0 or 255) of the pixels that differ."""
    bands = ImageChops.difference(one, other).split()
    largest = bands[0]
    for band in bands[1:]:
        largest = ImageChops.lighter(largest, band)
    return largest.point([0] + [255] * 255)


def _union(one: Rectangle, other: Rectangle) -> Rectangle:
    return (
        min(one[0], other[0]),
        min(one[1], other[1]),
        max(one[2], other[2]),
        max(one[3], other[3]),
    )


def _indices(patch: _Patch, palettes: _Palettes) -> Image.Image:
    if palettes.shared is not None:
        return indexed.map_to_colours(patch.image, palettes.shared)
    colours = palettes.limit
    indices = palette.reduce([patch.image], colours)[0]
    if patch.disposal == _DISPOSE_CLEAR and indexed.TRANSPARENT not in indexed.entries(indices):
        # Pillow clears a frame's area to the background colour if the frame has no transparent colour.
        indices = palette.reduce([patch.image], colours - 1)[0]
        indexed.set_palette(indices, [*indexed.entries(indices), indexed.TRANSPARENT])
    return indices


def _header(size: tuple[int, int], indices: Image.Image, play_count: int) -> list[bytes]:
    """Return the header, the screen size, the global colour table and the loop extension."""
    table = _colour_table(indices)
    flags = 0x80 | (len(table) // 3).bit_length() - 2
    blocks = [struct.pack("<6sHHBBB", b"GIF89a", *size, flags, 0, 0) + table]
    if play_count != 1:
        repeats = min(play_count - 1, _MAX_REPEATS) if play_count else 0
        blocks.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", repeats) + b"\0")
    return blocks


def _colour_table(indices: Image.Image) -> bytes:
    """Return the palette as a GIF colour table: RGB, padded to a power of two of at least 2."""
    table = b"".join(entry[:3] for entry in indexed.entries(indices))
    size = 1 << max(1, (len(table) // 3 - 1).bit_length())
    return table.ljust(3 * size, b"\0")


def _frame_blocks(
    indices: Image.Image, patch: _Patch, duration: float, local_table: bool
) -> list[bytes]:
    transparent = [n for n, entry in enumerate(indexed.entries(indices)) if entry[3] == 0]
    options = {
        "duration": 10 * min(round(duration / 10), _MAX_HUNDREDTHS),
        "disposal": patch.disposal,
        "include_color_table": local_table,
    }
    if transparent:
        options["transparency"] = transparent[0]
    indices.putpalette(_colour_table(indices), "RGB")
    return getdata(indices, patch.box[:2], **options)
