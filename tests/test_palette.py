"""Large pictures in few colours: as near as Pillow's own cut of the whole comes, in less time."""

from __future__ import annotations

import pytest
from PIL import Image

from imgsvc.images import palette
from tests.image_assertions import apart
from tests.sample_images import photograph

LARGE = (2_400, 1_800)


def dark(number: int) -> Image.Image:
    return photograph(number, *LARGE).point([level * 35 // 100 for level in range(256)] * 3)


@pytest.mark.parametrize("number", [251, 253, 254, 255])
def test_large_dark_pictures_are_as_near_as_by_a_cut_of_the_whole(number: int) -> None:
    image = dark(number)
    whole = image.quantize(128, Image.Quantize.MEDIANCUT)
    assert apart(palette.reduce([image], 128)[0], image) < 1.1 * apart(whole, image)


def test_a_large_picture_of_few_colours_keeps_those_of_its_least_part() -> None:
    image = Image.new("RGB", LARGE, "white")
    part = photograph(4, 150, 150)
    image.paste(part, (1_000, 1_000))
    box = (1_000, 1_000, 1_150, 1_150)
    whole = image.quantize(128, Image.Quantize.MEDIANCUT).crop(box)
    assert apart(palette.reduce([image], 128)[0].crop(box), part) <= apart(whole, part)


def test_what_is_transparent_takes_no_share_of_the_sample() -> None:
    part = photograph(4, 300, 200).convert("RGBA")
    image = Image.new("RGBA", LARGE)
    image.paste(part, (1_000, 1_000))
    got = palette.reduce([image], 128)[0].crop((1_000, 1_000, 1_300, 1_200))
    assert apart(got, part) < 1.05 * apart(palette.reduce([part], 127)[0], part)
