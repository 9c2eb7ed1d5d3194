"""Photograph-like pictures, cut from those that scikit-image ships. Nothing is downloaded.

Every picture is decided by its number, so any process can make the same one again.
"""

from __future__ import annotations

import io
import random
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

PHOTOGRAPHS = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
)
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "avif": "AVIF"}
FORMATS |= {"bmp": "BMP", "tif": "TIFF"}
MEDIA_TYPES = {"jpg": "image/jpeg", "tif": "image/tiff"}


def media_type(extension: str) -> str:
    return MEDIA_TYPES.get(extension, f"image/{extension}")


@cache
def _source(name: str) -> Image.Image:
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / "data" / name) as image:
        return image.convert("RGB")


def photograph(number: int, width: int = 320, height: int = 240) -> Image.Image:
    """Cut the picture `number`: no two numbers give the same one."""
    chance = random.Random(number)
    source = _source(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
    scale = min(source.width / width, source.height / height) * chance.uniform(0.55, 0.9)
    cut_width, cut_height = width * scale, height * scale
    left = chance.uniform(0, source.width - cut_width)
    top = chance.uniform(0, source.height - cut_height)
    box = (left, top, left + cut_width, top + cut_height)
    return source.resize((width, height), Image.Resampling.BICUBIC, box)


def quality_of(number: int) -> int:
    """The quality that `encoded` saves the JPEG `number` with: 88 to 92."""
    return 88 + number % 5


def encoded(number: int, extension: str = "jpg", width: int = 320, height: int = 240) -> bytes:
    """The picture `number` as a file of that kind."""
    out = io.BytesIO()
    image = photograph(number, width, height)
    options = {"quality": quality_of(number)} if extension in {"jpg", "webp", "avif"} else {}
    image.save(out, FORMATS[extension], **options)
    return out.getvalue()


def difference(one: Image.Image, other: Image.Image) -> float:
    """How far two pictures are apart, 0 (equal) to 255, as seen from afar."""
    small = [p.convert("RGB").resize((24, 24), Image.Resampling.BOX) for p in (one, other)]
    means: list[float] = ImageStat.Stat(ImageChops.difference(*small)).mean
    return sum(means) / len(means)


def is_picture(data: bytes, number: int, limit: float = 6.0) -> bool:
    """Whether `data` decodes to the picture `number`, but for what compressing loses."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return difference(image, photograph(number, image.width, image.height)) < limit
