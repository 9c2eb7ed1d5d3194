"""Plain JPEGs take a shorter way, and what comes out is what Pillow makes of them, byte for byte."""

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
from imgsvc.images import fast_jpeg
from imgsvc.images.codec import compress_image
from imgsvc.images.decode import Limits, decode
from imgsvc.images.sniff import Kind
from tests.image_assertions import opened, saved
from tests.origin import ROOT
from tests.sample_images import photograph

MAX_PIXELS = 400_000
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = PROFILE[:16] + b"GRAY" + PROFILE[20:]
TURNED = Image.Exif()
TURNED[0x0112] = 6
SIZES = [(1, 1), (7, 5), (17, 33), (48, 36), (130, 90), (300, 200)]
KINDS: list[dict[str, Any]] = [
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
    return saved(photograph(1, *size), "JPEG", **{"quality": 90, **options})


FILES = [jpeg(size, **kind) for size in SIZES for kind in KINDS]


def as_rows(data: bytes) -> bool:
    limits = Limits(MAX_PIXELS, animated=False, rows=True)
    return decode(data, Kind.JPEG, limits).rows is not None


@contextmanager
def without_imagecodecs() -> Iterator[None]:
    """As where there is no imagecodecs."""
    fast_jpeg.AVAILABLE = False
    try:
        yield
    finally:
        fast_jpeg.AVAILABLE = True


def outcome(data: bytes, **asked: Any) -> object:
    try:
        return compress_image(data, CompressionSettings(**asked), MAX_PIXELS)
    except ImageError as error:
        return error.code, error.message


@pytest.mark.parametrize("data", FILES)
@pytest.mark.parametrize("quality", [Quality(50, relative=True), Quality(1, relative=False)])
def test_the_same_bytes_as_by_way_of_pillow(data: bytes, quality: Quality) -> None:
    assert as_rows(data)
    result = compress_image(data, CompressionSettings(quality), MAX_PIXELS)
    with without_imagecodecs():
        assert not as_rows(data)
        assert result == compress_image(data, CompressionSettings(quality), MAX_PIXELS)


@st.composite
def damaged(draw: Any) -> bytes:
    """A JPEG with bytes changed, put in, or taken out, with a marker in it, or cut and closed again."""
    data: bytes = draw(st.sampled_from(FILES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 700)) | st.integers(0, len(data)))
        put = draw(
            st.binary(max_size=4)
            | st.sampled_from(
                [b"\xff" + bytes([n]) for n in (0xC0, 0xC4, 0xD0, 0xD9, 0xDA, 0xDB, 0xDD)]
            )
        )
        cut = draw(st.sampled_from([0, len(put), len(put), 1, 50]))
        data = data[:at] + put + data[at + cut :]
    return data if draw(st.booleans()) else data[: draw(st.integers(2, len(data)))] + b"\xff\xd9"


@given(damaged())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(FILES[0][:-2])
@example(FILES[0] + b"behind the picture")
@example(FILES[0].replace(b"\xff\xda", b"\xff\xd9\xff\xda"))
def test_damage_ends_as_by_way_of_pillow(data: bytes) -> None:
    result = outcome(data)
    with without_imagecodecs():
        assert result == outcome(data)


@pytest.mark.parametrize(
    "data",
    [
        jpeg((48, 36), exif=TURNED),
        saved(photograph(1, 48, 36).convert("L"), "JPEG"),
        saved(photograph(1, 48, 36).convert("CMYK"), "JPEG"),
        saved(Image.new("RGB", (48, 36), (128, 128, 128)), "JPEG"),
        FILES[0][:-2],
    ],
    ids=["turned", "grey", "CMYK", "grey at its end", "cut short"],
)
def test_what_is_not_plain_is_left_to_pillow(data: bytes) -> None:
    try:
        assert not as_rows(data)
    except OSError as error:
        assert "truncated" in str(error)  # noqa: PT017 - Pillow has had it, and says so


@pytest.mark.parametrize(
    "asked", [{"progressive": True}, {"format": OutputFormat.WEBP}, {"format": OutputFormat.PNG}]
)
def test_other_outputs_are_made_by_pillow(asked: dict[str, Any]) -> None:
    data = jpeg((130, 90))
    result = outcome(data, **asked)
    with without_imagecodecs():
        assert result == outcome(data, **asked)


def test_pixels_are_counted_first() -> None:
    with pytest.raises(ImageError) as caught:
        compress_image(jpeg((300, 200)), CompressionSettings(), 59_999)
    assert caught.value.code == "too_many_pixels"


def test_a_profile_of_several_segments_is_kept_whole() -> None:
    profile = PROFILE + bytes(200_000)
    result = compress_image(
        jpeg((300, 200), icc_profile=profile), CompressionSettings(), MAX_PIXELS
    )
    assert opened(result.data).info["icc_profile"] == profile


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_where_numpy_does_not_start_all_is_left_to_pillow(tmp_path: Path, error: str) -> None:
    """A processor older than its wheels are for gets a RuntimeError."""
    (tmp_path / "numpy.py").write_text(f"raise {error}('not here')")
    code = "from imgsvc.images import codec, plain; codec.warm_up(); print(plain.AVAILABLE)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "False", done.stderr
