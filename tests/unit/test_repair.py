"""Tests that damaged files are read if all pixels are there, and rejected if any are missing."""

from __future__ import annotations

import struct
import zlib
from contextlib import nullcontext

import pytest
from PIL import Image

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import ImageFormat
from imgsvc.images.formats import CODECS
from tests.image_assertions import (
    compress,
    encode_animation,
    encode_image,
    frame_bytes,
    mean_difference,
    open_image,
    without_native_module,
)
from tests.sample_images import photograph

PHOTO = photograph(4, 96, 64)
PHOTO.info = {}
FRAMES = [photograph(number, 40, 30) for number in range(3)]

JPEG = encode_image(PHOTO, "JPEG", quality=90)
PROGRESSIVE = encode_image(PHOTO, "JPEG", quality=90, progressive=True)
JPEGS = {
    "baseline": JPEG,
    "progressive": PROGRESSIVE,
    "restarts": encode_image(PHOTO, "JPEG", quality=90, restart_marker_rows=1),
    "grey": encode_image(PHOTO.convert("L"), "JPEG", quality=90),
    "cmyk": encode_image(PHOTO.convert("CMYK"), "JPEG", quality=90),
}


def assert_whole(damaged: bytes, original: bytes, output_format: str = "keep") -> None:
    """Assert that a damaged file gives the same frames as the original, also if it is kept."""
    for quality in (5, 100):  # the higher one keeps most sources
        with without_native_module():  # it takes only the original, and rounds differently
            found = frame_bytes(compress(damaged, quality, output_format).data)
            expected = frame_bytes(compress(original, quality, output_format).data)
        assert found == expected


def assert_corrupt(damaged: bytes) -> None:
    with pytest.raises(ImageError) as error_info:
        compress(damaged)
    assert error_info.value.code is ImageErrorCode.CORRUPT_IMAGE


# --- JPEG --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"", b"\xff", b"\r\n", b"\n", bytes(40)])
@pytest.mark.parametrize("name", JPEGS)
def test_compress_reads_jpeg_without_eoi(name: str, end: bytes) -> None:
    data = JPEGS[name]
    assert_whole(data[:-2] + end, data)


@pytest.mark.parametrize("missing", [3, 4, 10, 100])
@pytest.mark.parametrize("name", JPEGS)
def test_compress_rejects_jpeg_without_end_of_its_scan(name: str, missing: int) -> None:
    assert_corrupt(JPEGS[name][:-missing])


def test_compress_rejects_progressive_jpeg_without_its_last_scans() -> None:
    scan = PROGRESSIVE.rindex(b"\xff\xda")
    assert_corrupt(PROGRESSIVE[:scan])
    assert_corrupt(PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda", 0, scan)])


@pytest.mark.parametrize("native", [True, False])
def test_compress_rejects_progressive_jpeg_cut_between_scans_and_closed(*, native: bool) -> None:
    with nullcontext() if native else without_native_module():
        scan = len(PROGRESSIVE)
        for _ in range(PROGRESSIVE.count(b"\xff\xda") - 1):
            scan = PROGRESSIVE.rindex(b"\xff\xda", 0, scan)
            assert_corrupt(PROGRESSIVE[:scan] + b"\xff\xd9")
        compress(PROGRESSIVE)


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff%c" % marker + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        (0xEE, b"Adobe\0\x64\0\0\0\0\1"),
        (0xE2, b"ICC_PROFILE\0\1\1abcdef"),
        (0xE1, b"Exif\0\0II*\0\x08\0\0\0"),
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0"),
    ],
)
def test_compress_ignores_short_jpeg_segments(marker: int, body: bytes) -> None:
    without_jfif = JPEG[:2] + JPEG[20:]
    for size in range(len(body)):
        assert_whole(JPEG[:2] + segment(marker, body[:size]) + without_jfif[2:], without_jfif)


def test_compress_applies_orientation_of_repaired_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode_image(PHOTO, "JPEG", quality=90, exif=exif)
    result = compress(data[:-2], 100)
    assert (result.info.width, result.info.height) == (PHOTO.height, PHOTO.width)


