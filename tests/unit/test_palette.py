"""Tests of palettes for large images: close to a median cut of the complete image, in less time."""

from __future__ import annotations

import pytest
from PIL import Image

from imgsvc.images import palette
from tests.image_assertions import mean_difference
from tests.sample_images import photograph

LARGE = (2_400, 1_800)


def dark_photograph(number: int) -> Image.Image:
    """Return a large photograph at 35% brightness."""
    return photograph(number, *LARGE).point([level * 35 // 100 for level in range(256)] * 3)


@pytest.mark.parametrize("number", [251, 253, 254, 255])
def test_reduce_large_dark_image_is_close_to_median_cut_of_all_pixels(number: int) -> None:
    image = dark_photograph(number)
    full_cut = image.quantize(128, Image.Quantize.MEDIANCUT)
    assert mean_difference(palette.reduce([image], 128)[0], image) < 1.1 * mean_difference(
        full_cut, image
    )


def test_reduce_large_image_of_few_colours_keeps_colours_of_small_area() -> None:
    image = Image.new("RGB", LARGE, "white")
    part = photograph(4, 150, 150)
    image.paste(part, (1_000, 1_000))
    box = (1_000, 1_000, 1_150, 1_150)
    full_cut = image.quantize(128, Image.Quantize.MEDIANCUT).crop(box)
    assert mean_difference(palette.reduce([image], 128)[0].crop(box), part) <= mean_difference(
        full_cut, part
    )


def test_reduce_excludes_transparent_pixels_from_sample() -> None:
    part = photograph(4, 300, 200).convert("RGBA")
    image = Image.new("RGBA", LARGE)
    image.paste(part, (1_000, 1_000))
    actual = palette.reduce([image], 128)[0].crop((1_000, 1_000, 1_300, 1_200))
    assert mean_difference(actual, part) < 1.05 * mean_difference(
        palette.reduce([part], 127)[0], part
    )
