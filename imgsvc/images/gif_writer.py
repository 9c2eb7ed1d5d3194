"""Animated and still GIFs from full frames.

Pillow's own writer merges equal frames, and mends no pixel that becomes transparent again; here each
frame is written, and holds just what changed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops
from PIL.GifImagePlugin import getdata

from imgsvc.images import palette
from imgsvc.images.compose import Frame

_MAX_HUNDREDTHS = 65_535
_MAX_REPEATS = 65_535
_KEEP, _CLEAR = 1, 2
"""GIF's disposal methods."""

Box = tuple[int, int, int, int]


def write(frames: Sequence[Frame], plays: int, colours: int) -> bytes:
    """A GIF of the frames, each with at most `colours` (2 to 256) colours, transparency among them.

    It runs `plays` times, 0 for ever.
    """
    images = [_binary(frame.image) for frame in frames]
    shared = palette.exact(images, colours - 1) if len(images) > 1 else None
    if shared is not None and palette.CLEAR not in shared:
        shared.insert(0, palette.CLEAR)
    pieces: list[bytes] = []
    canvas = Image.new("RGBA", images[0].size)
    for number, image in enumerate(images):
        following = images[number + 1] if number + 1 < len(images) else image
        patch = _patch(canvas, image, following, first=number == 0)
        indices = _indices(patch, shared, colours)
        if number == 0:
            pieces += _head(image.size, indices, plays if len(images) > 1 else 1)
        pieces += _block(indices, patch, frames[number].duration, number > 0 and shared is None)
        canvas = image
        if patch.disposal == _CLEAR:
            canvas = image.copy()
            canvas.paste((0, 0, 0, 0), patch.box)
    return b"".join(pieces) + b";"


@dataclass(frozen=True, slots=True)
class _Patch:
    """What a frame draws: pixels, transparent where the canvas stays as it is."""

    image: Image.Image
    box: Box
    disposal: int


def _binary(image: Image.Image) -> Image.Image:
    """The frame as RGBA whose pixels are opaque, or transparent and black."""
    if image.mode != "RGBA":
        return image.convert("RGBA")
    solid = image.getchannel("A").point([0] * 128 + [255] * 128)
    clear = Image.new("RGBA", image.size)
    opaque = image.copy()
    opaque.putalpha(255)
    clear.paste(opaque, mask=solid)
    return clear


def _patch(
    canvas: Image.Image, image: Image.Image, following: Image.Image, *, first: bool
) -> _Patch:
    changed = _where_different(canvas, image)
    box = (0, 0, *image.size) if first else changed.getbbox() or (0, 0, 1, 1)
    vanishing = ImageChops.subtract(image.getchannel("A"), following.getchannel("A")).getbbox()
    if vanishing is not None:
        box = _around(box, vanishing)
    pixels = Image.new("RGBA", image.size)
    pixels.paste(image, mask=changed)
    return _Patch(pixels.crop(box), box, _KEEP if vanishing is None else _CLEAR)


def _where_different(one: Image.Image, other: Image.Image) -> Image.Image:
    """A mask (0 or 255) of the pixels that differ."""
    bands = ImageChops.difference(one, other).split()
    most = bands[0]
    for band in bands[1:]:
        most = ImageChops.lighter(most, band)
    return most.point([0] + [255] * 255)


def _around(one: Box, other: Box) -> Box:
    return (
        min(one[0], other[0]),
        min(one[1], other[1]),
        max(one[2], other[2]),
        max(one[3], other[3]),
    )


def _indices(patch: _Patch, shared: list[palette.Colour] | None, colours: int) -> Image.Image:
    if shared is not None:
        return palette.index(patch.image, shared)
    indices = palette.reduce([patch.image], colours)[0]
    if patch.disposal == _CLEAR and palette.CLEAR not in palette.entries(indices):
        # Pillow clears a frame's place to the background colour unless it has a transparent one
        indices = palette.reduce([patch.image], colours - 1)[0]
        palette.with_palette(indices, [*palette.entries(indices), palette.CLEAR])
    return indices


def _head(size: tuple[int, int], indices: Image.Image, plays: int) -> list[bytes]:
    """Header, screen and global colours, and how often it plays."""
    table = _table(indices)
    flags = 0x80 | (len(table) // 3).bit_length() - 2
    pieces = [struct.pack("<6sHHBBB", b"GIF89a", *size, flags, 0, 0) + table]
    if plays != 1:
        duplicate_urls = min(plays - 1, _MAX_REPEATS) if plays else 0
        pieces.append(
            b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", duplicate_urls) + b"\0"
        )
    return pieces


def _table(indices: Image.Image) -> bytes:
    """The palette as GIF has it: RGB, filled up to a power of two, 2 entries at least."""
    table = b"".join(entry[:3] for entry in palette.entries(indices))
    size = 1 << max(1, (len(table) // 3 - 1).bit_length())
    return table.ljust(3 * size, b"\0")


def _block(indices: Image.Image, patch: _Patch, duration: float, own_table: bool) -> list[bytes]:
    clear = [n for n, entry in enumerate(palette.entries(indices)) if entry[3] == 0]
    options = {
        "duration": 10 * min(round(duration / 10), _MAX_HUNDREDTHS),
        "disposal": patch.disposal,
        "include_color_table": own_table,
    }
    if clear:
        options["transparency"] = clear[0]
    indices.putpalette(_table(indices), "RGB")
    return getdata(indices, patch.box[:2], **options)
