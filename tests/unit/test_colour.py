"""Tests of colour profiles and of CMYK conversion."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from imgsvc.images import colour, icc
from tests.image_assertions import compress, encode_image, mean_difference, open_image
from tests.sample_images import photograph

PHOTO = photograph(11, 160, 120)
PHOTO.info = {}
TARGETS = ["keep", "jpeg", "webp", "avif", "png"]
WIDE = (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
"""White and primaries of Display P3."""


def as_bytes(profile: Any) -> bytes:
    return ImageCms.ImageCmsProfile(profile).tobytes()


SRGB = as_bytes(ImageCms.createProfile("sRGB"))
P3 = icc.from_gamma(45_455, WIDE)
assert P3 is not None


def grey_profile(exponent: float = 1.8) -> bytes:
    """Return a grey profile, built from the parts of an RGB profile."""
    rgb = icc.from_gamma(round(100_000 / exponent), WIDE)
    assert rgb is not None
    tags = {rgb[at : at + 4]: rgb[at + 4 : at + 12] for at in range(132, 132 + 9 * 12, 12)}
    table, data = b"", b""
    kept = [(tag, tag) for tag in (b"desc", b"cprt", b"wtpt")] + [(b"kTRC", b"rTRC")]
    for name, tag in kept:
        start, size = (int.from_bytes(tags[tag][at : at + 4], "big") for at in (0, 4))
        offset = 132 + 12 * len(kept) + len(data)
        table += name + offset.to_bytes(4, "big") + size.to_bytes(4, "big")
        data += rgb[start : start + size]
    profile_size = 132 + len(table) + len(data)
    head = profile_size.to_bytes(4, "big") + rgb[4:16] + b"GRAY" + rgb[20:128]
    return head + len(kept).to_bytes(4, "big") + table + data


def as_viewed(image: Image.Image) -> Image.Image:
    """Return the image as a colour-managed viewer shows it on an sRGB screen."""
    icc = image.info.get("icc_profile")
    if not icc:
        return image.convert("RGB")
    space = icc[16:20].decode().strip()
    assert {"RGB": image.mode in {"RGB", "RGBA", "P"}, "GRAY": image.mode == "L"}[space]
    plain = image.convert("RGB") if space == "RGB" else image
    viewed = ImageCms.profileToProfile(
        plain, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )  # fmt: skip
    assert viewed is not None
    return viewed


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("profile", [SRGB, P3])
def test_compress_keeps_rgb_profile(file_format: str, target: str, profile: bytes) -> None:
    options: dict[str, Any] = {} if file_format in {"PNG", "TIFF"} else {"quality": 98}
    data = encode_image(PHOTO, file_format, icc_profile=profile, **options)
    actual = open_image(compress(data, 90, target).data)
    assert actual.info["icc_profile"] == profile
    assert mean_difference(as_viewed(actual), as_viewed(open_image(data))) < 8


@pytest.mark.parametrize("target", TARGETS)
def test_compress_keeps_profile_of_bmp(target: str) -> None:
    assert P3 is not None
    pixels = encode_image(PHOTO, "BMP")[54:]
    numbers = (124, *PHOTO.size, 1 | 24 << 16, 0, len(pixels))
    head = struct.pack("<6I32x4s52x2I4x", *numbers, b"DEBM", 124 + len(pixels), len(P3))
    size = 14 + len(head) + len(pixels) + len(P3)
    data = struct.pack("<2sI4xI", b"BM", size, 14 + len(head)) + head + pixels + P3
    assert len(head) == 124
    actual = open_image(compress(data, 90, target).data)
    assert actual.info["icc_profile"] == P3
    assert mean_difference(actual, PHOTO) < 8


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_compress_preserves_colours_of_grey_image_with_profile(
    file_format: str, target: str
) -> None:
    image = PHOTO.convert("L")
    options: dict[str, Any] = {"quality": 98} if file_format == "JPEG" else {}
    data = encode_image(image, file_format, icc_profile=grey_profile(), **options)
    assert mean_difference(as_viewed(open_image(data)), image) > 3
    actual = open_image(compress(data, 90, target).data)
    assert mean_difference(as_viewed(actual), as_viewed(open_image(data))) < 8
    if actual.format == "JPEG":
        assert actual.mode == "L"
        assert actual.info["icc_profile"] == grey_profile()


def test_compress_converts_grey_with_alpha_and_profile_to_srgb() -> None:
    image = PHOTO.convert("L")
    expected = as_viewed(open_image(encode_image(image, "PNG", icc_profile=grey_profile())))
    image.putalpha(200)
    for target in ("keep", "webp", "avif"):
        data = encode_image(image, "PNG", icc_profile=grey_profile())
        result = compress(data, 30, target)
        actual = open_image(result.data)
        assert not result.info.kept
        assert "icc_profile" not in actual.info
        assert mean_difference(actual.convert("RGBA").convert("RGB"), expected) < 8
        assert actual.convert("RGBA").getpixel((5, 5))[3] == 200  # type: ignore[index]


@pytest.mark.parametrize("target", TARGETS)
def test_compress_drops_profile_of_other_colour_space(target: str) -> None:
    grey, rgb = PHOTO.convert("L"), PHOTO
    for image, profile in ((grey, SRGB), (rgb, grey_profile()), (rgb, b"junk" * 50), (grey, b"x")):
        data = encode_image(image, "JPEG", quality=98, icc_profile=profile)
        result = compress(data, 90, target)
        if not result.info.kept:
            assert mean_difference(as_viewed(open_image(result.data)), image) < 8


def test_normalise_converts_grey_with_rgb_profile() -> None:
    linear = icc.from_gamma(100_000, None)
    assert linear is not None
    grey = PHOTO.convert("L")
    converted, profile = colour.normalise(grey, linear)
    assert profile is None
    assert converted.mode == "L"
    viewed = colour.to_srgb(grey.convert("RGB"), linear)
    assert viewed is not None
    assert mean_difference(converted, viewed) < 1


# --- code points -------------------------------------------------------------------------------


def file_with_code_points(file_format: str, primaries: int, transfer: int) -> bytes:
    """Return the photograph in a file that describes its colours only by code points."""
    if file_format == "PNG":
        info = PngInfo()
        info.add(b"cICP", bytes([primaries, transfer, 0, 1]))
        return encode_image(PHOTO, "PNG", pnginfo=info)
    data = encode_image(PHOTO, "AVIF", quality=100, subsampling="4:4:4")
    start = data.index(b"colrnclx") + 8
    return data[:start] + struct.pack(">2H", primaries, transfer) + data[start + 4 :]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file_format", ["PNG", "AVIF"])
def test_compress_converts_wide_gamut_code_points_to_profile(file_format: str, target: str) -> None:
    data = file_with_code_points(file_format, 12, 13)
    result = compress(data, 30 if target == "png" else 90, target)
    assert not result.info.kept
    actual = open_image(result.data)
    assert (
        mean_difference(
            as_viewed(actual),
            as_viewed(open_image(encode_image(PHOTO, "PNG", icc_profile=display_p3()))),
        )
        < 8
    )
    assert mean_difference(as_viewed(actual), PHOTO) > mean_difference(actual, PHOTO)


def display_p3() -> bytes:
    profile = icc.from_code_points(12, 13)
    assert profile is not None
    return profile


def test_from_code_points_uses_srgb_curve() -> None:
    greys = Image.linear_gradient("L").convert("RGB")
    viewed = colour.to_srgb(greys, display_p3())
    assert viewed is not None
    assert mean_difference(viewed, greys) < 1
    red = colour.to_srgb(Image.new("RGB", (1, 1), (200, 30, 20)), display_p3())
    assert red is not None
    assert red.getpixel((0, 0)) == (218, 0, 0)


@pytest.mark.parametrize("points", [(1, 13), (2, 2), (12, 16), (9, 18), (99, 13)])
@pytest.mark.parametrize("file_format", ["PNG", "AVIF"])
def test_compress_adds_no_profile_for_srgb_or_unsupported_code_points(
    file_format: str, points: tuple[int, int]
) -> None:
    assert (
        "icc_profile"
        not in open_image(
            compress(file_with_code_points(file_format, *points), output_format="jpeg").data
        ).info
    )


# --- CMYK --------------------------------------------------------------------------------------


def cmyk_jpegs() -> dict[str, bytes]:
    """Return CMYK JPEGs. Pillow writes them inverted, with an Adobe marker.

    YCCK differs in the transform of that marker.
    """
    cmyk = PHOTO.convert("CMYK")
    return {"cmyk": encode_image(cmyk, "JPEG", quality=97)}


@pytest.mark.parametrize("target", TARGETS)
def test_compress_converts_cmyk_jpeg_to_rgb(target: str) -> None:
    for data in cmyk_jpegs().values():
        actual = open_image(compress(data, 90, target).data)
        if actual.format == "JPEG":
            assert actual.mode == "RGB"
        assert mean_difference(actual, PHOTO) < 10


@pytest.mark.parametrize("target", TARGETS)
def test_compress_converts_cmyk_tiff(target: str) -> None:
    actual = open_image(compress(encode_image(PHOTO.convert("CMYK"), "TIFF"), 90, target).data)
    assert mean_difference(actual, PHOTO) < 10


def test_normalise_converts_cmyk_with_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the profile cannot be used, the image is converted without it."""
    image = PHOTO.convert("CMYK")
    broken = bytearray(SRGB)
    broken[16:20] = b"CMYK"
    converted, profile = colour.normalise(image, bytes(broken))
    assert profile is None
    assert converted.mode == "RGB"
    assert mean_difference(converted, PHOTO) < 10
    conversions = []

    def fake_to_srgb(source: Image.Image, icc: bytes) -> Image.Image:
        conversions.append((source.mode, icc))
        return Image.new("RGB", source.size, "red")

    monkeypatch.setattr(colour, "to_srgb", fake_to_srgb)
    assert colour.normalise(image, bytes(broken))[0].getpixel((0, 0)) == (255, 0, 0)
    assert conversions == [("CMYK", bytes(broken))]


