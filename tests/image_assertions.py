"""Pictures to bytes and back, by Pillow alone."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageChops, ImageStat

from imgsvc.image_types import CompressedImage, CompressionSettings, OutputFormat, Quality
from imgsvc.images.codec import compress_image

MAX_PIXELS = 20_000_000


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def film(frames: list[Image.Image], form: str, **options: Any) -> bytes:
    return saved(frames[0], form, save_all=True, append_images=frames[1:], **options)


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def shown(data: bytes) -> list[tuple[Image.Image, float]]:
    """Each frame as RGBA, with its duration."""
    with Image.open(io.BytesIO(data)) as image:
        found = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            found.append((image.convert("RGBA"), float(image.info.get("duration", 0))))
        return found


def compressed(
    data: bytes, quality: str | int = "50%", form: str = "keep", max_pixels: int = MAX_PIXELS
) -> CompressedImage:
    result = compress_image(
        data, CompressionSettings(Quality.parse(quality), OutputFormat(form)), max_pixels
    )
    assert result.info.input_bytes == len(data)
    assert result.info.output_bytes == len(result.data)
    return result


def apart(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures, on white, of 255."""
    assert one.size == other.size
    plain = []
    for image in (one.convert("RGBA"), other.convert("RGBA")):
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        plain.append(white.convert("RGB"))
    means: list[float] = ImageStat.Stat(ImageChops.difference(*plain)).mean
    return sum(means) / len(means)
