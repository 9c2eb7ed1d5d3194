"""Tests of high dynamic range, of gain maps, and of invalid profiles in AVIFs.

The expected colours are those that Chromium 150 draws on an sRGB canvas.
"""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image, ImageCms

from imgsvc.images import colour, icc, icc_parser
from tests.image_assertions import compress, encode_animation, encode_image, open_image
from tests.sample_images import photograph

LEVELS = (0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 255)
GREYS = {
    8: (0, 71, 99, 120, 137, 152, 165, 177, 188, 198, 207, 216, 225, 233, 241, 248, 255),
    16: (0, 1, 5, 15, 30, 48, 70, 98, 132, 175, 213, 237, 255, 255, 255, 255, 255),
    18: (0, 3, 14, 29, 43, 57, 71, 85, 99, 115, 135, 160, 189, 212, 228, 243, 255),
}
"""Grey levels on the screen, by transfer: linear, PQ and HLG."""

PEAKS = {
    100: (0, 2, 10, 25, 44, 69, 98, 135, 181, 238, 255),
    400: (0, 1, 8, 21, 39, 61, 88, 121, 163, 214, 249),
}
"""Grey levels of PQ on the screen, by the peak of the image in cd/m²."""

REDS = {
    (1, 8): ((188, 137, 113), (225, 165, 137)),
    (1, 16): ((132, 30, 11), (255, 52, 20)),
    (1, 18): ((91, 45, 28), (172, 76, 50)),
    (9, 8): ((214, 129, 108), (255, 156, 132)),
    (9, 16): ((165, 0, 0), (255, 0, 0)),
    (9, 18): ((112, 35, 22), (211, 49, 41)),
    (12, 16): ((145, 12, 0), (255, 0, 0)),
    (12, 18): ((98, 42, 23), (186, 68, 40)),
}
"""The colours (128, 64, 42) and (192, 96, 64) on the screen, by primaries and transfer."""

PHOTO = photograph(2, 96, 64)
PHOTO.info = {}


def profile(primaries: int, transfer: int, peak: int = 0) -> bytes:
    built = icc.from_code_points(primaries, transfer, peak)
    assert built is not None
    return built


def shown(level: tuple[int, int, int], built: bytes) -> tuple[int, ...]:
    image, remaining = colour.normalise(Image.new("RGB", (2, 2), level), built)
    assert remaining is None
    pixel = image.getpixel((1, 1))
    assert isinstance(pixel, tuple)
    return pixel


