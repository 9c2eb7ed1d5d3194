"""Fuzz tests of compression: any bytes give an image or an ImageError, within the memory limit."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from ctypes import c_double
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressionSettings, OutputFormat
from imgsvc.images.codec import compress_image, warm_up
from imgsvc.workers import worker_main
from tests.image_assertions import (
    encode_animation,
    encode_image,
    frame_bytes,
    open_image,
    without_native_module,
)
from tests.sample_images import photograph

MAX_PIXELS = 300_000
EXPECTED_CODES = {
    ImageErrorCode.NOT_AN_IMAGE,
    ImageErrorCode.UNSUPPORTED_FORMAT,
    ImageErrorCode.TOO_MANY_PIXELS,
    ImageErrorCode.CORRUPT_IMAGE,
    ImageErrorCode.OUT_OF_MEMORY,
}
PHOTO = photograph(1, 48, 36)
TRANSLUCENT = PHOTO.convert("RGBA")
TRANSLUCENT.putalpha(Image.linear_gradient("L").resize(TRANSLUCENT.size))
FRAMES = [photograph(number, 40, 30) for number in range(3)]
EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010E] = "a description"

FILES = [
    encode_image(PHOTO, "JPEG", exif=EXIF),
    encode_image(PHOTO, "JPEG", progressive=True),
    encode_image(PHOTO.convert("CMYK"), "JPEG"),
    encode_animation([PHOTO, PHOTO], "MPO"),
    encode_image(PHOTO, "PNG", exif=EXIF),
    encode_image(TRANSLUCENT, "PNG"),
    encode_image(PHOTO.quantize(20), "PNG", transparency=3),
    encode_image(PHOTO.convert("I;16"), "PNG"),
    encode_animation(FRAMES, "PNG", duration=50),
    encode_image(PHOTO, "GIF"),
    encode_animation(FRAMES, "GIF", duration=50, loop=0),
    encode_image(PHOTO, "WEBP", exif=EXIF),
    encode_image(TRANSLUCENT, "WEBP", lossless=True),
    encode_animation(FRAMES, "WEBP", duration=50),
    encode_image(PHOTO, "AVIF", exif=EXIF),
    encode_animation(FRAMES, "AVIF", duration=50),
    encode_image(PHOTO, "BMP"),
    encode_image(PHOTO.quantize(16), "BMP"),
    encode_image(PHOTO, "TIFF"),
    *(
        encode_image(PHOTO, "TIFF", compression=compression)
        for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")
    ),
    encode_image(PHOTO.convert("1"), "TIFF", compression="group4"),
    encode_image(PHOTO.convert("F"), "TIFF"),
]
BYTES = st.sampled_from([0, 1, 127, 128, 254, 255]) | st.integers(0, 255)


@st.composite
def damaged(draw: Any) -> bytes:
    """Generate a file with some bytes changed, inserted or removed, more often near its start."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 5))):
        if not data:
            break
        at = draw(st.integers(0, min(len(data), 200) - 1) | st.integers(0, len(data) - 1))
        end = at + draw(st.sampled_from([0, 1, 1, 1, 4]))
        data[at:end] = bytes(draw(st.lists(BYTES, min_size=0 if end > at else 1, max_size=4)))
    return bytes(data)


@given(damaged(), st.sampled_from(OutputFormat))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_compress_damaged_file_returns_image_or_raises_image_error(
    data: bytes, output_format: OutputFormat
) -> None:
    check(data, output_format)


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.sampled_from(OutputFormat))
@settings(max_examples=300, deadline=None)
def test_compress_truncated_file_raises_image_error_unless_pixels_are_complete(
    file: bytes, share: float, output_format: OutputFormat
) -> None:
    data = file[: int(len(file) * share)]
    if file.startswith(b"\xff\xd8") and b"MPF\0" in file and share >= 0.5:
        check(data, output_format)  # the second image of an MPO is not needed
        return
    settings = CompressionSettings(format=output_format)
    with without_native_module():  # it takes only complete files, and rounds differently
        try:
            found = compress_image(data, settings, MAX_PIXELS)
        except ImageError:
            return
        expected = frame_bytes(compress_image(file, settings, MAX_PIXELS).data)
    # Nothing shows that frames are missing if a GIF ends after one.
    frames = frame_bytes(found.data)
    assert frames == expected[: len(frames)]
    assert len(frames) == len(expected) or found.info.input_format == "gif"


@given(st.binary(max_size=2_000), st.sampled_from([file[:16] for file in FILES]))
@settings(max_examples=200, deadline=None)
def test_compress_random_bytes_after_valid_signature_returns_image_or_raises_image_error(
    data: bytes, signature: bytes
) -> None:
    check(signature + data, OutputFormat.KEEP)


