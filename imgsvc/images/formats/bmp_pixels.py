"""Decode the uncompressed BMPs that Pillow rejects: any colour masks, and palettes of two bits."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops

from imgsvc.images.errors import corrupt, truncated
from imgsvc.images.formats.base import DecodeLimits

_FILE_HEADER_BYTES = 14
_INFO_HEADER_BYTES, _ALPHA_HEADER_BYTES, _V4_HEADER_BYTES = 40, 56, 108
"""Smallest sizes of the header with 32-bit sizes, with a mask for alpha, and with a colour space."""

_MASKS_OFFSET = 54
_UNCOMPRESSED, _BIT_FIELDS, _ALPHA_BIT_FIELDS = 0, 3, 6
"""Compression methods."""

_RGBA_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
"""The masks of 32-bit pixels with the compression method RGB."""

_BYTE_MASKS = {0xFF << shift for shift in (0, 8, 16, 24)}


@dataclass(frozen=True, slots=True)
class BmpHeader:
    """The header of a BMP. `masks` are those of red, green, blue and alpha (0: none)."""

    size: int
    width: int
    height: int
    is_top_down: bool
    depth: int
    compression: int
    colours: int
    pixels_start: int
    masks: tuple[int, ...]

    @property
    def needs_own_decoder(self) -> bool:
        """Return whether Pillow rejects such a file or ignores its alpha channel."""
        if self.depth == 2:
            return self.compression == _UNCOMPRESSED
        if self.compression == _UNCOMPRESSED:
            return self.depth == 32 and self.masks[3] != 0
        has_masks = self.compression in {_BIT_FIELDS, _ALPHA_BIT_FIELDS}
        if not has_masks or self.depth not in {16, 32}:
            return False
        has_bytes = set(self.masks[:3]) <= _BYTE_MASKS and self.masks[3] in {0, *_BYTE_MASKS}
        return self.depth == 16 or not has_bytes or self.compression == _ALPHA_BIT_FIELDS

    @property
    def row_bytes(self) -> int:
        """The size of a row with its padding."""
        return (self.width * self.depth + 31) // 32 * 4


def read_header(data: bytes) -> BmpHeader | None:
    """Return the header, or None for a header of OS/2 or one that is incomplete."""
    if len(data) < _MASKS_OFFSET + 16:
        return None
    pixels_start, size, width, height, depth, compression, colours = struct.unpack_from(
        "<I I ii 2x H I 12x I", data, 10
    )
    if size < _INFO_HEADER_BYTES:
        return None
    masks = struct.unpack_from("<4I", data, _MASKS_OFFSET)
    if compression == _UNCOMPRESSED:
        has_alpha = size >= _V4_HEADER_BYTES and masks == _RGBA_MASKS
        masks = _RGBA_MASKS if has_alpha else (*_RGBA_MASKS[:3], 0)
    elif size < _ALPHA_HEADER_BYTES and compression != _ALPHA_BIT_FIELDS:
        masks = (*masks[:3], 0)
    is_top_down = height < 0
    return BmpHeader(
        size, width, abs(height), is_top_down, depth, compression, colours, pixels_start, masks
    )


def with_valid_colour_count(data: bytes, header: BmpHeader) -> bytes:
    """Return the file without a number of colours that its depth does not allow."""
    if header.depth > 8 or header.colours <= 1 << header.depth:
        return data
    colours = struct.pack("<I", 1 << header.depth)
    return data[:46] + colours + data[50:]


def decode(data: bytes, header: BmpHeader, limits: DecodeLimits) -> Image.Image:
    """Return the pixels of a file that needs this decoder. Raise `corrupt_image` if any are missing."""
    limits.check(header.width, header.height)
    size, row = header.row_bytes * header.height, header.row_bytes
    rows = data[header.pixels_start : header.pixels_start + size]
    padding = row - (header.width * header.depth + 7) // 8
    if len(rows) < size - padding:
        raise truncated()
    rows = rows.ljust(size, b"\0")
    if header.depth == 2:
        image = Image.frombytes("P", (header.width, header.height), rows, "raw", "P;2", row)
        start = _FILE_HEADER_BYTES + header.size
        table = data[start : min(start + 16, header.pixels_start)]
        entries = [table[at : at + 3][::-1] for at in range(0, len(table) - 3, 4)]
        image.putpalette(b"".join(entries).ljust(12, b"\0"))
    else:
        image = _with_masks(rows, header)
    return image if header.is_top_down else image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def _with_masks(rows: bytes, header: BmpHeader) -> Image.Image:
    step = header.depth // 8
    size = header.row_bytes // step, header.height
    lanes = [Image.frombytes("L", size, rows[lane::step]) for lane in range(step)]
    box = (0, 0, header.width, header.height)
    lanes = [lane.crop(box) for lane in lanes]
    bands = [_channel(lanes, mask) for mask in header.masks[: 4 if header.masks[3] else 3]]
    if len(bands) == 4 and bands[3].getextrema() == (0, 0):
        bands.pop()  # as in browsers: a channel that is zero everywhere is unused
    return Image.merge("RGBA" if len(bands) == 4 else "RGB", bands)


def _channel(lanes: Sequence[Image.Image], mask: int) -> Image.Image:
    """Return the channel that a mask selects from the bytes of each pixel, scaled to 8 bits.

    `lanes` are these bytes, the lowest first. Of a wider channel the highest 8 bits count.
    """
    channel = Image.new("L", lanes[0].size)
    mask &= (1 << 8 * len(lanes)) - 1
    if not mask:
        return channel
    shift = (mask & -mask).bit_length() - 1
    width = mask.bit_length() - shift
    if mask != (1 << width) - 1 << shift:
        raise corrupt("The BMP file is damaged: a colour mask has gaps.")
    shift, width = shift + max(width - 8, 0), min(width, 8)
    largest = (1 << width) - 1
    for number, lane in enumerate(lanes):
        bits = [(byte << 8 * number >> shift) & largest for byte in range(256)]
        channel = ImageChops.add(channel, lane.point(bits))
    return channel.point(
        [min(255, (level * 255 + largest // 2) // largest) for level in range(256)]
    )
