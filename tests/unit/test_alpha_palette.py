"""Tests of palettes with alpha: soft edges, shadows, glows and glass look right on any background."""

from __future__ import annotations

from itertools import pairwise

import pytest
from PIL import Image, ImageChops, ImageStat

from imgsvc.images import indexed, palette
from tests.image_assertions import compress, encode_image, open_image
from tests.translucent_images import TRANSLUCENT_IMAGES, nearly_opaque, soft_edge, soft_shadow

SIZE = (320, 240)
BACKGROUNDS = ("white", "black")


def squared_error(
    image: Image.Image, reduced: Image.Image, background: str, mask: Image.Image | None = None
) -> float:
    """Return the mean squared difference of two images, drawn on a background."""
    drawn = []
    for part in (image, reduced.convert("RGBA")):
        canvas = Image.new("RGBA", part.size, background)
        canvas.alpha_composite(part)
        drawn.append(canvas.convert("RGB"))
    statistics = ImageStat.Stat(ImageChops.difference(*drawn), mask)
    squares: list[float] = [rms**2 for rms in statistics.rms]
    return sum(squares) / len(squares)


def reduced(image: Image.Image, colours: int = 128) -> Image.Image:
    return palette.reduce([image], colours)[0]


def alphas(image: Image.Image) -> list[int]:
    return [entry[3] for entry in indexed.entries(image)]


@pytest.mark.parametrize("kind", TRANSLUCENT_IMAGES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_reduce_translucent_image_is_clearly_closer_than_octree(kind: str, background: str) -> None:
    image = TRANSLUCENT_IMAGES[kind](1, SIZE)
    octree = image.quantize(128, Image.Quantize.FASTOCTREE)
    limit = squared_error(image, octree, background) * 0.75
    assert squared_error(image, reduced(image), background) < limit


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("number", [0, 1, 2, 6])
def test_reduce_soft_edge_is_closer_than_octree_along_the_edge(
    number: int, background: str
) -> None:
    image = soft_edge(number, SIZE)
    edge = image.getchannel("A").point([0] + [255] * 254 + [0])
    octree = image.quantize(128, Image.Quantize.FASTOCTREE)
    actual = squared_error(image, reduced(image), background, edge)
    assert actual < squared_error(image, octree, background, edge)


def test_reduce_soft_shadow_has_no_visible_steps() -> None:
    image = soft_shadow(1, SIZE)
    column = SIZE[0] // 2
    shadow = reduced(image).convert("RGBA").crop((column, 205, column + 1, SIZE[1])).getchannel("A")
    levels = list(shadow.tobytes())
    assert max(abs(a - b) for a, b in pairwise(levels)) <= 16
    assert len({alpha for alpha in alphas(reduced(image)) if 0 < alpha < 160}) >= 25


def test_reduce_nearly_opaque_image_uses_all_entries() -> None:
    image = nearly_opaque(1, SIZE)
    result = reduced(image)
    assert len(indexed.entries(result)) == 128
    assert set(alphas(result)) == {254}
    opaque = image.copy()
    opaque.putalpha(255)
    opaque_error = squared_error(opaque, reduced(opaque), "white")
    assert squared_error(image, result, "white") <= opaque_error


@pytest.mark.parametrize("colours", [2, 3, 8, 128])
def test_reduce_keeps_opaque_and_transparent_pixels(colours: int) -> None:
    image = soft_edge(1, SIZE)
    image.putalpha(image.getchannel("A").point([0] * 128 + [255] * 128))
    result = reduced(image, colours)
    assert len(indexed.entries(result)) <= colours
    assert result.convert("RGBA").getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_reduce_soft_edge_keeps_inside_opaque_and_outside_transparent() -> None:
    image = soft_edge(1, SIZE)
    result = reduced(image).convert("RGBA").getchannel("A").tobytes()
    pairs = set(zip(image.getchannel("A").tobytes(), result, strict=True))
    assert {actual for source, actual in pairs if source == 255} == {255}
    assert {actual for source, actual in pairs if source == 0} == {0}


def test_reduce_to_two_colours_returns_at_most_two_entries() -> None:
    assert len(indexed.entries(reduced(soft_edge(1, SIZE), 2))) <= 2


def test_compress_png_with_soft_shadow_takes_a_third_of_its_source() -> None:
    data = encode_image(soft_shadow(2, SIZE), "PNG")
    result = compress(data)
    assert result.info.output_bytes < 0.35 * len(data)
    assert open_image(result.data).size == SIZE
