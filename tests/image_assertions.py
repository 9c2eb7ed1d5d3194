"""Helpers for tests that encode, decode, compress and compare images with Pillow."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from PIL import Image, ImageChops, ImageStat

from imgsvc.image_types import CompressedImage, CompressionSettings, OutputFormat, Quality
from imgsvc.images import native
from imgsvc.images.codec import compress_image

MAX_PIXELS = 20_000_000


@contextmanager
def without_native_module() -> Iterator[None]:
    """Run the body as if the native module were not built."""
    with mock.patch.dict(sys.modules, {"imgsvc.images.native._requantise": None}):
        importlib.reload(native)
    try:
        yield
    finally:
        importlib.reload(native)


def encode_image(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the image as a file."""
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def encode_animation(frames: list[Image.Image], file_format: str, **options: Any) -> bytes:
    """Return the frames as an animated file."""
    return encode_image(frames[0], file_format, save_all=True, append_images=frames[1:], **options)


def open_image(data: bytes) -> Image.Image:
    """Return the decoded image of a file."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def read_frames(data: bytes) -> list[tuple[Image.Image, float]]:
    """Return each frame as RGBA with its duration in milliseconds."""
    with Image.open(io.BytesIO(data)) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            frames.append((image.convert("RGBA"), float(image.info.get("duration", 0))))
        return frames


def frame_bytes(data: bytes) -> list[tuple[tuple[int, int], bytes, float]]:
    """Return the size, the RGBA pixels and the duration of each frame, to compare them."""
    return [(image.size, image.tobytes(), duration) for image, duration in read_frames(data)]


def compress(
    data: bytes,
    quality: str | int = "50%",
    output_format: str = "keep",
    max_pixels: int = MAX_PIXELS,
) -> CompressedImage:
    """Compress a file and check that the reported sizes are right."""
    result = compress_image(
        data, CompressionSettings(Quality.parse(quality), OutputFormat(output_format)), max_pixels
    )
    assert result.info.input_bytes == len(data)
    assert result.info.output_bytes == len(result.data)
    return result


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two images on white, from 0 (equal) to 255."""
    assert one.size == other.size
    plain = []
    for image in (one.convert("RGBA"), other.convert("RGBA")):
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        plain.append(white.convert("RGB"))
    means: list[float] = ImageStat.Stat(ImageChops.difference(*plain)).mean
    return sum(means) / len(means)
