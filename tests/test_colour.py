"""Profiles that fit their pictures, and CMYK in true colours."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from imgsvc.images import colour, icc
from tests.image_assertions import apart, compressed, opened, saved
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
    """A grey profile, made from the parts of an RGB one."""
    rgb = icc.from_gamma(round(100_000 / exponent), WIDE)
    assert rgb is not None
    tags = {rgb[at : at + 4]: rgb[at + 4 : at + 12] for at in range(132, 132 + 9 * 12, 12)}
    table, data = b"", b""
    kept = [(tag, tag) for tag in (b"desc", b"cprt", b"wtpt")] + [(b"kTRC", b"rTRC")]
    for name, tag in kept:
        start, size = (int.from_bytes(tags[tag][at : at + 4], "big") for at in (0, 4))
        place = 132 + 12 * len(kept) + len(data)
        table += name + place.to_bytes(4, "big") + size.to_bytes(4, "big")
        data += rgb[start : start + size]
    whole = 132 + len(table) + len(data)
    head = whole.to_bytes(4, "big") + rgb[4:16] + b"GRAY" + rgb[20:128]
    return head + len(kept).to_bytes(4, "big") + table + data


def as_seen(image: Image.Image) -> Image.Image:
    """The picture as a colour-managed viewer shows it on an sRGB screen."""
    icc = image.info.get("icc_profile")
    if not icc:
        return image.convert("RGB")
    space = icc[16:20].decode().strip()
    assert {"RGB": image.mode in {"RGB", "RGBA", "P"}, "GRAY": image.mode == "L"}[space]
    plain = image.convert("RGB") if space == "RGB" else image
    seen = ImageCms.profileToProfile(
        plain, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )  # fmt: skip
    assert seen is not None
    return seen


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("profile", [SRGB, P3])
def test_profiles_are_kept(form: str, target: str, profile: bytes) -> None:
    options: dict[str, Any] = {} if form in {"PNG", "TIFF"} else {"quality": 98}
    data = saved(PHOTO, form, icc_profile=profile, **options)
    got = opened(compressed(data, 90, target).data)
    assert got.info["icc_profile"] == profile
    assert apart(as_seen(got), as_seen(opened(data))) < 8


@pytest.mark.parametrize("target", TARGETS)
def test_the_profile_of_a_bmp_is_kept(target: str) -> None:
    assert P3 is not None
    pixels = saved(PHOTO, "BMP")[54:]
    numbers = (124, *PHOTO.size, 1 | 24 << 16, 0, len(pixels))
    head = struct.pack("<6I32x4s52x2I4x", *numbers, b"DEBM", 124 + len(pixels), len(P3))
    size = 14 + len(head) + len(pixels) + len(P3)
    data = struct.pack("<2sI4xI", b"BM", size, 14 + len(head)) + head + pixels + P3
    assert len(head) == 124
    got = opened(compressed(data, 90, target).data)
    assert got.info["icc_profile"] == P3
    assert apart(got, PHOTO) < 8


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_grey_profiles_stay_with_grey_pictures(form: str, target: str) -> None:
    image = PHOTO.convert("L")
    options: dict[str, Any] = {"quality": 98} if form == "JPEG" else {}
    data = saved(image, form, icc_profile=grey_profile(), **options)
    assert apart(as_seen(opened(data)), image) > 3
    got = opened(compressed(data, 90, target).data)
    assert apart(as_seen(got), as_seen(opened(data))) < 8
    if got.format == "JPEG":
        assert got.mode == "L"
        assert got.info["icc_profile"] == grey_profile()


def test_grey_with_alpha_and_a_profile() -> None:
    image = PHOTO.convert("L")
    wanted = as_seen(opened(saved(image, "PNG", icc_profile=grey_profile())))
    image.putalpha(200)
    for target in ("keep", "webp", "avif"):
        data = saved(image, "PNG", icc_profile=grey_profile())
        result = compressed(data, 30, target)
        got = opened(result.data)
        assert not result.info.kept
        assert "icc_profile" not in got.info
        assert apart(got.convert("RGBA").convert("RGB"), wanted) < 8
        assert got.convert("RGBA").getpixel((5, 5))[3] == 200  # type: ignore[index]


@pytest.mark.parametrize("target", TARGETS)
def test_a_profile_of_another_space_does_no_harm(target: str) -> None:
    grey, rgb = PHOTO.convert("L"), PHOTO
    for image, profile in ((grey, SRGB), (rgb, grey_profile()), (rgb, b"junk" * 50), (grey, b"x")):
        data = saved(image, "JPEG", quality=98, icc_profile=profile)
        result = compressed(data, 90, target)
        if not result.info.kept:
            assert apart(as_seen(opened(result.data)), image) < 8


def test_a_grey_picture_with_a_wide_rgb_profile_keeps_its_greys() -> None:
    linear = icc.from_gamma(100_000, None)
    assert linear is not None
    grey = PHOTO.convert("L")
    on_committed, profile = colour.settle(grey, linear)
    assert profile is None
    assert on_committed.mode == "L"
    seen = colour.to_srgb(grey.convert("RGB"), linear)
    assert seen is not None
    assert apart(on_committed, seen) < 1


# --- code points -------------------------------------------------------------------------------


def coded(form: str, primaries: int, transfer: int) -> bytes:
    """The photograph in a file that names its colours by code points alone."""
    if form == "PNG":
        info = PngInfo()
        info.add(b"cICP", bytes([primaries, transfer, 0, 1]))
        return saved(PHOTO, "PNG", pnginfo=info)
    data = saved(PHOTO, "AVIF", quality=100, subsampling="4:4:4")
    place = data.index(b"colrnclx") + 8
    return data[:place] + struct.pack(">2H", primaries, transfer) + data[place + 4 :]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["PNG", "AVIF"])
def test_wide_colours_without_a_profile_stay_wide(form: str, target: str) -> None:
    data = coded(form, 12, 13)
    result = compressed(data, 30 if target == "png" else 90, target)
    assert not result.info.kept
    got = opened(result.data)
    assert apart(as_seen(got), as_seen(opened(saved(PHOTO, "PNG", icc_profile=display_p3())))) < 8
    assert apart(as_seen(got), PHOTO) > apart(got, PHOTO)


def display_p3() -> bytes:
    profile = icc.from_code_points(12, 13)
    assert profile is not None
    return profile


def test_code_points_have_srgb_s_curve() -> None:
    greys = Image.linear_gradient("L").convert("RGB")
    seen = colour.to_srgb(greys, display_p3())
    assert seen is not None
    assert apart(seen, greys) < 1
    red = colour.to_srgb(Image.new("RGB", (1, 1), (200, 30, 20)), display_p3())
    assert red is not None
    assert red.getpixel((0, 0)) == (218, 0, 0)


@pytest.mark.parametrize("points", [(1, 13), (2, 2), (12, 16), (9, 18), (99, 13)])
@pytest.mark.parametrize("form", ["PNG", "AVIF"])
def test_other_code_points_make_no_profile(form: str, points: tuple[int, int]) -> None:
    assert "icc_profile" not in opened(compressed(coded(form, *points), form="jpeg").data).info


# --- CMYK --------------------------------------------------------------------------------------


def cmyk_jpegs() -> dict[str, bytes]:
    """Pillow writes CMYK inverted, with an Adobe marker; YCCK differs in that marker's transform."""
    cmyk = PHOTO.convert("CMYK")
    return {"cmyk": saved(cmyk, "JPEG", quality=97)}