def close(one: tuple[int, ...], other: tuple[int, ...], limit: int = 2) -> bool:
    return all(abs(a - b) <= limit for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("primaries", [1, 9, 12])
@pytest.mark.parametrize("transfer", GREYS)
def test_normalise_converts_hdr_greys_as_browsers_do(primaries: int, transfer: int) -> None:
    built = profile(primaries, transfer)
    for level, expected in zip(LEVELS, GREYS[transfer], strict=True):
        assert close(shown((level,) * 3, built), (expected,) * 3), level


@pytest.mark.parametrize("peak", PEAKS)
def test_normalise_uses_peak_of_pq_image(peak: int) -> None:
    for level, expected in zip(LEVELS, PEAKS[peak], strict=False):
        assert close(shown((level,) * 3, profile(9, 16, peak)), (expected,) * 3), level


@pytest.mark.parametrize("points", REDS)
def test_normalise_converts_hdr_colours_as_browsers_do(points: tuple[int, int]) -> None:
    first, second = REDS[points]
    assert close(shown((128, 64, 42), profile(*points)), first)
    assert close(shown((192, 96, 64), profile(*points)), second)


def test_normalise_keeps_mode_and_alpha_of_hdr_image() -> None:
    for mode in ("L", "LA", "RGB", "RGBA"):
        source = PHOTO.convert(mode)
        if mode.endswith("A"):
            source.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
        for transfer in (8, 16, 18):
            image, _ = colour.normalise(source, profile(9, transfer))
            assert image.mode == mode
            if mode.endswith("A"):
                assert image.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_normalise_converts_large_hdr_image_without_seams() -> None:
    tall = Image.linear_gradient("L").resize((700, 900)).convert("RGB")
    image, _ = colour.normalise(tall, profile(9, 16))
    for y in range(900):
        assert image.getpixel((3, y)) == image.getpixel((690, y))
    assert close(shown((128,) * 3, profile(9, 16)), (132,) * 3)


def png_chunk(chunk_type: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(chunk_type)).to_bytes(4, "big")
    return struct.pack(">I", len(body)) + chunk_type + body + checksum


def hdr_file(file_format: str, level: int = 128, transfer: int = 16) -> bytes:
    """Return a grey image of 64 × 64 pixels with BT.2020 primaries."""
    image = Image.new("RGB", (64, 64), (level,) * 3)
    if file_format == "PNG":
        data = encode_image(image, "PNG")
        return data[:33] + png_chunk(b"cICP", bytes([9, transfer, 0, 1])) + data[33:]
    if file_format == "AVIF":
        data = encode_image(image, "AVIF", quality=100)
        start = data.index(b"colrnclx") + 8
        return data[:start] + struct.pack(">2H", 9, transfer) + data[start + 4 :]
    options = {"lossless": True} if file_format == "WEBP" else {}
    return encode_image(image, file_format, icc_profile=profile(9, transfer), **options)


@pytest.mark.parametrize("target", ["jpeg", "webp", "avif", "png"])
@pytest.mark.parametrize("file_format", ["PNG", "AVIF", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("transfer", GREYS)
def test_compress_converts_hdr_source(file_format: str, target: str, transfer: int) -> None:
    result = compress(hdr_file(file_format, 128, transfer), 100, target)
    output = open_image(result.data)
    if result.info.kept:
        assert result.info.notes == ()
        return
    assert result.info.notes == ("tone-mapped",)
    assert "icc_profile" not in output.info
    pixel = output.convert("RGB").getpixel((20, 20))
    assert isinstance(pixel, tuple)
    assert close(pixel, (GREYS[transfer][8],) * 3, 3)


def test_compress_reads_peaks_of_png_and_avif() -> None:
    data = hdr_file("PNG")
    peak = png_chunk(b"cLLI", struct.pack(">2I", 400 * 10_000, 0))
    mastering = png_chunk(b"mDCV", bytes(16) + struct.pack(">2I", 400 * 10_000, 1))
    for extra in (peak, mastering):
        image = open_image(compress(data[:33] + extra + data[33:], 100, "webp").data)
        pixel = image.convert("RGB").getpixel((20, 20))
        assert isinstance(pixel, tuple)
        assert close(pixel, (163,) * 3)


# --- notes -------------------------------------------------------------------------------------


def test_compress_notes_first_frame_of_animation() -> None:
    frames = [photograph(number, 40, 30) for number in range(3)]
    for file_format in ("GIF", "PNG", "WEBP", "AVIF"):
        data = encode_animation(frames, file_format, duration=50)
        assert compress(data, 50, "jpeg").info.notes == ("first-frame",)
        assert compress(data, 50).info.notes == ()


def app_segment(marker: int, body: bytes) -> bytes:
    return b"\xff%c" % marker + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("quality", [5, 100])
@pytest.mark.parametrize("kind", ["ultra hdr", "iso", "apple"])
def test_compress_notes_gain_map_of_jpeg(kind: str, quality: int) -> None:
    data = encode_image(PHOTO, "JPEG", quality=60)
    urn = b"urn:com:apple:photo:2020:aux:hdrgainmap"
    head, end = {
        "ultra hdr": (
            app_segment(
                0xE1, b"http://ns.adobe.com/xap/1.0/\0<http://ns.adobe.com/hdr-gain-map/1.0/>"
            ),
            b"",
        ),
        "iso": (app_segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"), b""),
        "apple": (
            app_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
            data[:2] + app_segment(0xE1, urn) + data[2:],
        ),
    }[kind]
    result = compress(data[:2] + head + data[2:] + end, quality)
    assert result.info.kept == (quality == 100)
    assert result.info.notes == ("gain-map-dropped",)
    assert compress(data, quality).info.notes == ()


def with_auxiliary_type(urn: bytes) -> bytes:
    """Return an AVIF whose box of the alpha image names another kind of auxiliary image."""
    image = PHOTO.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
    data = encode_image(image, "AVIF", quality=90)
    start = data.index(b"auxC") + 8
    length = len(b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")
    assert len(urn) <= length
    return data[:start] + urn.ljust(length, b"\0") + data[start + length :]


def test_compress_notes_gain_map_of_avif_unless_kept() -> None:
    data = with_auxiliary_type(b"urn:com:apple:photo:2020:aux:hdrgainmap")
    assert compress(data, 5).info.notes == ("gain-map-dropped",)
    kept = compress(data, 100)
    assert (kept.info.kept, kept.info.notes) == (True, ())


# --- profiles in AVIFs -------------------------------------------------------------------------

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def tag_start(built: bytes, name: bytes) -> int:
    entry = built.index(name, 132)
    return int.from_bytes(built[entry + 4 : entry + 8], "big")


def changed(built: bytes, position: int, new: bytes) -> bytes:
    return built[:position] + new + built[position + len(new) :]


INVALID = {
    "cut": SRGB[:-60],
    "wrong size": changed(SRGB, 0, b"\0\1\0\0"),
    "version 9": changed(SRGB, 8, b"\x09"),
    "no signature": changed(SRGB, 36, b"abcd"),
    "another white point": changed(SRGB, 68, bytes(12)),
    "unknown connection space": changed(SRGB, 20, b"Luv "),
    "zeroed curve": changed(SRGB, tag_start(SRGB, b"rTRC"), bytes(16)),
    "unknown function": changed(SRGB, tag_start(SRGB, b"rTRC") + 8, b"\0\x09"),
    "zeroed colorant": changed(SRGB, tag_start(SRGB, b"gXYZ"), bytes(8)),
    "tag outside": changed(SRGB, SRGB.index(b"bTRC", 132) + 4, b"\x7f\0\0\0"),
    "too many tags": changed(SRGB, 128, b"\0\1\0\0"),
    "no curves": SRGB.replace(b"rTRC", b"abcd", 1),
    "zeroed adaptation": changed(SRGB, tag_start(SRGB, b"chad"), bytes(4)),
    "text too long": changed(SRGB, tag_start(SRGB, b"desc") + 8, b"\0\0\xff\xff"),
}


@pytest.mark.parametrize("name", INVALID)
def test_compress_embeds_no_invalid_profile_in_avif(name: str) -> None:
    data = encode_image(PHOTO, "JPEG", quality=95, icc_profile=INVALID[name])
    output = open_image(compress(data, 60, "avif").data)
    assert "icc_profile" not in output.info


def test_is_valid_accepts_complete_profiles() -> None:
    p3 = icc.from_code_points(12, 13)
    gamma = icc.from_gamma(55_000, None)
    assert p3 is not None
    assert gamma is not None
    for built in (SRGB, p3, gamma, profile(9, 16, 400)):
        assert icc_parser.is_valid(built)


def conversion_table(kind: bytes, size: int) -> bytes:
    """Return a profile with a table (A2B0) of `size` bytes for two grid points and 256 entries."""
    if kind == b"mft1":
        tag = kind + bytes(4) + bytes([3, 3, 2, 0]) + bytes(36) + bytes(range(256)) * 3
        tag += bytes(24) + bytes(range(256)) * 3
    else:
        ramp = struct.pack(">2H", 0, 65_535) * 3
        tag = kind + bytes(4) + bytes([3, 3, 2, 0]) + bytes(36) + struct.pack(">2H", 2, 2)
        tag += ramp + bytes(48) + ramp
    tag = tag[:size] if size else tag
    head = struct.pack(">I", 144 + len(tag)) + SRGB[4:20] + b"XYZ " + SRGB[24:128]
    return head + struct.pack(">I4sII", 1, b"A2B0", 144, len(tag)) + tag


@pytest.mark.parametrize("kind", [b"mft1", b"mft2"])
def test_is_valid_checks_conversion_tables(kind: bytes) -> None:
    assert icc_parser.is_valid(conversion_table(kind, 0))
    assert not icc_parser.is_valid(conversion_table(kind, 100))
