"""Encode frames into image files."""

from __future__ import annotations

import io
from itertools import accumulate, pairwise
from typing import Any

from PIL import Image

from imgsvc.images import colour, fast_jpeg, gif_writer, isobmff, jpeg, palette, webp
from imgsvc.images.compose import Frame
from imgsvc.images.decode import DecodedImage
from imgsvc.images.sniff import ImageFormat

_MAX_SIDES = {
    ImageFormat.JPEG: jpeg.MAX_SIDE,
    ImageFormat.WEBP: webp.MAX_SIDE,
    ImageFormat.AVIF: isobmff.MAX_SIDE,
}
_ANIMATED_FORMATS = {ImageFormat.GIF, ImageFormat.WEBP, ImageFormat.PNG, ImageFormat.AVIF}
_WEBP_METHOD = 4
_AVIF_SPEED = 8
_AVIF_SPEED_SMALL = 6
_SMALL_AVIF_PIXELS = 100_000
"""Pixels of all frames up to which AVIF uses the slower speed, which takes little time for them."""

_FEW_COLOURS = 16
"""Number of colours up to which PNGs are optimised. With more, that costs time and saves nothing."""

_MAX_LOOPS = _MAX_NUMBER = 65_535
"""Largest loop count of WebP, and largest number in a PNG duration."""


def supports_animation(image_format: ImageFormat) -> bool:
    """Return whether the service writes animations in this format."""
    return image_format in _ANIMATED_FORMATS


def fits_format_limits(image_format: ImageFormat, decoded: DecodedImage) -> bool:
    """Return whether the format allows an image of this size and an animation of this duration."""
    if image_format is ImageFormat.WEBP and len(decoded.frames) > 1:
        durations = [frame.duration for frame in decoded.frames]
        if max(durations) > webp.MAX_DURATION or sum(durations) > webp.MAX_TOTAL_DURATION:
            return False
    return max(decoded.first_image.size) <= _MAX_SIDES.get(image_format, 2**31 - 1)


def encode(
    decoded: DecodedImage, image_format: ImageFormat, quality: int, *, progressive: bool
) -> bytes:
    """Return the image as a file of a writable format, at `quality` (1 to 100).

    For PNG and GIF the quality is the percentage of 256 colours.
    """
    if image_format is ImageFormat.JPEG:
        return _encode_jpeg(decoded, quality, progressive)
    if image_format is ImageFormat.WEBP:
        return _encode_webp(decoded, quality)
    if image_format is ImageFormat.AVIF:
        return _encode_avif(decoded, quality)
    colours = max(2, 256 * quality // 100)
    if image_format is ImageFormat.GIF:
        return gif_writer.write(decoded.frames, decoded.play_count, colours)
    return _encode_png(decoded, colours)


def _encode_jpeg(decoded: DecodedImage, quality: int, progressive: bool) -> bytes:
    if decoded.pixel_array is not None:
        data = fast_jpeg.encode(decoded.pixel_array, quality, decoded.min_stripped_bytes)
        return jpeg.with_profile(data, decoded.icc)
    image = colour.flatten_on_white(decoded.first_image)
    return _save(
        image,
        "JPEG",
        quality=quality,
        optimize=True,
        progressive=progressive,
        icc_profile=decoded.icc,
    )


def _encode_webp(decoded: DecodedImage, quality: int) -> bytes:
    frames, icc = _frames_as_rgb(decoded)
    options: dict[str, Any] = {"quality": quality, "method": _WEBP_METHOD, "icc_profile": icc}
    if len(frames) > 1:
        options |= _animation_options(frames) | {"loop": min(decoded.play_count, _MAX_LOOPS)}
    return _save(frames[0].image, "WEBP", **options)


def _encode_avif(decoded: DecodedImage, quality: int) -> bytes:
    small = (
        decoded.first_image.width * decoded.first_image.height * len(decoded.frames)
        <= _SMALL_AVIF_PIXELS
    )
    speed = _AVIF_SPEED_SMALL if small else _AVIF_SPEED
    options: dict[str, Any] = {"quality": quality, "speed": speed, "max_threads": 1}
    frames, icc = decoded.frames, decoded.icc
    if decoded.first_image.mode != "L":
        frames, icc = _frames_as_rgb(decoded)
    if len(frames) > 1:
        options |= _animation_options(frames)
    data = _save(frames[0].image, "AVIF", icc_profile=icc or b"", **options)
    return (
        isobmff.with_play_count(data, decoded.play_count)
        if len(decoded.frames) > 1 and decoded.play_count
        else data
    )


def _encode_png(decoded: DecodedImage, colours: int) -> bytes:
    frames, icc = decoded.frames, decoded.icc
    if decoded.first_image.mode != "L" or icc is not None:
        frames, icc = _frames_as_rgb(decoded)
    reduced = palette.reduce([frame.image for frame in frames], colours)
    frames = [Frame(image, frame.duration) for image, frame in zip(reduced, frames, strict=True)]
    has_few_colours = len(palette.entries(reduced[0])) <= _FEW_COLOURS
    options: dict[str, Any] = {"icc_profile": icc, "optimize": has_few_colours}
    if len(frames) > 1:
        options |= _animation_options(frames) | {"loop": decoded.play_count}
        options["duration"] = [_png_duration(frame.duration) for frame in frames]
    return _save(frames[0].image, "PNG", **options)


def _png_duration(duration: float) -> float:
    """Return the nearest duration, in milliseconds, that two 16-bit numbers of a PNG can express."""
    if duration <= _MAX_NUMBER:
        return duration
    seconds = min(duration / 1_000, _MAX_NUMBER)
    denominator = int(_MAX_NUMBER // seconds)
    return 1_000 * min(round(seconds * denominator), _MAX_NUMBER) / denominator


def _frames_as_rgb(decoded: DecodedImage) -> tuple[list[Frame], bytes | None]:
    pairs = [(colour.to_rgb(frame.image, decoded.icc), frame.duration) for frame in decoded.frames]
    return [Frame(image, duration) for (image, _), duration in pairs], pairs[0][0][1]


def _animation_options(frames: list[Frame]) -> dict[str, Any]:
    return {
        "save_all": True,
        "append_images": [frame.image for frame in frames[1:]],
        "duration": _whole_durations(frames),
    }


def _whole_durations(frames: list[Frame]) -> list[int]:
    """Return durations in whole milliseconds, rounded so that the frames start at the right time."""
    ends = [round(end) for end in accumulate(frame.duration for frame in frames)]
    return [end - start for start, end in pairwise([0, *ends])]


def _save(image: Image.Image, pillow_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.info = {}
    image.save(out, pillow_format, **options)
    return out.getvalue()