def with_marker_in_scan(data: bytes, marker: int) -> bytes:
    """Return a JPEG with a false marker after a third of its coded data."""
    start = data.rindex(b"\xff\xda")
    position = start + (len(data) - start) // 3
    while 0xFF in data[position - 1 : position + 3]:
        position += 1
    return data[:position] + b"\xff%c" % marker + data[position + 2 :]


@pytest.mark.parametrize("marker", [0x02, 0x9F, 0xC4, 0xDA, 0xDB, 0xDC, 0xE1, 0xF0, 0xFE, 0xD3])
def test_compress_rejects_jpeg_whose_scan_ends_at_false_marker(marker: int) -> None:
    large = encode_image(photograph(3, 320, 240), "JPEG", quality=30)
    assert_corrupt(with_marker_in_scan(large, marker))


@pytest.mark.parametrize("marker", [0x02, 0x9F, 0xBF])
@pytest.mark.parametrize("quality", [20, 100])
def test_compress_keeps_restarted_scan_with_false_marker_whole(marker: int, quality: int) -> None:
    large = encode_image(photograph(3, 320, 240), "JPEG", quality=30, restart_marker_rows=1)
    damaged = with_marker_in_scan(large, marker)
    result = compress(damaged, quality)
    assert result.info.kept == (quality == 100)
    assert mean_difference(open_image(result.data), open_image(large)) < 9


@pytest.mark.parametrize("marker", range(0x02, 0xFF))
def test_strip_keeps_scan_with_any_marker(marker: int) -> None:
    large = encode_image(photograph(3, 320, 240), "JPEG", quality=30, comment=b"c" * 100)
    damaged = with_marker_in_scan(large, marker)
    stripped = CODECS[ImageFormat.JPEG].strip(damaged)
    scan = damaged[damaged.index(b"\xff\xda") :]
    if marker != 0xD9:  # the end of the image
        assert stripped.endswith(scan)


# --- PNG ---------------------------------------------------------------------------------------


def chunk(chunk_type: bytes, body: bytes, checksum: bytes | None = None) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(chunk_type)).to_bytes(4, "big")
    return struct.pack(">I", len(body)) + chunk_type + body + (checksum or crc)


PNG = encode_image(PHOTO, "PNG")
HEAD, IEND = PNG[:33], PNG[-12:]
PIXELS = PNG[41:-16]
assert HEAD + chunk(b"IDAT", PIXELS) + IEND == PNG

