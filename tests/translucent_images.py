"""Images with translucent pixels, as shops have them: soft edges, shadows, glows and glass."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tests.sample_images import photograph

_SCALE = 4
"""Shapes are drawn at four times their size and reduced, so that their edges are smooth."""


def _ellipse(size: tuple[int, int], inset: float) -> Image.Image:
    """Return a mask of an ellipse. `inset` is its distance from the edges, as a share of the size."""
    width, height = (_SCALE * side for side in size)
    mask = Image.new("L", (width, height))
    box = (width * inset, height * inset, width * (1 - inset), height * (1 - inset))
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _clean_photograph(number: int, size: tuple[int, int]) -> Image.Image:
    image = photograph(number, *size)
    image.info = {}
    return image


def soft_edge(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a photograph, cut out along an ellipse with a smooth edge."""
    image = _clean_photograph(number, size)
    image.putalpha(_ellipse(size, 0.1))
    return image


def soft_shadow(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a cut-out photograph with a wide black shadow below it."""
    mask = _ellipse(size, 0.2)
    shadow = mask.filter(ImageFilter.GaussianBlur(size[0] / 20)).point(
        [v * 6 // 10 for v in range(256)]
    )
    image = Image.new("RGBA", size)
    image.putalpha(ImageChops.offset(shadow, size[0] // 25, size[1] // 12))
    cut_out = _clean_photograph(number, size)
    cut_out.putalpha(mask)
    image.alpha_composite(cut_out)
    return image


def glow(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a wide glow, from one hue to a neighbouring one, around an opaque disc."""
    ramp = Image.linear_gradient("L").rotate(90 * (number % 4)).resize(size)
    hues = ramp.point([(number * 37 + level // 6) % 256 for level in range(256)])
    saturation = Image.new("L", size, 160 + number % 90)
    image = Image.merge("HSV", (hues, saturation, Image.new("L", size, 240))).convert("RGB")
    halo = _ellipse(size, 0.25).filter(ImageFilter.GaussianBlur(size[0] / 12))
    image.putalpha(ImageChops.lighter(halo, _ellipse(size, 0.36)))
    return image


def glass(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a photograph that is translucent everywhere, between a quarter and three quarters."""
    image = _clean_photograph(number, size)
    ramp = Image.linear_gradient("L").resize(size).point([64 + v // 2 for v in range(256)])
    image.putalpha(ramp)
    return image


def nearly_opaque(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a photograph with the alpha 254 everywhere."""
    image = _clean_photograph(number, size)
    image.putalpha(254)
    return image


TRANSLUCENT_IMAGES: dict[str, Callable[[int, tuple[int, int]], Image.Image]] = {
    "soft edge": soft_edge,
    "soft shadow": soft_shadow,
    "glow": glow,
    "glass": glass,
    "nearly opaque": nearly_opaque,
}
