"""Tests of shrinking: sizes, pixels, and what is decoded."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageOps

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressedImage, CompressionSettings, Effort, OutputFormat, Quality
from imgsvc.images.codec import compress_image
from imgsvc.images.formats import jpeg
from imgsvc.images.formats.base import DecodeLimits
from imgsvc.images.resize import Bounds
from tests.image_assertions import (
    encode_animation,
    encode_image,
    mean_difference,
    open_image,
    read_frames,
)
from tests.sample_images import photograph

MAX_PIXELS = 20_000_000
PHOTO = photograph(1)
LARGE_PHOTO = photograph(2, 1_600, 1_200)


def shrink(
    data: bytes,
    max_width: int = 0,
    max_height: int = 0,
    *,
    quality: str | int = "90%",
    output_format: str = "keep",
    effort: Effort = Effort.FAST,
) -> CompressedImage:
    settings = CompressionSettings(
        Quality.parse(quality),
        OutputFormat(output_format),
        max_width=max_width,
        max_height=max_height,
        effort=effort,
    )
    return compress_image(data, settings, MAX_PIXELS)


# --- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((400, 300), (0, 0), (400, 300)),
        ((400, 300), (400, 300), (400, 300)),
        ((400, 300), (5_000, 300), (400, 300)),
        ((400, 300), (200, 0), (200, 150)),
        ((400, 300), (0, 100), (133, 100)),
        ((400, 300), (200, 200), (200, 150)),
        ((300, 400), (200, 200), (150, 200)),
        ((400, 300), (401, 10), (13, 10)),
        ((3, 2), (1, 0), (1, 1)),
        ((5, 3), (0, 2), (3, 2)),  # 3.33
        ((4, 5), (0, 2), (2, 2)),  # 1.6
        ((5, 2), (0, 1), (3, 1)),  # 2.5 is rounded up
        ((1_000, 1), (10, 0), (10, 1)),
        ((1, 1_000), (0, 10), (1, 10)),
        ((60_000, 60_000), (1, 1), (1, 1)),
    ],
)
def test_fit_returns_largest_size_within_bounds(
    size: tuple[int, int], bounds: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert Bounds(*bounds).fit(size) == expected


SIDES = st.integers(1, 70_000)


@given(SIDES, SIDES, st.integers(0, 65_535), st.integers(0, 65_535))
def test_fit_keeps_aspect_ratio_and_never_enlarges(
    width: int, height: int, max_width: int, max_height: int
) -> None:
    found = Bounds(max_width, max_height).fit((width, height))
    scale = min(
        Fraction(1), Fraction(max_width or width, width), Fraction(max_height or height, height)
    )
    for side, full in zip(found, (width, height), strict=True):
        assert abs(side - full * scale) <= Fraction(1, 2) or side == 1 > full * scale
    assert found[0] <= min(width, max_width or width)
    assert found[1] <= min(height, max_height or height)


# --- pixels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["keep", "jpeg", "webp", "avif", "png"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"])
def test_compress_shrinks_every_format(file_format: str, output_format: str) -> None:
    options = {"quality": 95} if file_format in {"JPEG", "WEBP", "AVIF"} else {}
    result = shrink(encode_image(PHOTO, file_format, **options), 100, output_format=output_format)
    assert (result.info.width, result.info.height) == (100, 75)
    expected = PHOTO.resize((100, 75), Image.Resampling.LANCZOS)
    assert mean_difference(open_image(result.data), expected) < 6
    assert not result.info.kept


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_compress_changes_nothing_if_image_is_within_bounds(file_format: str) -> None:
    data = encode_image(PHOTO, file_format)
    assert shrink(data, *PHOTO.size).data == shrink(data).data
    assert shrink(data, 65_535, 65_535).data == shrink(data).data


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_compress_applies_bounds_to_upright_image(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode_image(LARGE_PHOTO, file_format, exif=exif, quality=95)
    upright = ImageOps.exif_transpose(open_image(data))
    size = (100, 75) if orientation < 5 else (100, 133)
    result = shrink(data, 100, quality=95)
    assert (result.info.width, result.info.height) == size
    expected = upright.resize(size, Image.Resampling.LANCZOS)
    assert mean_difference(open_image(result.data), expected) < 8


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_compress_shrinks_all_frames_alike(file_format: str) -> None:
    frames = [photograph(number, 120, 90) for number in range(4)]
    durations = [100, 40, 300, 70]
    data = encode_animation(frames, file_format, duration=durations, loop=0)
    found = read_frames(shrink(data, 0, 30).data)
    assert [duration for _, duration in found] == durations
    for (image, _), (frame, _) in zip(found, read_frames(data), strict=True):
        assert image.size == (40, 30)
        assert mean_difference(image, frame.resize((40, 30), Image.Resampling.LANCZOS)) < 8


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP"])
def test_compress_shrinking_hides_colours_of_transparent_pixels(file_format: str) -> None:
    image = Image.new("RGBA", (200, 200), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (50, 50, 149, 149))
    data = encode_image(image, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    shrunk = open_image(shrink(data, 20, quality=100, output_format="png").data).convert("RGBA")
    visible = [pixel for _, pixel in shrunk.getcolors() or () if pixel[3] > 8]  # type: ignore[index]
    assert visible
    assert all(pixel[1] < 30 for pixel in visible)  # type: ignore[index]


def test_compress_shrinks_bilevel_source_to_grey_png() -> None:
    page = PHOTO.convert("1")
    result = shrink(encode_image(page, "TIFF", compression="group4"), 80)
    assert result.info.output_format == "png"
    expected = page.convert("L").resize((80, 60), Image.Resampling.LANCZOS)
    assert mean_difference(open_image(result.data), expected) < 2


def test_compress_never_keeps_source_that_must_be_shrunk() -> None:
    data = encode_image(photograph(4, 64, 64), "JPEG", quality=10)
    assert shrink(data, quality=100).info.kept
    result = shrink(data, 60, quality=100)
    assert not result.info.kept
    assert len(result.data) > len(data)
    assert open_image(result.data).size == (60, 60)


@pytest.mark.parametrize(("output_format", "expected"), [("webp", "webp"), ("keep", "jpeg")])
def test_compress_checks_size_limits_of_format_after_shrinking(
    output_format: str, expected: str
) -> None:
    data = encode_image(PHOTO.resize((70_000, 4)), "BMP")
    result = shrink(data, 16_383, output_format=output_format)
    assert result.info.output_format == expected
    assert open_image(result.data).size == (16_383, 1)


# --- decoding of JPEGs at a fraction of their size ---------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_shrunk_jpeg_does_not_show_that_it_was_decoded_at_half_size(
    mode: str, options: dict[str, int]
) -> None:
    data = encode_image(LARGE_PHOTO.convert(mode), "JPEG", quality=95, **options)
    result = open_image(shrink(data, 251, quality=100, output_format="png").data)
    expected = open_image(data).convert("RGB").resize((251, 188), Image.Resampling.LANCZOS)
    with_palette = open_image(
        shrink(encode_image(expected, "PNG"), quality=100, output_format="png").data
    )
    assert mean_difference(result, expected) < mean_difference(with_palette, expected) + 0.5


@pytest.mark.parametrize(
    ("max_width", "decoded"),
    [(0, 1_600), (1_000, 1_600), (267, 1_600), (266, 800), (133, 400), (50, 200), (1, 200)],
)
def test_decode_jpeg_leaves_at_least_three_times_the_final_size(
    max_width: int, decoded: int
) -> None:
    data = encode_image(LARGE_PHOTO, "JPEG", quality=90)
    limits = DecodeLimits(MAX_PIXELS, animated=False, bounds=Bounds(max_width))
    image = jpeg.decode(data, limits)
    assert image.first_image.width == decoded
    assert image.full_size == LARGE_PHOTO.size
    assert image.quality == 90


@pytest.mark.parametrize("size", [(1_590, 1_191), (1_601, 1_199)])
def test_shrunk_jpeg_has_aspect_ratio_of_source(size: tuple[int, int]) -> None:
    data = encode_image(LARGE_PHOTO.resize(size), "JPEG", quality=90)
    info = shrink(data, 0, 100).info
    assert (info.width, info.height) == Bounds(0, 100).fit(size)


def is_complete(data: bytes, max_width: int) -> bool:
    try:
        shrink(data, max_width)
    except ImageError as error:
        if error.code is not ImageErrorCode.CORRUPT_IMAGE:
            raise
        return False
    return True


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_compress_detects_truncated_jpeg_that_must_be_shrunk(end: bytes, progressive: bool) -> None:
    data = encode_image(LARGE_PHOTO, "JPEG", quality=90, progressive=progressive)
    for share in (0.05, 0.3, 0.6, 0.97):
        cut = data[: int(len(data) * share)] + end
        # A progressive file that ends within its last scan is accepted, with less detail.
        accepted = bool(progressive and end and share > 0.9)
        assert is_complete(cut, 100) is is_complete(cut, 0) is accepted


@pytest.mark.parametrize("level", [127, 128])
def test_compress_shrinks_complete_jpeg_that_ends_in_grey(level: int) -> None:
    image = LARGE_PHOTO.copy()
    image.paste((level, level, level), (0, 600, *image.size))
    result = shrink(encode_image(image, "JPEG", quality=90), 101)
    expected = image.resize((101, 76), Image.Resampling.LANCZOS)
    assert mean_difference(open_image(result.data), expected) < 6


def test_compress_counts_pixels_before_shrinking() -> None:
    with pytest.raises(ImageError) as error_info:
        compress_image(
            encode_image(PHOTO, "JPEG"),
            CompressionSettings(max_width=10),
            PHOTO.width * PHOTO.height - 1,
        )
    assert error_info.value.code is ImageErrorCode.TOO_MANY_PIXELS


# --- effort ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["webp", "avif", "png"])
def test_effort_small_returns_fewer_bytes_at_the_same_quality(output_format: str) -> None:
    photo = photograph(2, 720, 540)
    data = encode_image(photo, "PNG")
    fast, small = (
        shrink(data, quality=50, output_format=output_format, effort=effort) for effort in Effort
    )
    assert len(small.data) < len(fast.data)
    assert small.info.quality == fast.info.quality == 50
    differences = [mean_difference(open_image(each.data), photo) for each in (fast, small)]
    assert differences[1] < 1.05 * differences[0]


def test_effort_small_returns_png_with_the_same_pixels() -> None:
    data = encode_image(PHOTO, "PNG")
    fast, small = (open_image(shrink(data, effort=effort).data) for effort in Effort)
    assert ImageChops.difference(fast.convert("RGB"), small.convert("RGB")).getbbox() is None


# --- the text of settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("50% keep", CompressionSettings()),
        (
            "70 webp progressive",
            CompressionSettings(
                Quality(70, relative=False), OutputFormat("webp"), progressive=True
            ),
        ),
        ("50% keep max_width=800", CompressionSettings(max_width=800)),
        (
            "50% keep progressive max_width=1 max_height=65535 effort=small",
            CompressionSettings(
                progressive=True, max_width=1, max_height=65_535, effort=Effort.SMALL
            ),
        ),
    ],
)
def test_settings_have_a_text_that_version_1_0_shares(
    text: str, settings: CompressionSettings
) -> None:
    assert str(settings) == text
    assert CompressionSettings.parse(text) == settings
