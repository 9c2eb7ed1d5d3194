"""Whatever the bytes: a smaller picture, or an error of the list."""

from __future__ import annotations

import gc
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
from imgsvc.workers import main
from tests.image_assertions import film, opened, saved
from tests.sample_images import photograph

MAX_PIXELS = 300_000
LISTED = {
    ImageErrorCode.NOT_AN_IMAGE,
    ImageErrorCode.UNSUPPORTED_FORMAT,
    ImageErrorCode.TOO_MANY_PIXELS,
    ImageErrorCode.CORRUPT_IMAGE,
    ImageErrorCode.OUT_OF_MEMORY,
}
PHOTO = photograph(1, 48, 36)
SOFT = PHOTO.convert("RGBA")
SOFT.putalpha(Image.linear_gradient("L").resize(SOFT.size))
FRAMES = [photograph(number, 40, 30) for number in range(3)]
ABOUT = Image.Exif()
ABOUT[0x0112] = 6
ABOUT[0x010E] = "a description"

FILES = [
    saved(PHOTO, "JPEG", exif=ABOUT),
    saved(PHOTO, "JPEG", progressive=True),
    saved(PHOTO.convert("CMYK"), "JPEG"),
    film([PHOTO, PHOTO], "MPO"),
    saved(PHOTO, "PNG", exif=ABOUT),
    saved(SOFT, "PNG"),
    saved(PHOTO.quantize(20), "PNG", transparency=3),
    saved(PHOTO.convert("I;16"), "PNG"),
    film(FRAMES, "PNG", duration=50),
    saved(PHOTO, "GIF"),
    film(FRAMES, "GIF", duration=50, loop=0),
    saved(PHOTO, "WEBP", exif=ABOUT),
    saved(SOFT, "WEBP", lossless=True),
    film(FRAMES, "WEBP", duration=50),
    saved(PHOTO, "AVIF", exif=ABOUT),
    film(FRAMES, "AVIF", duration=50),
    saved(PHOTO, "BMP"),
    saved(PHOTO.quantize(16), "BMP"),
    saved(PHOTO, "TIFF"),
    *(
        saved(PHOTO, "TIFF", compression=compression)
        for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")
    ),
    saved(PHOTO.convert("1"), "TIFF", compression="group4"),
    saved(PHOTO.convert("F"), "TIFF"),
]
BYTES = st.sampled_from([0, 1, 127, 128, 254, 255]) | st.integers(0, 255)


@st.composite
def damaged(draw: Any) -> bytes:
    """A file with some bytes changed, put in or taken out; more often near its start."""
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
def test_a_damaged_file_gives_a_picture_or_an_error(data: bytes, form: OutputFormat) -> None:
    check(data, form)


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.sampled_from(OutputFormat))
@settings(max_examples=300, deadline=None)
def test_a_file_cut_short_gives_an_error(file: bytes, share: float, form: OutputFormat) -> None:
    data = file[: int(len(file) * share)]
    if file.startswith(b"\xff\xd8") and b"MPF\0" in file and share >= 0.5:
        check(data, form)  # the second picture of an MPO is not needed
        return
    with pytest.raises(ImageError) as caught:
        compress_image(data, CompressionSettings(format=form), MAX_PIXELS)
    assert caught.value.code in LISTED