def test_compress_converts_lab_and_ycbcr_tiffs() -> None:
    lab = ImageCms.profileToProfile(
        PHOTO, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    for image in (lab, PHOTO.convert("YCbCr")):
        actual = open_image(compress(encode_image(image, "TIFF"), 95).data)
        assert mean_difference(actual, PHOTO) < 8


# --- gamma and primaries of PNG ----------------------------------------------------------------


def png_with_gamma(gamma: int | None = None, primaries: tuple[int, ...] | None = None) -> bytes:
    info = PngInfo()
    if gamma is not None:
        info.add(b"gAMA", gamma.to_bytes(4, "big"))
    if primaries is not None:
        info.add(b"cHRM", b"".join(value.to_bytes(4, "big") for value in primaries))
    return encode_image(PHOTO, "PNG", pnginfo=info)


@pytest.mark.parametrize("target", TARGETS)
def test_compress_preserves_png_gamma_in_every_format(target: str) -> None:
    actual = open_image(compress(png_with_gamma(100_000), 90, target).data)
    linear = PHOTO.point([round(255 * srgb_level(v / 255)) for v in range(256)] * 3)
    assert mean_difference(PHOTO, linear) > 20
    assert mean_difference(as_viewed(actual), linear) < 8


def srgb_level(light: float) -> float:
    """Return the sRGB level of a linear light level, both 0 to 1 (IEC 61966-2-1)."""
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def test_compress_converts_png_primaries_to_profile_unless_srgb() -> None:
    assert (
        "icc_profile"
        in open_image(compress(png_with_gamma(45_455, WIDE), output_format="jpeg").data).info
    )
    for data in (
        png_with_gamma(45_455),
        png_with_gamma(),
        png_with_gamma(None, WIDE),
        png_with_gamma(1),
    ):
        assert "icc_profile" not in open_image(compress(data, output_format="jpeg").data).info


def test_from_gamma_ignores_invalid_values() -> None:
    assert icc.from_gamma(45_455, (0,) * 8) is None
    assert icc.from_gamma(45_455, (1,) * 8) is None
    assert icc.from_gamma(0, None) is None
    assert icc.from_gamma(4_000_000_000, WIDE) is None


def test_from_gamma_profile_keeps_white() -> None:
    assert P3 is not None
    white = colour.to_srgb(Image.new("RGB", (1, 1), "white"), P3)
    assert white is not None
    assert white.getpixel((0, 0)) == (255, 255, 255)
