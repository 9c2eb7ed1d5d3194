"""The PNG and APNG format. `png_chunks.py` parses its container."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngImageFile

from imgsvc.image_types import Effort, ImageFormat
from imgsvc.images import colour, exif, icc_parser, indexed, palette
from imgsvc.images.compose import Frame, Layer, compose
from imgsvc.images.errors import truncated
from imgsvc.images.formats import png_chunks, png_repair
from imgsvc.images.formats.base import (
    Codec,
    DecodedImage,
    DecodeLimits,
    EncodeSettings,
    animation_options,
    save,
    single_frame,
    with_frames,
)

_FEW_COLOURS = 16
"""Number of colours up to which PNGs are always optimised. With more, that saves 1 % at most."""

_BILEVEL_LEVEL = 4
"""Deflate level of bilevel PNGs. Level 9 saves a tenth, but takes six times as long."""

_MAX_NUMBER = 65_535
"""Largest number in a duration."""


def matches(head: bytes) -> bool:
    """Return whether a file starts like a PNG."""
    return head.startswith(png_chunks.MAGIC)


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode a PNG or APNG."""
    file = png_chunks.read(data)
    limits.check(file.width, file.height, max(len(file.frames), 1))
    orientation = exif.orientation(file.exif)
    profile = file.profile
    is_hdr = icc_parser.hdr(profile) is not None
    if not file.frames:
        pixels = _pixels(file.default_image_file(), file.data, file)
        normalised = colour.normalise(pixels, profile)
        return single_frame(ImageFormat.PNG, *normalised, orientation, is_tone_mapped=is_hdr)
    decoded = DecodedImage(
        ImageFormat.PNG,
        [],
        play_count=file.play_count,
        source_frames=len(file.frames),
        is_tone_mapped=is_hdr,
    )

    def layers() -> Iterator[Layer]:
        for frame in file.frames:
            pixels = _pixels(file.frame_file(frame), frame.data, file)
            image, decoded.icc = colour.to_rgb(*colour.normalise(pixels, profile))
            offset = frame.box[:2]
            yield Layer(image.convert("RGBA"), offset, frame.disposal, frame.blend, frame.duration)

    return with_frames(decoded, compose((file.width, file.height), layers()), limits, orientation)


def _pixels(pixels: bytes, data: Sequence[bytes], file: png_chunks.Png) -> Image.Image:
    """Decode a PNG file that contains only the image data `data`, and apply its transparent colour."""
    with PngImageFile(io.BytesIO(pixels)) as image:
        image.load()
        if _has_blank_end(image) and file.is_truncated(*image.size, data):
            raise truncated()
        colour_key = file.colour_key
        if colour_key is None:
            return image
        image.info.pop("transparency", None)
        if file.depth == 16 and len(colour_key) == 1:
            grey = colour.scale_to_8_bit(image, 65_535)
            grey.putalpha(ImageChops.invert(colour.equality_mask(image, colour_key[0])))
            return grey
        converted = image.convert("L" if len(colour_key) == 1 else "RGB")
        shift, top = max(file.depth - 8, 0), (1 << min(file.depth, 8)) - 1
        key = tuple((value >> shift & top) * 255 // top for value in colour_key)
        converted.info["transparency"] = key[0] if len(key) == 1 else key
        return converted.convert("LA" if len(key) == 1 else "RGBA")


def _has_blank_end(image: Image.Image) -> bool:
    """Return whether one of the last two rows is all zero. Pillow fills missing rows with zeros."""
    width, height = image.size
    rows = range(max(height - 2, 0), height)
    return not all(any(image.crop((0, row, width, row + 1)).tobytes()) for row in rows)


def encode(decoded: DecodedImage, settings: EncodeSettings) -> bytes:
    """Return the image as a PNG. The quality is the percentage of 256 colours."""
    if _is_bilevel(decoded):
        bits = decoded.first_image.convert("1", dither=Image.Dither.NONE)
        if settings.effort is Effort.SMALL:
            return save(bits, "PNG", optimize=True)
        return save(bits, "PNG", compress_level=_BILEVEL_LEVEL)
    frames, icc = decoded.frames, decoded.icc
    if decoded.first_image.mode != "L" or icc is not None:
        frames, icc = decoded.frames_as_rgb()
    reduced = palette.reduce(
        [frame.image for frame in frames], palette.colour_count(settings.quality)
    )
    frames = [Frame(image, frame.duration) for image, frame in zip(reduced, frames, strict=True)]
    has_few_colours = len(indexed.entries(reduced[0])) <= _FEW_COLOURS
    optimize = has_few_colours or settings.effort is Effort.SMALL
    options: dict[str, Any] = {"icc_profile": icc, "optimize": optimize}
    if len(frames) > 1:
        options |= animation_options(frames) | {"loop": decoded.play_count}
        options["duration"] = [_duration(frame.duration) for frame in frames]
    return save(frames[0].image, "PNG", **options)


def _is_bilevel(decoded: DecodedImage) -> bool:
    """Return whether an image has only black and white pixels. All grey profiles agree on these."""
    image = decoded.first_image
    return len(decoded.frames) == 1 and image.mode == "L" and not any(image.histogram()[1:255])


def _duration(duration: float) -> float:
    """Return the nearest duration, in milliseconds, that two 16-bit numbers of a PNG can express."""
    if duration <= _MAX_NUMBER:
        return duration
    seconds = min(duration / 1_000, _MAX_NUMBER)
    denominator = int(_MAX_NUMBER // seconds)
    return 1_000 * min(round(seconds * denominator), _MAX_NUMBER) / denominator


CODEC = Codec(matches, decode, encode, png_chunks.strip, repair=png_repair.repair)
