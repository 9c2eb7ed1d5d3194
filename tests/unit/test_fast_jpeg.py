"""Tests that the fast path for ordinary JPEGs gives the same bytes as Pillow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from imgsvc.errors import ImageError
from imgsvc.image_types import CompressionSettings, OutputFormat, Quality
from imgsvc.images.codec import compress_image
from imgsvc.images.formats import fast_jpeg
from imgsvc.images.formats.base import DecodeLimits
from imgsvc.images.formats.jpeg import decode
from tests.image_assertions import encode_image, open_image
from tests.origin import ROOT
from tests.sample_images import photograph

MAX_PIXELS = 400_000
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = PROFILE[:16] + b"GRAY" + PROFILE[20:]
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
SIZES = [(1, 1), (7, 5), (17, 33), (48, 36), (130, 90), (300, 200)]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"subsampling": 1},
    {"optimize": True},
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 1, "progressive": True},
    {"quality": 30},
    {"keep_rgb": True},
    {"dpi": (300, 300), "comment": b"a comment"},
    {"icc_profile": PROFILE},
    {"icc_profile": PROFILE + bytes(200_000)},
    {"icc_profile": GREY_PROFILE},
]


def jpeg(size: tuple[int, int], **options: Any) -> bytes:
    return encode_image(photograph(1, *size), "JPEG", **{"quality": 90, **options})


FILES = [jpeg(size, **variant) for size in SIZES for variant in VARIANTS]


def uses_fast_path(data: bytes) -> bool:
    """Return whether the file is decoded on the fast path."""
    limits = DecodeLimits(MAX_PIXELS, animated=False, allow_pixel_array=True)
    return decode(data, limits).pixel_array is not None


@contextmanager
def without_imagecodecs() -> Iterator[None]:
    """Run the body as if imagecodecs were not installed."""
    fast_jpeg.AVAILABLE = False
    try:
        yield
    finally:
        fast_jpeg.AVAILABLE = True


def outcome(data: bytes, **options: Any) -> object:
    """Return the compressed image, or the code and message of the error."""
    try:
        return compress_image(data, CompressionSettings(**options), MAX_PIXELS)
    except ImageError as error:
        return error.code, error.message


@pytest.mark.parametrize("data", FILES)
@pytest.mark.parametrize("quality", [Quality(50, relative=True), Quality(1, relative=False)])
def test_compress_jpeg_gives_same_bytes_as_pillow(data: bytes, quality: Quality) -> None:
    assert uses_fast_path(data)
    result = compress_image(data, CompressionSettings(quality), MAX_PIXELS)
    with without_imagecodecs():
        assert not uses_fast_path(data)
        assert result == compress_image(data, CompressionSettings(quality), MAX_PIXELS)


@st.composite
def damaged(draw: Any) -> bytes:
    """Generate a JPEG with changed, inserted or removed bytes, or a truncated one with an EOI."""
    data: bytes = draw(st.sampled_from(FILES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 700)) | st.integers(0, len(data)))
        inserted = draw(
            st.binary(max_size=4)
            | st.sampled_from(
                [b"\xff" + bytes([n]) for n in (0xC0, 0xC4, 0xD0, 0xD9, 0xDA, 0xDB, 0xDD)]
            )
        )
        removed = draw(st.sampled_from([0, len(inserted), len(inserted), 1, 50]))
        data = data[:at] + inserted + data[at + removed :]
    return data if draw(st.booleans()) else data[: draw(st.integers(2, len(data)))] + b"\xff\xd9"


@given(damaged())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(FILES[0][:-2])
@example(FILES[0] + b"after the image")
@example(FILES[0].replace(b"\xff\xda", b"\xff\xd9\xff\xda"))
def test_compress_damaged_jpeg_gives_same_result_as_pillow(data: bytes) -> None:
    result = outcome(data)
    with without_imagecodecs():
        assert result == outcome(data)


@pytest.mark.parametrize(
    "data",
    [
        jpeg((48, 36), exif=ROTATED),
        encode_image(photograph(1, 48, 36).convert("L"), "JPEG"),
        encode_image(photograph(1, 48, 36).convert("CMYK"), "JPEG"),
        encode_image(Image.new("RGB", (48, 36), (128, 128, 128)), "JPEG"),
        FILES[0][:-2],
    ],
    ids=["rotated", "grey", "CMYK", "grey at its end", "truncated"],
)
def test_decode_uses_pillow_for_other_jpegs(data: bytes) -> None:
    try:
        assert not uses_fast_path(data)
    except OSError as error:
        assert "truncated" in str(error)  # noqa: PT017 - an error of Pillow, so Pillow decoded it


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"format": OutputFormat("webp")}, {"format": OutputFormat("png")}],
)
def test_compress_uses_pillow_for_progressive_and_other_formats(options: dict[str, Any]) -> None:
    data = jpeg((130, 90))
    result = outcome(data, **options)
    with without_imagecodecs():
        assert result == outcome(data, **options)


def test_compress_checks_pixel_limit_before_fast_path() -> None:
    with pytest.raises(ImageError) as error_info:
        compress_image(jpeg((300, 200)), CompressionSettings(), 59_999)
    assert error_info.value.code == "too_many_pixels"


def test_compress_keeps_profile_of_several_segments() -> None:
    profile = PROFILE + bytes(200_000)
    result = compress_image(
        jpeg((300, 200), icc_profile=profile), CompressionSettings(), MAX_PIXELS
    )
    assert open_image(result.data).info["icc_profile"] == profile


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_codec_uses_pillow_if_numpy_cannot_be_imported(tmp_path: Path, error: str) -> None:
    """On such errors: numpy raises RuntimeError on a processor that is too old for its wheels."""
    (tmp_path / "numpy.py").write_text(f"raise {error}('not here')")
    code = "from imgsvc.images import codec; codec.warm_up(); "
    code += "from imgsvc.images.formats import fast_jpeg; print(fast_jpeg.AVAILABLE)"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.strip() == "False", process.stderr
