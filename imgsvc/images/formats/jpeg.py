"""The JPEG format. `jpeg_segments.py` parses its container; `native` compresses without pixels."""

from __future__ import annotations

import io

from PIL.JpegImagePlugin import JpegImageFile

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressionSettings, Effort, ImageFormat
from imgsvc.images import colour, exif, native, resize
from imgsvc.images.compose import Frame
from imgsvc.images.formats import jpeg_repair
from imgsvc.images.formats.base import (
    Codec,
    DecodedImage,
    DecodeLimits,
    EncodeSettings,
    Transcoded,
    is_hdr,
    normalised,
    save,
    single_frame,
)
from imgsvc.images.formats.jpeg_segments import (
    check_counts,
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
    check_counts(data)
    with JpegImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        quality = _quality(image)
        orientation = exif.orientation(image.info.get("exif"))
        full_size = exif.upright_size(image.size, orientation)
        target = limits.bounds.fit(full_size)
        must_shrink = target != full_size
        size = _coded_bytes(data)
        draft_size = None
        if must_shrink and size is not None:
            draft_size = resize.draft_size(exif.upright_size(target, orientation))
            image.draft(None, draft_size)
        image.load()
        last_pixel = image.getpixel((image.width - 1, image.height - 1))
        if _is_fill_colour(last_pixel) or size is None:
            jpeg_repair.check_complete(data, image, draft_size)
        if "progressive" in image.info and size is not None:
            jpeg_repair.check_all_scans(data)
        decoded = single_frame(
            ImageFormat.JPEG, *normalised(image), orientation, quality, is_tone_mapped=is_hdr(image)
        )
        decoded.full_size = full_size
        decoded.min_stripped_bytes = size or 0
        return decoded


def _coded_bytes(data: bytes) -> int | None:
    """Return the size of the scans, or None if the markers suggest that coded data is damaged.

    Raise `too_many_pixels` if there are too many markers.
    """
    try:
        return coded_bytes(data)
    except IndexError:
        return None
    except ImageError as error:
        if error.code is ImageErrorCode.TOO_MANY_PIXELS:
            raise
        return None


def _is_fill_colour(pixel: float | tuple[int, ...] | None) -> bool:
    """Return whether the last pixel has the grey that libjpeg uses for missing coded data."""
    return set(pixel if isinstance(pixel, tuple) else (pixel,)) <= {127, 128}


def _quality(image: JpegImageFile) -> int | None:
    tables = image.quantization
    used = list(dict.fromkeys(layer[3] for layer in image.layer if layer[3] in tables))
    return jpeg_quality(*(tables[number] for number in used[:2])) if used else None


def transcode(
    data: bytes, settings: CompressionSettings, limits: DecodeLimits
) -> Transcoded | None:
    """Return the image as a smaller JPEG, made from its coefficients, or None if it must be decoded."""
    if settings.progressive or not native.AVAILABLE:
        return None
    check_counts(data)
    with JpegImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        is_shrunk = limits.bounds.fit(image.size) != image.size
        if is_shrunk or exif.orientation(image.info.get("exif")) != 1 or is_hdr(image):
            return None
        icc = image.info.get("icc_profile")
        if image.mode == "L" and colour.matching_profile("RGB", icc) is not None:
            return None  # decoding converts the grey levels to sRGB
        source_quality = _quality(image)
        quality = settings.quality.resolve(source_quality)
        if source_quality is None or quality >= source_quality:
            return None
        size = coded_bytes(data)
        if "progressive" in image.info:
            jpeg_repair.check_all_scans(data)
        output = native.requantise(data, quality, small=settings.effort is Effort.SMALL)
        if output is None:
            return None
        icc = colour.matching_profile(image.mode, icc)
        source = DecodedImage(
            ImageFormat.JPEG, [Frame(image)], icc, source_quality, min_stripped_bytes=size
        )
        return Transcoded(source, with_profile(output, icc), quality)


def encode(decoded: DecodedImage, settings: EncodeSettings) -> bytes:
    """Return the first frame as a JPEG, on white if it has transparency."""
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
    transcode=transcode,
)
