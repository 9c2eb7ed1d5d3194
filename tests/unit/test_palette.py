"""Tests of palettes for large images: close to a median cut of the complete image, in less time."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops, ImageStat

from imgsvc.images import indexed, palette
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


def levels_of(kind: str) -> list[int]:
    """Return a table that keeps, darkens or brightens levels."""
    tables = {"plain": range(256), "dark": (v // 3 for v in range(256))}
    return [*tables.get(kind, (255 - v // 3 for v in range(255, -1, -1)))]


@pytest.mark.parametrize("kind", ["plain", "dark", "bright"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_map_to_nearest_is_closer_than_lookup_of_pillow(number: int, kind: str) -> None:
    image = photograph(number, 320, 240).convert("RGB").point(levels_of(kind) * 3)
    cut = image.resize((113, 113)).quantize(128, Image.Quantize.MEDIANCUT, kmeans=1)
    plain = image.quantize(palette=cut, dither=Image.Dither.NONE)
    errors = [
        sum(rms**2 for rms in ImageStat.Stat(ImageChops.difference(image, found)).rms)
        for found in (indexed.map_to_nearest(image, cut).convert("RGB"), plain.convert("RGB"))
    ]
    assert errors[0] < errors[1] * 0.97


@pytest.mark.parametrize("colours", [16, 128])
def test_reduce_hard_edged_image_keeps_its_black_and_its_transparent_pixels(colours: int) -> None:
    image = photograph(1, 160, 120).convert("RGBA")
    image.paste((0, 0, 0, 255), (40, 30, 80, 60))
    image.paste((0, 0, 0, 0), (80, 30, 120, 60))
    result = palette.reduce([image], colours)[0]
    pixels = result.convert("RGBA")
    assert len(indexed.entries(result)) <= colours
    assert pixels.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    assert max(pixels.crop((40, 30, 80, 60)).convert("L").tobytes()) <= 8
