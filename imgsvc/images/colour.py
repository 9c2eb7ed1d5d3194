"""Colour conversion: every image mode of the decoders to 8-bit grey or RGB, with its ICC profile."""

from __future__ import annotations

import io
import math
from functools import cache

from PIL import Image, ImageChops, ImageCms

from imgsvc.images import icc_parser, tone_mapping
from imgsvc.images.icc import HdrTransfer
from imgsvc.images.icc_parser import colour_space

_GREY, _RGB, _CMYK = b"GRAY", b"RGB ", b"CMYK"


def normalise(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Return the image as L, LA, RGB or RGBA, and its ICC profile (None: sRGB).

    CMYK is converted to sRGB with its profile. A profile that is damaged or has another colour
    space than the image is dropped. An alpha channel that is opaque everywhere is dropped too.
    Colours of high dynamic range are converted to sRGB.
    """
    space = colour_space(icc)
    if image.mode == "CMYK":
        return _cmyk_to_srgb(image, icc if space == _CMYK else None), None
    if image.mode == "LAB":
        return _lab_to_srgb(image), None
    image = drop_opaque_alpha(_to_grey_or_rgb(image))
    if icc_parser.hdr(icc) is not None:
        return _hdr_to_srgb(image, icc), None
    if image.mode in {"L", "LA"} and space == _RGB and icc is not None:
        return _grey_to_srgb(image, icc), None
    return image, matching_profile(image.mode, icc)


def matching_profile(mode: str, icc: bytes | None) -> bytes | None:
    """Return the profile if it describes the colours of images of this mode, grey or RGB, else None."""
    return icc if colour_space(icc) == (_GREY if mode in {"L", "LA"} else _RGB) else None


def to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Convert a normalised image to RGB or RGBA, for formats without grey or without grey profiles."""
    if image.mode not in {"L", "LA"}:
        return image, icc
    mode = "RGBA" if image.mode == "LA" else "RGB"
    if icc is None:
        return image.convert(mode), None
    grey = image.getchannel("L") if image.mode == "LA" else image
    rgb = to_srgb(grey, icc) or grey.convert("RGB")
    if image.mode == "LA":
        rgb.putalpha(image.getchannel("A"))
    return rgb, None


def flatten_on_white(image: Image.Image) -> Image.Image:
    """Return a normalised image without alpha, drawn on white."""
    if image.mode not in {"LA", "RGBA"}:
        return image
    mode = "L" if image.mode == "LA" else "RGB"
    background = Image.new(mode, image.size, "white")
    background.paste(image.convert(mode), mask=image.getchannel("A"))
    return background


def drop_opaque_alpha(image: Image.Image) -> Image.Image:
    """Return the image without its alpha channel if that is opaque everywhere."""
    if image.mode not in {"LA", "RGBA"} or image.getchannel("A").getextrema() != (255, 255):
        return image
    return image.convert("L" if image.mode == "LA" else "RGB")


def scale_to_8_bit(image: Image.Image, max_value: int) -> Image.Image:
    """Scale a grey image of integers from 0 to `max_value` (at most 65,535) to 8 bits, rounded."""
    return image.convert("I").point(_scale_table(max_value), "L")


@cache
def _scale_table(max_value: int) -> list[int]:
    return [min(255, (value * 255 + max_value // 2) // max_value) for value in range(65_536)]


def auto_scale_to_8_bit(image: Image.Image) -> Image.Image:
    """Convert a grey image in mode I or F, whose range the file does not state, to 8 bits.

    The largest value selects the range: 0 to 1 (mode F only), 0 to 255 or 0 to 65,535. Values
    outside these ranges are stretched to fill 8 bits.
    """
    low, high = _extrema(image)
    max_values = (1.0, 255.0, 65_535.0) if image.mode == "F" else (255.0, 65_535.0)
    max_value = next(
        (max_value for max_value in max_values if low >= 0 and high <= max_value), None
    )
    if max_value is None:
        start, span = (low, high - low) if high > low else (low, 1.0)
    else:
        start, span = 0.0, max_value
    factor = 255.0 / span
    fractions = image.convert("F").point(lambda value: value * factor + (0.5 - start * factor))
    return fractions.convert("L")


def _extrema(image: Image.Image) -> tuple[float, float]:
    """Return the smallest and the largest value, or 0 and 1 if they are not finite numbers."""
    values = [float(value) for value in image.getextrema() if not isinstance(value, tuple)]
    low, high = values if len(values) == 2 else (0.0, 1.0)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (0.0, 1.0)


def equality_mask(image: Image.Image, value: int) -> Image.Image:
    """Return a mask (mode L, 0 or 255) of the pixels of a 16-bit grey image that equal `value`."""
    raw = image.convert("I;16").tobytes("raw", "I;16")
    masks = []
    for byte_offset, wanted_byte in ((0, value & 0xFF), (1, value >> 8)):
        plane = Image.frombytes("L", image.size, raw[byte_offset::2])
        masks.append(plane.point([255 if level == wanted_byte else 0 for level in range(256)]))
    return ImageChops.darker(*masks)


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Return the image as L, LA, RGB or RGBA."""
    mode = image.mode
    if mode in {"L", "RGB"} and "transparency" not in image.info:
        return image
    if mode in {"LA", "RGBA"}:
        return image
    if mode.startswith("I;16"):
        return scale_to_8_bit(image, 65_535)
    if mode in {"I", "F"}:
        return auto_scale_to_8_bit(image)
    if mode == "1":
        return image.convert("L")
    if mode == "La":
        return image.convert("LA")
    if mode == "L":
        return image.convert("LA")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _cmyk_to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    return (to_srgb(image, icc) if icc is not None else None) or image.convert("RGB")


def _lab_to_srgb(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return converted or image.convert("RGB")


def _hdr_to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    hdr = icc_parser.hdr(icc)
    if icc is None or hdr is None:
        return image
    if hdr.transfer is not HdrTransfer.LINEAR:
        return tone_mapping.to_sdr(image, hdr)
    colours = to_srgb(image.convert("RGB"), icc)
    if colours is None:
        return image
    if image.mode in {"LA", "RGBA"}:
        colours.putalpha(image.getchannel("A"))
    return colours.convert(image.mode)


def _grey_to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Convert a grey image that has an RGB profile to sRGB grey."""
    grey = to_srgb(image.convert("RGB"), icc)
    if grey is None:
        return image
    grey = grey.convert("L")
    if image.mode == "LA":
        grey.putalpha(image.getchannel("A"))
    return grey


def to_srgb(image: Image.Image, icc: bytes) -> Image.Image | None:
    """Convert the image from its profile to sRGB. Return None if the profile cannot be used."""
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
