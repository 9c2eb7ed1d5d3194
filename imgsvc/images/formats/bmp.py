"""The BMP format, with checks and metadata that Pillow does not handle."""

from __future__ import annotations

import io
import struct

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from imgsvc.image_types import ImageFormat
from imgsvc.images import colour
from imgsvc.images.formats import bmp_pixels
from imgsvc.images.formats.base import (
    INDEXED_MODES,
    Codec,
    DecodedImage,
    DecodeLimits,
    rejected_variant,
    single_frame,
)

_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}
"""Sizes of the header's versions, in bytes."""

_COMPRESSIONS = range(14)
"""The compression methods that the BMP header can name."""
_V5_HEADER = struct.pack("<I", 124)
_EMBEDDED_PROFILE = b"DEBM"
"""The colour space of a header with an embedded profile: `MBED`, in little-endian byte order."""
_BIT_DEPTHS = {0, 1, 2, 4, 8, 16, 24, 32}
"""Valid bits per pixel."""


def has_header(data: bytes) -> bool:
    """Return whether the header is valid and the pixel data starts inside the file."""
    pixel_offset = int.from_bytes(data[10:14], "little")
    short = int.from_bytes(data[14:18], "little") in {12, 16} and data[14] == 12
    depth = int.from_bytes(data[24:26] if short else data[28:30], "little")
    compression = 0 if short else int.from_bytes(data[30:34], "little")
    return pixel_offset < len(data) and depth in _BIT_DEPTHS and compression in _COMPRESSIONS


def icc_profile(data: bytes) -> bytes | None:
    """Return the ICC profile embedded in a file with a version 5 header, or None."""
    if data[14:18] != _V5_HEADER or data[70:74] != _EMBEDDED_PROFILE:
        return None
    start, size = struct.unpack_from("<II", data, 126)
    return data[14 + start : 14 + start + size]


def matches(head: bytes) -> bool:
    """Return whether a file starts like a BMP."""
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _HEADER_SIZES


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode a BMP. An alpha channel that is zero everywhere is ignored."""
    header = bmp_pixels.read_header(data)
    if header is not None and header.needs_own_decoder:
        return _decoded(bmp_pixels.decode(data, header, limits), data)
    if header is not None:
        data = bmp_pixels.with_valid_colour_count(data, header)
    with BmpImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        image.load()
        if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
            return single_frame(ImageFormat.BMP, image.convert("RGB"), None)
        return _decoded(image, data)


def _decoded(image: Image.Image, data: bytes) -> DecodedImage:
    decoded = single_frame(ImageFormat.BMP, *colour.normalise(image, icc_profile(data)))
    decoded.is_indexed = image.mode in INDEXED_MODES
    return decoded


def unsupported_variant(data: bytes) -> str | None:
    """Return what is unsupported if the file has a valid header that Pillow rejects, or None."""
    return rejected_variant(data, ImageFormat.BMP, BmpImageFile) if has_header(data) else None


CODEC = Codec(matches, decode, unsupported_variant=unsupported_variant)
