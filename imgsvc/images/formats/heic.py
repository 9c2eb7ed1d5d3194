"""The HEIC format. `isobmff.py` parses its container. Reading it needs pillow-heif."""

from __future__ import annotations

import io
from importlib import import_module
from importlib.util import find_spec

from imgsvc.image_types import ImageFormat
from imgsvc.images import isobmff
from imgsvc.images.errors import unsupported
from imgsvc.images.formats.base import (
    Codec,
    DecodedImage,
    DecodeLimits,
    is_hdr,
    normalised,
    single_frame,
)


def matches(head: bytes) -> bool:
    """Return whether a file starts like a HEIC file."""
    return isobmff.kind(head) == "heic"


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode the primary image of a HEIC file. Raise `unsupported_format` without pillow-heif."""
    if find_spec("pillow_heif") is None:
        raise unsupported("HEIC files", "To support them, install imgsvc[heic] on the server.")
    isobmff.check(data)
    with import_module("pillow_heif").HeifImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        if "icc_profile" not in image.info and (icc := isobmff.colour_profile(data)):
            image.info["icc_profile"] = icc
        return single_frame(ImageFormat.HEIC, *normalised(image), is_tone_mapped=is_hdr(image))


CODEC = Codec(
    matches,
    decode,
    has_gain_map=isobmff.has_gain_map,
    peak_bytes_per_pixel=30,
)
