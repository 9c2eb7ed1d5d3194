"""Tests that metadata is removed from a file, but not its pixels, colours and orientation."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from imgsvc.image_types import ImageFormat
from imgsvc.images import exif
from imgsvc.images.formats import CODECS, jpeg_segments
from tests.image_assertions import encode_animation, encode_image, open_image, read_frames
from tests.sample_images import photograph

PHOTO = photograph(4, 120, 80)
PHOTO.info = {}
SECRET = b"51.4779N 0.0015W"
FRAMES = [photograph(number, 60, 40) for number in range(3)]
PROFILE = b"p" * 36 + b"acsp" + b"q" * 100


def strip(data: bytes, image_format: ImageFormat) -> bytes:
    return CODECS[image_format].strip(data)


def exif_with_secret(orientation: int = 1) -> Image.Exif:
    """Return EXIF data with a location and this orientation."""
    exif_data = Image.Exif()
    exif_data[0x0112] = orientation
    exif_data[0x010E] = SECRET.decode()
    return exif_data


def same_pixels(one: bytes, other: bytes) -> bool:
    """Return whether two files have equal frames and durations."""
    pairs = zip(read_frames(one), read_frames(other), strict=True)
    return all(
        a[1] == b[1] and ImageChops.difference(a[0], b[0]).getbbox(alpha_only=False) is None
        for a, b in pairs
    )


XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
INFO = PngInfo()
INFO.add_text("Comment", SECRET.decode())
INFO.add_itxt("XML:com.adobe.xmp", XMP.decode())

FILES: dict[str, tuple[ImageFormat, bytes]] = {
    "jpeg": (
        ImageFormat.JPEG,
        encode_image(
            PHOTO, "JPEG", exif=exif_with_secret(6), xmp=XMP, comment=SECRET, icc_profile=PROFILE
        ),
    ),
    "progressive": (
        ImageFormat.JPEG,
        encode_image(PHOTO, "JPEG", progressive=True, exif=exif_with_secret(), comment=SECRET),
    ),
    "cmyk": (
        ImageFormat.JPEG,
        encode_image(PHOTO.convert("CMYK"), "JPEG", exif=exif_with_secret(8)),
    ),
    "mpo": (ImageFormat.JPEG, encode_animation([PHOTO, PHOTO], "MPO", exif=exif_with_secret(3))),
    "png": (
        ImageFormat.PNG,
        encode_image(PHOTO, "PNG", exif=exif_with_secret(6), pnginfo=INFO, icc_profile=PROFILE),
    ),
    "palette": (
        ImageFormat.PNG,
        encode_image(PHOTO.quantize(8), "PNG", pnginfo=INFO, transparency=b"\0\x80"),
    ),
    "apng": (
        ImageFormat.PNG,
        encode_animation(FRAMES, "PNG", duration=[10, 20, 30], pnginfo=INFO, loop=2),
    ),
    "webp": (
        ImageFormat.WEBP,
        encode_image(PHOTO, "WEBP", exif=exif_with_secret(6), xmp=XMP, icc_profile=PROFILE),
    ),
    "plain webp": (ImageFormat.WEBP, encode_image(PHOTO, "WEBP")),
    "lossless": (
        ImageFormat.WEBP,
        encode_image(PHOTO, "WEBP", lossless=True, exif=exif_with_secret(), xmp=XMP),
    ),
    "animated webp": (
        ImageFormat.WEBP,
        encode_animation(FRAMES, "WEBP", duration=[10, 20, 30], xmp=XMP, loop=2),
    ),
    "gif": (ImageFormat.GIF, encode_image(PHOTO, "GIF", comment=SECRET)),
    "animated gif": (
        ImageFormat.GIF,
        encode_animation(FRAMES, "GIF", duration=[10, 20, 30], comment=SECRET, loop=2),
    ),
    "avif": (
        ImageFormat.AVIF,
        encode_image(PHOTO, "AVIF", exif=exif_with_secret(6), xmp=XMP, icc_profile=PROFILE),
    ),
    "avif sequence": (
        ImageFormat.AVIF,
        encode_animation(FRAMES, "AVIF", duration=[10, 20, 30], exif=exif_with_secret(), xmp=XMP),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_strip_removes_metadata_and_keeps_pixels(name: str) -> None:
    image_format, data = FILES[name]
    out = strip(data, image_format)
    assert SECRET not in out
    assert len(out) <= len(data)
    if name == "mpo":
        assert read_frames(out)[0][0].tobytes() == read_frames(data)[0][0].tobytes()
        assert len(out) < len(data) * 0.6
    else:
        assert same_pixels(out, data)
    before, after = open_image(data), open_image(out)
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    assert after.info.get("loop") == before.info.get("loop")
    assert after.getexif().get(0x0112, 1) == before.getexif().get(0x0112, 1)
    assert after.info.get("adobe_transform") == before.info.get("adobe_transform")
    assert strip(out, image_format) == out


def test_strip_removes_jfif_thumbnail() -> None:
    data = encode_image(PHOTO, "JPEG")
    assert data[2:6] == b"\xff\xe0\x00\x10"
    thumbnail = SECRET * 3  # of 4 × 4 pixels
    head = b"\xff\xe0" + (16 + len(thumbnail)).to_bytes(2, "big") + data[6:18] + b"\4\4"
    assert strip(data[:2] + head + thumbnail + data[20:], ImageFormat.JPEG) == strip(
        data, ImageFormat.JPEG
    )


@pytest.mark.parametrize("name", FILES)
def test_strip_removes_data_after_end_of_image(name: str) -> None:
    image_format, data = FILES[name]
    if image_format is not ImageFormat.AVIF:
        assert strip(data + b"\xff\xd8" + SECRET * 10, image_format) == strip(data, image_format)


def test_strip_removes_unknown_gif_extensions() -> None:
    data = FILES["animated gif"][1]
    xmp = b"\x21\xff\x0bXMP DataXMP" + XMP + b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    start = data.index(b"\x21\xff\x0bNETSCAPE")
    assert strip(data[:start] + xmp + data[start:], ImageFormat.GIF) == strip(data, ImageFormat.GIF)


def test_strip_sets_vp8x_flags_for_remaining_chunks() -> None:
    for name in ("webp", "lossless", "animated webp"):
        out = strip(FILES[name][1], ImageFormat.WEBP)
        flags = out[20]
        assert bool(flags & 0x20) is (b"ICCP" in out)
        assert bool(flags & 0x08) is (b"EXIF" in out)
        assert not flags & 0x04
        assert int.from_bytes(out[4:8], "little") == len(out) - 8


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "avif"])
@given(share=st.floats(0, 1))
def test_strip_accepts_truncated_file(name: str, share: float) -> None:
    image_format, data = FILES[name]
    part = data[: int(len(data) * share)]
    assert len(strip(part, image_format)) <= len(part)


@given(st.binary(max_size=300))
def test_orientation_is_1_to_8_for_any_bytes(data: bytes) -> None:
    assert 1 <= exif.orientation(data) <= 8
    assert 1 <= exif.orientation(b"II*\0" + data) <= 8


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_reads_both_byte_orders(order: str, value: int) -> None:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    block = magic + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    assert exif.orientation(block) == value
    assert exif.orientation(b"Exif\0\0" + block) == value
    assert exif.orientation(exif.orientation_block(value)) == value


def test_segments_cover_complete_jpeg() -> None:
    for name in ("jpeg", "progressive", "cmyk"):
        data: Any = FILES[name][1]
        assert b"".join(data[s.start : s.end] for s in jpeg_segments.segments(data)) == data