@pytest.mark.parametrize("target", TARGETS)
def test_cmyk_comes_out_in_true_colours(target: str) -> None:
    for data in cmyk_jpegs().values():
        got = opened(compressed(data, 90, target).data)
        if got.format == "JPEG":
            assert got.mode == "RGB"
        assert apart(got, PHOTO) < 10


@pytest.mark.parametrize("target", TARGETS)
def test_cmyk_tiffs(target: str) -> None:
    got = opened(compressed(saved(PHOTO.convert("CMYK"), "TIFF"), 90, target).data)
    assert apart(got, PHOTO) < 10


def test_cmyk_goes_through_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile is asked, and where it is broken the plain conversion serves."""
    image = PHOTO.convert("CMYK")
    broken = bytearray(SRGB)
    broken[16:20] = b"CMYK"
    on_committed, profile = colour.settle(image, bytes(broken))
    assert profile is None
    assert on_committed.mode == "RGB"
    assert apart(on_committed, PHOTO) < 10
    asked = []

    def converted(source: Image.Image, icc: bytes) -> Image.Image:
        asked.append((source.mode, icc))
        return Image.new("RGB", source.size, "red")

    monkeypatch.setattr(colour, "to_srgb", converted)
    assert colour.settle(image, bytes(broken))[0].getpixel((0, 0)) == (255, 0, 0)
    assert asked == [("CMYK", bytes(broken))]


def test_lab_and_ycbcr_tiffs() -> None:
    lab = ImageCms.profileToProfile(
        PHOTO, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    for image in (lab, PHOTO.convert("YCbCr")):
        got = opened(compressed(saved(image, "TIFF"), 95).data)
        assert apart(got, PHOTO) < 8


# --- gamma and primaries of PNG ----------------------------------------------------------------


def png_with(gamma: int | None = None, primaries: tuple[int, ...] | None = None) -> bytes:
    info = PngInfo()
    if gamma is not None:
        info.add(b"gAMA", gamma.to_bytes(4, "big"))
    if primaries is not None:
        info.add(b"cHRM", b"".join(value.to_bytes(4, "big") for value in primaries))
    return saved(PHOTO, "PNG", pnginfo=info)


@pytest.mark.parametrize("target", TARGETS)
def test_a_png_s_gamma_is_seen_in_every_output(target: str) -> None:
    got = opened(compressed(png_with(100_000), 90, target).data)
    linear = PHOTO.point([round(255 * level(v / 255)) for v in range(256)] * 3)
    assert apart(PHOTO, linear) > 20
    assert apart(as_seen(got), linear) < 8


def level(light: float) -> float:
    """sRGB's curve (IEC 61966-2-1)."""
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def test_primaries_make_a_profile_and_the_usual_ones_none() -> None:
    assert "icc_profile" in opened(compressed(png_with(45_455, WIDE), form="jpeg").data).info
    for data in (png_with(45_455), png_with(), png_with(None, WIDE), png_with(1)):
        assert "icc_profile" not in opened(compressed(data, form="jpeg").data).info


def test_senseless_primaries_are_ignored() -> None:
    assert icc.from_gamma(45_455, (0,) * 8) is None
    assert icc.from_gamma(45_455, (1,) * 8) is None
    assert icc.from_gamma(0, None) is None
    assert icc.from_gamma(4_000_000_000, WIDE) is None


def test_white_stays_white_under_a_made_profile() -> None:
    assert P3 is not None
    white = colour.to_srgb(Image.new("RGB", (1, 1), "white"), P3)
    assert white is not None
    assert white.getpixel((0, 0)) == (255, 255, 255)