WHOLE_PNGS = {
    "no IEND": PNG[:-12],
    "part of IEND": PNG[:-5],
    "wrong checksum of IEND": PNG[:-4] + b"abcd",
    "wrong Adler-32": HEAD + chunk(b"IDAT", PIXELS[:-4] + b"abcd") + IEND,
    "no Adler-32": HEAD + chunk(b"IDAT", PIXELS)[:-8],
    "wrong checksum of IDAT": HEAD + chunk(b"IDAT", PIXELS, b"abcd") + IEND,
    "no checksum of IDAT": PNG[:-14],
    "cut in a comment": PNG[:-12] + chunk(b"tEXt", b"Comment\0hello")[:-8],
    "zeros at the end": PNG[:-12] + bytes(20),
}
CORRUPT_PNGS = {
    "pixels missing": PNG[: len(PNG) * 2 // 3],
    "end of pixels missing": HEAD + chunk(b"IDAT", PIXELS[:-40]) + IEND,
    "wrong checksum of IHDR": HEAD[:-4] + b"abcd" + PNG[33:],
    "wrong checksum and Adler-32": HEAD + chunk(b"IDAT", PIXELS[:-4] + b"abcd", b"efgh") + IEND,
    "orientation missing": PNG[:-12] + chunk(b"eXIf", bytes(40))[:-20],
}


@pytest.mark.parametrize("name", WHOLE_PNGS)
def test_compress_reads_png_with_complete_pixels(name: str) -> None:
    assert_whole(WHOLE_PNGS[name], PNG)
    assert_whole(WHOLE_PNGS[name], PNG, "jpeg")


@pytest.mark.parametrize("name", CORRUPT_PNGS)
def test_compress_rejects_png_without_complete_pixels(name: str) -> None:
    assert_corrupt(CORRUPT_PNGS[name])


def test_compress_reads_apng_without_iend_and_rejects_missing_frames() -> None:
    data = encode_animation(FRAMES, "PNG", duration=50)
    assert_whole(data[:-12], data)
    assert_corrupt(data[: data.rindex(b"fcTL") - 4])
    assert_corrupt(data[:-300])


# --- GIF ---------------------------------------------------------------------------------------

GIF = encode_image(PHOTO, "GIF")
ANIMATED_GIF = encode_animation(FRAMES, "GIF", duration=50, loop=0)
FIRST_BLOCK = 13 + 3 * 256


@pytest.mark.parametrize("data", [GIF, ANIMATED_GIF])
def test_compress_reads_gif_without_its_end(data: bytes) -> None:
    for missing in (1, 2):  # the trailer, and the end of the pixels
        assert_whole(data[:-missing], data)
    assert_corrupt(data[:-40])


@pytest.mark.parametrize("count", [1, 5])
def test_compress_reads_gif_with_zeros_between_blocks(count: int) -> None:
    assert GIF[FIRST_BLOCK] in b"!,"
    assert_whole(GIF[:FIRST_BLOCK] + bytes(count) + GIF[FIRST_BLOCK:], GIF)
    assert_whole(GIF[:-1] + bytes(count) + GIF[-1:], GIF)
    assert_corrupt(GIF[:FIRST_BLOCK] + b"\1" + GIF[FIRST_BLOCK:])


# --- WebP --------------------------------------------------------------------------------------

TRANSLUCENT = PHOTO.convert("RGBA")
TRANSLUCENT.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
WEBPS = {
    "lossy": encode_image(PHOTO, "WEBP", quality=80),
    "lossless": encode_image(PHOTO, "WEBP", lossless=True),
    "alpha": encode_image(TRANSLUCENT, "WEBP", quality=80),
}


def with_riff_size(data: bytes, size: int) -> bytes:
    return data[:4] + struct.pack("<I", size) + data[8:]


@pytest.mark.parametrize("name", WEBPS)
def test_compress_reads_webp_with_wrong_riff_size(name: str) -> None:
    data = WEBPS[name]
    for size in (0, len(data) - 18, len(data) - 7, len(data) + 92, 2**31, 2**32 - 1):
        assert_whole(with_riff_size(data, size), data)


@pytest.mark.parametrize("name", WEBPS)
def test_compress_rejects_webp_without_its_last_bytes(name: str) -> None:
    for size in (len(WEBPS[name]) - 8, len(WEBPS[name]) - 48):
        assert_corrupt(with_riff_size(WEBPS[name][:-40], size))


def test_compress_reads_webp_without_padding() -> None:
    files = [encode_image(PHOTO, "WEBP", quality=quality) for quality in range(60, 90)]
    padded = [data for data in files if data[-1] == 0]
    assert padded
    whole = [data for data in padded if _is_read(data[:-1])]
    assert whole
    for data in whole:
        assert_whole(data[:-1], data)


def _is_read(data: bytes) -> bool:
    try:
        return bool(compress(data))
    except ImageError:
        return False


def test_compress_rejects_webp_whose_frames_or_orientation_may_be_missing() -> None:
    animated = encode_animation(FRAMES, "WEBP", duration=50)
    assert_whole(with_riff_size(animated, len(animated) - 7), animated)
    assert_corrupt(animated[: animated.rindex(b"ANMF")])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode_image(PHOTO, "WEBP", exif=exif)
    assert_corrupt(turned[: turned.rindex(b"EXIF")])


# --- EXIF --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2])
def test_compress_ignores_orientation_without_exactly_one_value(count: int) -> None:
    entry = struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x0112, 3, count, 6, 0, 0)
    result = compress(encode_image(PHOTO, "JPEG", exif=b"Exif\0\0" + entry), 100)
    assert (result.info.width, result.info.height) == PHOTO.size
