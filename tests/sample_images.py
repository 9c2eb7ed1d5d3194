"""Sample photographs, cut from the images that scikit-image includes. Nothing is downloaded.

The number of a sample determines its pixels, so every process creates the same image.
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
    """Return the media type of a file extension."""
    return MEDIA_TYPES.get(extension, f"image/{extension}")


def source_path(name: str) -> Path:
    """Return the path of one of the `PHOTOGRAPHS`."""
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / name


@cache
def _source(name: str) -> Image.Image:
    with Image.open(source_path(name)) as image:
        return image.convert("RGB")


def photograph(number: int, width: int = 320, height: int = 240) -> Image.Image:
    """Return the photograph `number`. Different numbers give different photographs."""
    return part(_source(PHOTOGRAPHS[number % len(PHOTOGRAPHS)]), number, width, height)


def part(source: Image.Image, number: int, width: int, height: int) -> Image.Image:
    """Return the part `number` of an image, resized. Different numbers give different parts."""
    random_numbers = random.Random(number)
    scale = min(source.width / width, source.height / height) * random_numbers.uniform(0.55, 0.9)
    cut_width, cut_height = width * scale, height * scale
    left = random_numbers.uniform(0, source.width - cut_width)
    top = random_numbers.uniform(0, source.height - cut_height)
    box = (left, top, left + cut_width, top + cut_height)
    return source.resize((width, height), Image.Resampling.BICUBIC, box)


def sample_quality(number: int) -> int:
    """Return the quality with which `encoded` saves the JPEG `number`: 88 to 92."""
    return 88 + number % 5


def encoded(number: int, extension: str = "jpg", width: int = 320, height: int = 240) -> bytes:
    """Return the photograph `number` as a file with this extension."""
    out = io.BytesIO()
    image = photograph(number, width, height)
    options = {"quality": sample_quality(number)} if extension in {"jpg", "webp", "avif"} else {}
    image.save(out, FORMATS[extension], **options)
    return out.getvalue()


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two images at 24 × 24 pixels, from 0 (equal) to 255."""
    thumbnails = [p.convert("RGB").resize((24, 24), Image.Resampling.BOX) for p in (one, other)]
    means: list[float] = ImageStat.Stat(ImageChops.difference(*thumbnails)).mean
    return sum(means) / len(means)


def is_photograph(data: bytes, number: int, limit: float = 6.0) -> bool:
    """Return whether `data` is the photograph `number`, apart from compression losses."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return difference(image, photograph(number, image.width, image.height)) < limit
