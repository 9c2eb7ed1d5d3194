"""The JPEG format. `jpeg_segments.py` parses its container.

`fast_jpeg.py` reads and writes ordinary files without Pillow.
"""

from __future__ import annotations

import io

from PIL.JpegImagePlugin import JpegImageFile

from imgsvc.errors import ImageError
from imgsvc.image_types import ImageFormat
from imgsvc.images import colour, exif, resize
from imgsvc.images.compose import Frame
from imgsvc.images.formats import fast_jpeg, jpeg_repair
from imgsvc.images.formats.base import (
    Codec,
    DecodedImage,
    DecodeLimits,
    EncodeSettings,
    is_hdr,
    normalised,
    save,
    single_frame,
)
from imgsvc.images.formats.jpeg_segments import (
    coded_bytes,
    has_gain_map,
    strip,
    unsupported_coding,
    with_profile,
)
from imgsvc.images.jpeg_quality import jpeg_quality


def matches(head: bytes) -> bool:
    """Return whether a file starts like a JPEG, but not like a JPEG-LS."""
    return head.startswith(b"\xff\xd8\xff") and head[3:4] != b"\xf7"


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode a JPEG, or the first image of an MPO."""
    with JpegImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        quality = _quality(image)
        orientation = exif.orientation(image.info.get("exif"))
        full_size = exif.upright_size(image.size, orientation)
        target = limits.bounds.fit(full_size)
        must_shrink = target != full_size
        is_plain = image.mode == "RGB" and orientation == 1 and not is_hdr(image)
        if limits.allow_pixel_array and is_plain and not must_shrink:
            decoded = _decode_fast(data, image, quality)
            if decoded is not None:
                return decoded
        is_suspicious = _is_suspicious(data)
        draft_size = None
        if must_shrink and not is_suspicious:
            draft_size = resize.draft_size(exif.upright_size(target, orientation))
            image.draft(None, draft_size)
        image.load()
        last_pixel = image.getpixel((image.width - 1, image.height - 1))
        if _is_fill_colour(last_pixel) or is_suspicious:
            jpeg_repair.check_complete(data, image, draft_size)
        decoded = single_frame(
            ImageFormat.JPEG, *normalised(image), orientation, quality, is_tone_mapped=is_hdr(image)
        )
        decoded.full_size = full_size
        return decoded


def _is_suspicious(data: bytes) -> bool:
    """Return whether the markers of a file suggest that its coded data is damaged."""
    try:
        coded_bytes(data)
    except (ImageError, IndexError):
        return True
    return False


def _decode_fast(data: bytes, image: JpegImageFile, quality: int | None) -> DecodedImage | None:
    """Decode a JPEG into a pixel array. Return None if Pillow has to decode it."""
    try:
        size = coded_bytes(data)
    except ImageError:
        return None
    pixel_array = fast_jpeg.decode(data, *image.size)
    if pixel_array is None or _is_fill_colour(tuple(pixel_array[-1, -1].tolist())):
        return None
    icc = colour.rgb_profile(image.info.get("icc_profile"))
    return DecodedImage(
        ImageFormat.JPEG,
        [Frame(image)],
        icc,
        quality,
        pixel_array=pixel_array,
        min_stripped_bytes=size,
    )


def _is_fill_colour(pixel: float | tuple[int, ...] | None) -> bool:
    """Return whether the last pixel has the grey that libjpeg uses for missing coded data."""
    return set(pixel if isinstance(pixel, tuple) else (pixel,)) <= {127, 128}


def _quality(image: JpegImageFile) -> int | None:
    tables = image.quantization
    used = list(dict.fromkeys(layer[3] for layer in image.layer if layer[3] in tables))
    return jpeg_quality(*(tables[number] for number in used[:2])) if used else None


def encode(decoded: DecodedImage, settings: EncodeSettings) -> bytes:
    """Return the first frame as a JPEG, on white if it has transparency."""
    if decoded.pixel_array is not None:
        data = fast_jpeg.encode(decoded.pixel_array, settings.quality, decoded.min_stripped_bytes)
        return with_profile(data, decoded.icc)
    image = colour.flatten_on_white(decoded.first_image)
    return save(
        image,
        "JPEG",
        quality=settings.quality,
        optimize=True,
        progressive=settings.progressive,
        icc_profile=decoded.icc,
    )


CODEC = Codec(
    matches,
    decode,
    encode,
    strip,
    unsupported_variant=unsupported_coding,
    repair=jpeg_repair.repair,
    has_gain_map=has_gain_map,
)