@given(st.binary(max_size=2_000), st.sampled_from([file[:16] for file in FILES]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_behind_a_good_beginning(data: bytes, beginning: bytes) -> None:
    check(beginning + data, OutputFormat.KEEP)


def check(data: bytes, form: OutputFormat) -> None:
    error: ImageError | None = None
    try:
        result = compress_image(data, CompressionSettings(format=form), MAX_PIXELS)
    except ImageError as caught:
        error = caught
    if error is not None:
        assert error.code in LISTED
        assert error.message
        assert "Error" not in error.message
        return
    if result.info.input_format not in {"bmp", "tiff"}:
        assert len(result.data) <= len(data)
    assert result.info.width * result.info.height <= MAX_PIXELS
    if not result.info.kept:
        assert opened(result.data).size == (result.info.width, result.info.height)


# --- memory ------------------------------------------------------------------------------------


def in_little_memory(path: str, form: str) -> None:
    """In a process of its own: compress a file with 60 MiB to spare, and print how it ended."""
    warm_up()
    data = open(path, "rb").read()  # noqa: PTH123, SIM115
    used = int(open("/proc/self/statm", "rb").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115
    limit = used + 60 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        compress_image(data, CompressionSettings(format=OutputFormat(form)), 10**9)
    except ImageError as error:
        print(error.code)
    small = saved(PHOTO, "JPEG")
    print(compress_image(small, CompressionSettings(), 10**6).info.output_format)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"])
@pytest.mark.parametrize("target", ["keep", "webp", "avif"])
def test_a_memory_limit_costs_one_picture(tmp_path: Any, form: str, target: str) -> None:
    path = tmp_path / "large"
    options: dict[str, Any] = {"speed": 10} if form == "AVIF" else {}
    if form == "WEBP":
        options = {"method": 0}
    path.write_bytes(saved(Image.effect_noise((5_000, 4_000), 3), form, **options))
    code = (
        f"from tests.test_codec_damage import in_little_memory as m; m({str(path)!r}, {target!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["out_of_memory", "jpeg"]


def in_a_worker(large: str, medium: str) -> None:
    """In a process of its own: be a worker with 60 MiB, and print how two files end, one by one."""
    files = [open(path, "rb").read() for path in (large, medium)]  # noqa: PTH123, SIM115
    setup = main.WorkerSetup("imgsvc.images.codec:compress_image", 10**9, 60 * 2**20)
    main.start(setup, c_double(0), c_double(0))
    gc.disable()  # when it next runs is chance
    for data in files:
        (answer,) = main.compressed_images(1, [(data, CompressionSettings())])
        print(answer.code if isinstance(answer, ImageError) else "compressed")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("progressive", [False, True])
def test_a_picture_that_was_too_large_leaves_the_next_its_room(
    tmp_path: Any, progressive: bool
) -> None:
    """There is none beside the large one's pixels, or beside what decoding them took."""
    paths = [str(tmp_path / name) for name in ("large", "medium")]
    for path, side in zip(paths, (4_000, 2_500), strict=True):
        shades = Image.linear_gradient("L").resize((side, side)).convert("RGB")
        shades.save(path, "JPEG", progressive=progressive)
    code = "import sys; from tests.test_codec_damage import in_a_worker as m; m(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["out_of_memory", "compressed"], done


def in_ever_more_memory(path: str) -> None:
    """In a process of its own: be a worker whose memory grows, and print how a file ends."""
    data = open(path, "rb").read()  # noqa: PTH123, SIM115
    setup = main.WorkerSetup("imgsvc.images.codec:compress_image", 10**9, 2**20)
    main.start(setup, c_double(0), c_double(0))
    gc.disable()
    limit, most = resource.getrlimit(resource.RLIMIT_AS)
    for more in range(0, 24 * 2**20, 2**19):
        resource.setrlimit(resource.RLIMIT_AS, (limit + more, most))
        (answer,) = main.compressed_images(1, [(data, CompressionSettings())])
        print(answer.code if isinstance(answer, ImageError) else "compressed")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_failing_for_want_of_memory_takes_none(tmp_path: Any) -> None:
    noise = Image.merge("RGB", [Image.effect_noise((1_500, 1_500), 150) for _ in range(3)])
    path = tmp_path / "noise"
    path.write_bytes(saved(noise, "JPEG", quality=100))
    code = f"from tests.test_codec_damage import in_ever_more_memory as m; m({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    ends = done.stdout.split()
    assert (ends[0], ends[-1]) == ("out_of_memory", "compressed"), done