def check(data: bytes, output_format: OutputFormat) -> None:
    """Compress a file, and check the image or the error."""
    error: ImageError | None = None
    try:
        result = compress_image(data, CompressionSettings(format=output_format), MAX_PIXELS)
    except ImageError as caught:
        error = caught
    if error is not None:
        assert error.code in EXPECTED_CODES
        assert error.message
        assert "Error" not in error.message
        return
    if result.info.output_format == result.info.input_format:  # others are converted at any size
        assert len(result.data) <= len(data)
    assert result.info.width * result.info.height <= MAX_PIXELS
    if not result.info.kept:
        assert open_image(result.data).size == (result.info.width, result.info.height)


# --- memory ------------------------------------------------------------------------------------


def compress_with_memory_limit(path: str, output_format: str) -> None:
    """Compress a file with 30 MiB of free memory and print the result. Runs in a separate process."""
    warm_up()
    data = open(path, "rb").read()  # noqa: PTH123, SIM115
    used = int(open("/proc/self/statm", "rb").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115
    limit = used + 30 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        compress_image(data, CompressionSettings(format=OutputFormat(output_format)), 10**9)
    except ImageError as error:
        print(error.code)
    small = encode_image(PHOTO, "JPEG")
    print(compress_image(small, CompressionSettings(), 10**6).info.output_format)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"])
@pytest.mark.parametrize("target", ["keep", "webp", "avif"])
def test_compress_works_after_image_that_exceeded_memory_limit(
    tmp_path: Any, file_format: str, target: str
) -> None:
    path = tmp_path / "large"
    options: dict[str, Any] = {"speed": 10} if file_format == "AVIF" else {}
    if file_format == "WEBP":
        options = {"method": 0}
    path.write_bytes(encode_image(Image.effect_noise((5_000, 4_000), 3), file_format, **options))
    code = (
        f"from tests.unit import test_codec_damage as t; "
        f"t.compress_with_memory_limit({str(path)!r}, {target!r})"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["out_of_memory", "jpeg"]


def compress_two_files_in_worker(large: str, medium: str) -> None:
    """Compress two files in a worker with 60 MiB and print both results. Runs in a separate process."""
    files = [open(path, "rb").read() for path in (large, medium)]  # noqa: PTH123, SIM115
    setup = worker_main.WorkerSetup("imgsvc.images.codec:compress_image", 10**9, 60 * 2**20)
    output = os.fdopen(os.dup(1), "w")  # a worker closes its standard streams
    worker_main.start(setup, c_double(0), c_double(0))
    gc.disable()  # it runs at unpredictable times
    for data in files:
        ((result, _),) = worker_main.compressed_images(1, [(data, CompressionSettings())])
        code = result.code if isinstance(result, ImageError) else "compressed"
        print(code, file=output, flush=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("progressive", [False, True])
def test_worker_frees_memory_of_image_that_exceeded_memory_limit(
    tmp_path: Any, progressive: bool
) -> None:
    """The second image exceeds the limit if memory of the first one is still in use."""
    paths = [str(tmp_path / name) for name in ("large", "medium")]
    for path, side in zip(paths, (5_500, 2_500), strict=True):
        shades = Image.linear_gradient("L").resize((side, side)).convert("RGB")
        shades.save(path, "JPEG", progressive=progressive)
    code = (
        "import sys; from tests.unit import test_codec_damage as t; "
        "t.compress_two_files_in_worker(*sys.argv[1:])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False
    )
    assert process.stdout.split() == ["out_of_memory", "compressed"], process


def compress_with_growing_memory_limit(path: str) -> None:
    """Compress a file in a worker with a growing memory limit. Runs in a separate process.

    Prints the result at each limit.
    """
    data = open(path, "rb").read()  # noqa: PTH123, SIM115
    setup = worker_main.WorkerSetup("imgsvc.images.codec:compress_image", 10**9, 2**20)
    output = os.fdopen(os.dup(1), "w")  # a worker closes its standard streams
    worker_main.start(setup, c_double(0), c_double(0))
    gc.disable()
    limit, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    for extra_bytes in range(0, 24 * 2**20, 2**19):
        resource.setrlimit(resource.RLIMIT_AS, (limit + extra_bytes, hard_limit))
        ((result, _),) = worker_main.compressed_images(1, [(data, CompressionSettings())])
        code = result.code if isinstance(result, ImageError) else "compressed"
        print(code, file=output, flush=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_worker_leaks_no_memory_when_memory_limit_is_exceeded(tmp_path: Any) -> None:
    noise = Image.merge("RGB", [Image.effect_noise((1_500, 1_500), 150) for _ in range(3)])
    path = tmp_path / "noise"
    path.write_bytes(encode_image(noise, "JPEG", quality=100))
    code = (
        f"from tests.unit import test_codec_damage as t; "
        f"t.compress_with_growing_memory_limit({str(path)!r})"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    results = process.stdout.split()
    assert (results[0], results[-1]) == ("out_of_memory", "compressed"), process
