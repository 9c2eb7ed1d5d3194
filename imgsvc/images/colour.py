"""True colours: every mode that a decoder gives becomes grey or RGB, 8 bits, with its profile."""

from __future__ import annotations

import io
import math
from functools import cache

from PIL import Image, ImageChops, ImageCms

_GREY, _RGB, _CMYK = b"GRAY", b"RGB ", b"CMYK"
_HEADER_BYTES = 128


def settle(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """The picture as L, LA, RGB or RGBA, and the profile that fits it (None: sRGB).

    CMYK goes through its profile to sRGB. A profile of another colour space than the picture's, or
    a damaged one, is dropped. Alpha that hides nothing is dropped too.
    """
    space = _space(icc)
    if image.mode == "CMYK":
        return _from_cmyk(image, icc if space == _CMYK else None), None
    if image.mode == "LAB":
        return _from_lab(image), None
    image = without_idle_alpha(_plain(image))
    if image.mode in {"L", "LA"}:
        if space == _RGB and icc is not None:
            return _grey_through(image, icc), None
        return image, icc if space == _GREY else None
    return image, rgb_profile(icc)


def rgb_profile(icc: bytes | None) -> bytes | None:
    """The profile, where it is one of a picture in RGB."""
    return icc if _space(icc) == _RGB else None


def as_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """A settled picture as RGB or RGBA, for outputs that hold no grey (nor a grey profile)."""
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


def on_white(image: Image.Image) -> Image.Image:
    """A settled picture without alpha: what was transparent shows white."""
    if image.mode not in {"LA", "RGBA"}:
        return image
    mode = "L" if image.mode == "LA" else "RGB"
    background = Image.new(mode, image.size, "white")
    background.paste(image.convert(mode), mask=image.getchannel("A"))
    return background


def without_idle_alpha(image: Image.Image) -> Image.Image:
    """The picture without its alpha where that is opaque throughout."""
    if image.mode not in {"LA", "RGBA"} or image.getchannel("A").getextrema() != (255, 255):
        return image
    return image.convert("L" if image.mode == "LA" else "RGB")


def scaled(image: Image.Image, top: int) -> Image.Image:
    """A grey picture of whole numbers from 0 to `top` (at most 65,535) as 8 bits, rounded."""
    return image.convert("I").point(_scale(top), "L")


@cache
def _scale(top: int) -> list[int]:
    return [min(255, (value * 255 + top // 2) // top) for value in range(65_536)]


def ranged(image: Image.Image) -> Image.Image:
    """A grey picture in mode I or F, whose range its file does not tell, as 8 bits.

    The usual ranges (0 to 1 for fractions, to 255, to 65,535) are recognised by the largest value;
    any other is stretched.
    """
    low, high = _extrema(image)
    tops = (1.0, 255.0, 65_535.0) if image.mode == "F" else (255.0, 65_535.0)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        start, span = (low, high - low) if high > low else (low, 1.0)
    else:
        start, span = 0.0, top
    factor = 255.0 / span
    fractions = image.convert("F").point(lambda value: value * factor + (0.5 - start * factor))
    return fractions.convert("L")


def _extrema(image: Image.Image) -> tuple[float, float]:
    """The least and the greatest value; 0 and 1 where they are no finite numbers."""
    values = [float(value) for value in image.getextrema() if not isinstance(value, tuple)]
    low, high = values if len(values) == 2 else (0.0, 1.0)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (0.0, 1.0)


def equal_to(image: Image.Image, value: int) -> Image.Image:
    """A mask (L, 0 or 255) of where a 16-bit grey picture is exactly `value`."""
    raw = image.convert("I;16").tobytes("raw", "I;16")
    masks = []
    for place, wanted in ((0, value & 0xFF), (1, value >> 8)):
        plane = Image.frombytes("L", image.size, raw[place::2])
        masks.append(plane.point([255 if level == wanted else 0 for level in range(256)]))
    return ImageChops.darker(*masks)


def _plain(image: Image.Image) -> Image.Image:
    """The picture as L, LA, RGB or RGBA."""
    mode = image.mode
    if mode in {"L", "RGB"} and "transparency" not in image.info:
        return image
    if mode in {"LA", "RGBA"}:
        return image
    if mode.startswith("I;16"):
        return scaled(image, 65_535)
    if mode in {"I", "F"}:
        return ranged(image)
    if mode == "1":
        return image.convert("L")
    if mode == "La":
        return image.convert("LA")
    if mode == "L":
        return image.convert("LA")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _space(icc: bytes | None) -> bytes | None:
    """The colour space that a profile describes; None where it is no profile."""
    if icc is None or len(icc) < _HEADER_BYTES or icc[36:40] != b"acsp":
        return None
    return icc[16:20]


def _from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    return (to_srgb(image, icc) if icc is not None else None) or image.convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return converted or image.convert("RGB")


def _grey_through(image: Image.Image, icc: bytes) -> Image.Image:
    """A grey picture whose profile is RGB: its greys as that profile has them."""
    grey = to_srgb(image.convert("RGB"), icc)
    if grey is None:
        return image
    grey = grey.convert("L")
    if image.mode == "LA":
        grey.putalpha(image.getchannel("A"))
    return grey


def to_srgb(image: Image.Image, icc: bytes) -> Image.Image | None:
    """The picture converted from its profile to sRGB; None where the profile is of no use."""
    try:
        return ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
