"""The TIFF format, with checks and conversions that Pillow does not handle."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image, ImageChops, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from imgsvc.image_types import ImageFormat
from imgsvc.images import colour
from imgsvc.images.errors import truncated, unsupported
from imgsvc.images.formats.base import (
    INDEXED_MODES,
    Codec,
    DecodedImage,
    DecodeLimits,
    is_hdr,
    rejected_variant,
    single_frame,
)

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_SUBFILE_TYPE, _BITS, _PHOTOMETRIC = 254, 258, 262
_COLOUR_MAP, _SUB_IFDS, _DNG_VERSION = 320, 330, 50706
_DATA_TAGS = ((273, 279), (324, 325))
"""The tags of offsets and byte counts: for strips, and for tiles."""

_WHITE_IS_ZERO = 0

_PREVIEW_OR_MASK = 0b101
"""Bits of the subfile type: an image at a lower resolution, and a mask."""


@dataclass(frozen=True, slots=True)
class Page:
    """The first page of a TIFF file, as described by its tags.

    `bits` is the number of bits per sample. `end` is the end of the image data in the file.
    """

    bits: int
    white_is_zero: bool
    end: int

    def check_complete(self, size: int) -> None:
        """Raise `corrupt_image` if image data lies beyond the end of a file of `size` bytes."""
        if self.end > size:
            raise truncated()

    def to_8_bit(self, image: Image.Image) -> Image.Image:
        """Return the loaded image with deep grey scaled to 8 bits and inverted grey corrected."""
        if image.mode.startswith("I;16"):
            grey = colour.scale_to_8_bit(image, (1 << min(self.bits, 16)) - 1)
        elif image.mode in {"I", "F"}:
            grey = colour.auto_scale_to_8_bit(image)
        else:
            return image
        return ImageChops.invert(grey) if self.white_is_zero else grey


def has_header(data: bytes) -> bool:
    """Return whether the complete directory of the first page lies within the file."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    if b"+" in data[2:4]:
        offset, count_size, entry_size = data[8:16], 8, 20
    else:
        offset, count_size, entry_size = data[4:8], 2, 12
    start = int.from_bytes(offset, order)
    count = int.from_bytes(data[start : start + count_size], order)
    end = start + count_size + entry_size * count + len(offset)
    return start >= 8 and count > 0 and end <= len(data)


def read_page(image: TiffImageFile) -> Page:
    """Return the first page of the opened file.

    Raise `unsupported_format` for camera raw files, because their first page is only a thumbnail.
    """
    tags = image.tag_v2
    is_thumbnail = isinstance(subfile := tags.get(_SUBFILE_TYPE), int) and subfile & 1
    if _DNG_VERSION in tags or (is_thumbnail and _SUB_IFDS in tags):
        raise unsupported("Camera raw files")
    bits = _as_integers(tags.get(_BITS))
    return Page(
        bits=bits[0] if bits else 1,
        white_is_zero=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        end=max((_data_end(tags, *pair) for pair in _DATA_TAGS), default=0),
    )


def _has_another_page(image: TiffImageFile) -> bool:
    """Return whether the opened file has a second page that is not only a preview or a mask."""
    if not image.tag_v2.next:
        return False
    try:
        image.seek(1)
        subfile = image.tag_v2.get(_SUBFILE_TYPE, 0)
    except Exception:  # noqa: BLE001 - Pillow raises any exception for damaged pages
        return False
    return not (isinstance(subfile, int) and subfile & _PREVIEW_OR_MASK)


def _8_bit_colour_map(tags: Any) -> bytes | None:
    """Return the palette of a file whose writer used the range of 8 bits instead of 16, or None."""
    levels = _as_integers(tags.get(_COLOUR_MAP))
    if not levels or max(levels) > 255:
        return None
    size = len(levels) // 3
    return bytes(levels[channel * size + entry] for entry in range(size) for channel in range(3))


def _data_end(tags: Any, offsets: int, counts: int) -> int:
    ranges = zip(_as_integers(tags.get(offsets)), _as_integers(tags.get(counts)), strict=False)
    return max((offset + count for offset, count in ranges), default=0)


def _as_integers(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(number for number in values if isinstance(number, int))


def matches(head: bytes) -> bool:
    """Return whether a file starts like a TIFF, but not like a CR2 (camera raw)."""
    return head.startswith(_TIFF_SIGNATURES) and not head.startswith(b"CR\x02", 8)


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode the first page of a TIFF."""
    if not has_header(data):
        raise truncated()
    with TiffImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        page = read_page(image)
        page.check_complete(len(data))
        image.load()
        # A copy has only this page. Pillow's encoders may read all pages of an opened file.
        pixels = image.copy() if image.tag_v2.next else image
        if image.mode == "P" and (colour_map := _8_bit_colour_map(image.tag_v2)):
            pixels.putpalette(colour_map)
        icc = image.info.get("icc_profile")
        normalised = colour.normalise(page.to_8_bit(pixels), icc)
        decoded = single_frame(ImageFormat.TIFF, *normalised, is_tone_mapped=is_hdr(image))
        decoded.is_indexed = image.mode in INDEXED_MODES
        decoded.source_frames = 1 + _has_another_page(image)
        return decoded


def unsupported_variant(data: bytes) -> str | None:
    """Return what is unsupported if the file has a valid header that Pillow rejects, or None."""
    return rejected_variant(data, ImageFormat.TIFF, TiffImageFile) if has_header(data) else None


# Pillow's own reader of uncompressed TIFFs reads 16-bit planes as 8-bit planes, so libtiff reads all.
CODEC = Codec(
    matches,
    decode,
    unsupported_variant=unsupported_variant,
    pillow_settings=((TiffImagePlugin, "READ_LIBTIFF", True),),
)
