"""Tests of the native module: what it converts, what it refuses, and that nothing else changes."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from imgsvc.errors import ImageError
from imgsvc.image_types import CompressedImage, CompressionSettings, OutputFormat, Quality
from imgsvc.images import native
from imgsvc.images.codec import compress_image
from imgsvc.images.formats.jpeg_segments import DQT, EOI, FRAME_MARKERS, SOS, segments
from imgsvc.images.native import requantise
from tests.fuzz import requantise as fuzz
from tests.image_assertions import (
    encode_image,
    mean_difference,
    open_image,
    without_native_module,
)
from tests.sample_images import photograph

pytestmark = pytest.mark.external

MAX_PIXELS = 400_000
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = PROFILE[:16] + b"GRAY" + PROFILE[20:]
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
HALF = CompressionSettings()
PADDING = bytes(100_000)
"""Bytes after a file, so that its conversion is not refused because it is not smaller."""


def jpeg(size: tuple[int, int] = (130, 90), mode: str = "RGB", **options: Any) -> bytes:
    image = photograph(1, *size).convert(mode)
    return encode_image(image, "JPEG", **{"quality": 90, **options})


ACCEPTED = {
    "420": jpeg(),
    "444": jpeg(subsampling=0),
    "422": jpeg(subsampling=1),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_blocks=3),
    "grey": jpeg(mode="L"),
    "grey progressive": jpeg(mode="L", progressive=True),
    "one pixel": jpeg((1, 1)),
    "partial blocks": jpeg((33, 17)),
    "metadata": jpeg(dpi=(300, 300), comment=b"a comment"),
    "profile": jpeg(icc_profile=PROFILE + bytes(200_000)),
    "grey profile of colours": jpeg(icc_profile=GREY_PROFILE),
    "grey profile": jpeg(mode="L", icc_profile=GREY_PROFILE),
    "trailing data": jpeg() + b"after the image",
}
REFUSED = {
    "RGB": jpeg(keep_rgb=True),
    "CMYK": jpeg(mode="CMYK"),
    "rotated": jpeg(exif=ROTATED),
    "colour profile of grey": jpeg(mode="L", icc_profile=PROFILE),
    "truncated": jpeg()[:-500],
    "truncated with an end marker": jpeg()[:-500] + b"\xff\xd9",
    "without end marker": jpeg()[:-2],
    "garbage between segments": jpeg().replace(b"\xff\xdb", b"\0\0\xff\xdb", 1),
}


def scans(data: bytes) -> list[bytes]:
    return [data[start:end] for marker, start, end in segments(data) if marker == SOS]


def outcome(data: bytes, compression: CompressionSettings = HALF) -> CompressedImage | object:
    """Return the compressed image, or the code and message of the error."""
    try:
        return compress_image(data, compression, MAX_PIXELS)
    except ImageError as error:
        return error.code, error.message


def test_native_module_is_built() -> None:
    assert native.AVAILABLE


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_compress_with_native_module_looks_like_pillow(data: bytes) -> None:
    assert requantise(data, 45, small=False) is not None
    result = compress_image(data, HALF, MAX_PIXELS)
    with without_native_module():
        expected = compress_image(data, HALF, MAX_PIXELS)
    assert result.data != expected.data
    image, expected_image = open_image(result.data), open_image(expected.data)
    source = open_image(data)
    losses = [mean_difference(each, source) for each in (image, expected_image)]
    assert losses[0] <= 1.03 * losses[1]
    assert (image.mode, image.size) == (expected_image.mode, expected_image.size)
    assert image.info == expected_image.info
    assert isinstance(image, JpegImageFile)
    assert isinstance(expected_image, JpegImageFile)
    assert image.quantization == expected_image.quantization
    reported = [
        (each.width, each.height, each.source_quality, each.quality, each.kept, each.notes)
        for each in (result.info, expected.info)
    ]
    assert reported[0] == reported[1]


@pytest.mark.parametrize("name", ["444", "422", "420"])
def test_requantise_keeps_sampling_if_fast(name: str) -> None:
    result = compress_image(ACCEPTED[name], HALF, MAX_PIXELS)
    sampling = {"444": 0, "422": 1, "420": 2}[name]
    assert get_sampling(open_image(result.data)) == sampling
    assert (requantise(ACCEPTED[name], 45, small=True) is None) == (name != "420")


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_requantise_writes_one_baseline_scan(data: bytes) -> None:
    output = requantise(data, 45, small=False)
    assert output is not None
    markers = [each.marker for each in segments(output)]
    assert [marker for marker in markers if marker in FRAME_MARKERS] == [0xC0]
    assert markers[-2:] == [SOS, EOI]


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_compress_of_refused_file_equals_pillow(data: bytes) -> None:
    result = outcome(data)
    with without_native_module():
        assert result == outcome(data)


@pytest.mark.parametrize(
    "compression",
    [
        CompressionSettings(progressive=True),
        CompressionSettings(format=OutputFormat("webp")),
        CompressionSettings(format=OutputFormat("png")),
        CompressionSettings(Quality(90, relative=False)),
        CompressionSettings(Quality(100, relative=False)),
    ],
    ids=str,
)
def test_compress_with_other_settings_equals_pillow(compression: CompressionSettings) -> None:
    result = outcome(ACCEPTED["420"], compression)
    with without_native_module():
        assert result == outcome(ACCEPTED["420"], compression)


def test_compress_checks_pixel_limit_before_native_module() -> None:
    with pytest.raises(ImageError) as error_info:
        compress_image(jpeg((300, 200)), HALF, 59_999)
    assert error_info.value.code == "too_many_pixels"


def test_requantise_needs_fewer_bytes_than_optimised_pillow() -> None:
    sources = [encode_image(photograph(n, 320, 240), "JPEG", quality=90) for n in range(8)]
    sizes = dict.fromkeys(("fast", "small", "Pillow"), 0)
    for source in sources:
        sizes["fast"] += len(requantise(source, 45, small=False) or source)
        sizes["small"] += len(requantise(source, 45, small=True) or source)
        sizes["Pillow"] += len(encode_image(open_image(source), "JPEG", quality=45, optimize=True))
    assert sizes["fast"] < 0.99 * sizes["Pillow"]
    assert sizes["small"] < 0.95 * sizes["Pillow"]


@pytest.mark.parametrize("quality", [1, 24, 25, 45, 65, 66, 100])
@pytest.mark.parametrize("small", [False, True])
def test_requantise_limits_coefficients_that_have_no_code(quality: int, small: bool) -> None:
    noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))
    data = encode_image(noise, "JPEG", quality=100)
    for marker, start, end in segments(data):
        if marker == DQT:  # each coefficient becomes up to 255 times as large
            table = data[start:end]
            largest = table[:5] + b"\xff" * (len(table) - 5)
            data = data.replace(table, largest, 1)
    output = requantise(data + PADDING, quality, small=small)
    assert output is not None
    # libjpeg warns about invalid codes, and then this returns None.
    assert requantise(output + PADDING, quality, small=small) is not None
    open_image(output)


def test_requantise_uses_fitted_tables_for_any_coefficients() -> None:
    """The tables have a code for every symbol: noise needs rare ones."""
    numbers = random.Random(2)
    for spread in (1, 30, 255):
        values = bytes(numbers.randrange(spread + 1) for _ in range(64 * 64 * 3))
        data = encode_image(Image.frombytes("RGB", (64, 64), values), "JPEG", quality=100)
        output = requantise(data, 60, small=False)
        assert output is not None
        assert mean_difference(open_image(output), open_image(data)) < 32


def with_scans(count: int) -> bytes:
    """Return a baseline JPEG of three components, each of them in `count` scans of its own."""
    grey = ACCEPTED["grey"]
    (frame,) = (grey[start:end] for marker, start, end in segments(grey) if marker == 0xC0)
    (scan,) = scans(grey)
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    colour_frame = b"\xff\xc0\0\x11" + frame[4:9] + b"\3" + components
    colour_scans = b"".join(scan[:5] + bytes((number,)) + scan[6:] for number in (1, 2, 3))
    return grey.replace(frame, colour_frame).replace(scan, colour_scans * count)


@pytest.mark.parametrize(("count", "is_accepted"), [(1, True), (30, True), (40, False)])
def test_requantise_limits_scans(count: int, is_accepted: bool) -> None:
    assert (requantise(with_scans(count), 45, small=False) is not None) == is_accepted


def test_requantise_refuses_file_without_scan_of_a_component() -> None:
    data = with_scans(1)
    for scan in scans(data):
        assert requantise(data.replace(scan, b""), 45, small=False) is None


@pytest.mark.parametrize("missing", range(6))
def test_requantise_refuses_progressive_file_without_a_scan(missing: int) -> None:
    data = ACCEPTED["progressive"]
    scan = scans(data)[missing]
    assert requantise(data.replace(scan, b""), 45, small=False) is None


@st.composite
def damaged(draw: Any) -> bytes:
    return fuzz.damaged([ACCEPTED["420"], ACCEPTED["progressive"]], draw(st.randoms()))


@given(damaged())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(ACCEPTED["420"].replace(b"\xff\xda", b"\xff\xd9\xff\xda"))
def test_compress_damaged_jpeg_succeeds_only_if_pillow_does(data: bytes) -> None:
    result = outcome(data)
    with without_native_module():
        expected = outcome(data)
    if isinstance(result, CompressedImage):
        assert isinstance(expected, CompressedImage)
        sizes = [(each.info.width, each.info.height) for each in (result, expected)]
        assert sizes[0] == sizes[1]
    else:
        assert result == expected


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8\xff", bytes(100)])
def test_requantise_refuses_other_files(data: bytes) -> None:
    assert requantise(data, 45, small=False) is None


def test_requantise_frees_its_memory() -> None:
    files = [*ACCEPTED.values(), *REFUSED.values()]

    def resident_bytes() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def convert(rounds: int) -> int:
        for _ in range(rounds):
            for data in files:
                requantise(data, 45, small=False)
        return resident_bytes()

    before = convert(20)
    assert convert(100) - before < 2**20


def test_damaged_files_cause_no_invalid_access() -> None:
    """A short run of `tests.fuzz.requantise`."""
    result = fuzz.run(3_000, seed=0)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3000 damaged files" in result.stdout
