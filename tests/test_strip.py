"""Metadata leaves a file; its picture, its colours and the way it is up stay."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from imgsvc.images import exif, jpeg
from imgsvc.images.sniff import Kind
from imgsvc.images.strip import strip
from tests.image_assertions import film, opened, saved, shown
from tests.sample_images import photograph

PHOTO = photograph(4, 120, 80)
PHOTO.info = {}
SECRET = b"51.4779N 0.0015W"
FRAMES = [photograph(number, 60, 40) for number in range(3)]
PROFILE = b"p" * 36 + b"acsp" + b"q" * 100


def secrets(orientation: int = 1) -> Image.Exif:
    about = Image.Exif()
    about[0x0112] = orientation
    about[0x010E] = SECRET.decode()
    return about


def same_pixels(one: bytes, other: bytes) -> bool:
    pairs = zip(shown(one), shown(other), strict=True)
    return all(
        a[1] == b[1] and ImageChops.difference(a[0], b[0]).getbbox(alpha_only=False) is None
        for a, b in pairs
    )


XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
INFO = PngInfo()
INFO.add_text("Comment", SECRET.decode())
INFO.add_itxt("XML:com.adobe.xmp", XMP.decode())

FILES: dict[str, tuple[Kind, bytes]] = {
    "jpeg": (
        Kind.JPEG,
        saved(PHOTO, "JPEG", exif=secrets(6), xmp=XMP, comment=SECRET, icc_profile=PROFILE),
    ),
    "progressive": (Kind.JPEG, saved(PHOTO, "JPEG", progressive=True, exif=secrets(), comment=SECRET)),
    "cmyk": (Kind.JPEG, saved(PHOTO.convert("CMYK"), "JPEG", exif=secrets(8))),
    "mpo": (Kind.JPEG, film([PHOTO, PHOTO], "MPO", exif=secrets(3))),
    "png": (Kind.PNG, saved(PHOTO, "PNG", exif=secrets(6), pnginfo=INFO, icc_profile=PROFILE)),
    "palette": (Kind.PNG, saved(PHOTO.quantize(8), "PNG", pnginfo=INFO, transparency=b"\0\x80")),
    "apng": (Kind.PNG, film(FRAMES, "PNG", duration=[10, 20, 30], pnginfo=INFO, loop=2)),
    "webp": (Kind.WEBP, saved(PHOTO, "WEBP", exif=secrets(6), xmp=XMP, icc_profile=PROFILE)),
    "plain webp": (Kind.WEBP, saved(PHOTO, "WEBP")),
    "lossless": (Kind.WEBP, saved(PHOTO, "WEBP", lossless=True, exif=secrets(), xmp=XMP)),
    "animated webp": (Kind.WEBP, film(FRAMES, "WEBP", duration=[10, 20, 30], xmp=XMP, loop=2)),
    "gif": (Kind.GIF, saved(PHOTO, "GIF", comment=SECRET)),
    "animated gif": (Kind.GIF, film(FRAMES, "GIF", duration=[10, 20, 30], comment=SECRET, loop=2)),
    "avif": (Kind.AVIF, saved(PHOTO, "AVIF", exif=secrets(6), xmp=XMP, icc_profile=PROFILE)),
    "avif sequence": (Kind.AVIF, film(FRAMES, "AVIF", duration=[10, 20, 30], exif=secrets(), xmp=XMP)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_secrets_go_and_the_picture_stays(name: str) -> None:
    kind, data = FILES[name]
    out = strip(data, kind)
    assert SECRET not in out
    assert len(out) <= len(data)
    if name == "mpo":
        assert shown(out)[0][0].tobytes() == shown(data)[0][0].tobytes()
        assert len(out) < len(data) * 0.6
    else:
        assert same_pixels(out, data)
    before, after = opened(data), opened(out)
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    assert after.info.get("loop") == before.info.get("loop")
    assert after.getexif().get(0x0112, 1) == before.getexif().get(0x0112, 1)
    assert after.info.get("adobe_transform") == before.info.get("adobe_transform")
    assert strip(out, kind) == out


def test_the_thumbnail_in_a_jfif_segment_goes() -> None:
    data = saved(PHOTO, "JPEG")
    assert data[2:6] == b"\xff\xe0\x00\x10"
    thumbnail = SECRET * 3  # of 4 × 4 pixels
    head = b"\xff\xe0" + (16 + len(thumbnail)).to_bytes(2, "big") + data[6:18] + b"\4\4"
    assert strip(data[:2] + head + thumbnail + data[20:], Kind.JPEG) == strip(data, Kind.JPEG)


@pytest.mark.parametrize("name", FILES)
def test_what_follows_the_end_goes_too(name: str) -> None:
    kind, data = FILES[name]
    if kind is not Kind.AVIF:
        assert strip(data + b"\xff\xd8" + SECRET * 10, kind) == strip(data, kind)


def test_foreign_gif_extensions_go() -> None:
    data = FILES["animated gif"][1]
    xmp = b"\x21\xff\x0bXMP DataXMP" + XMP + b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    start = data.index(b"\x21\xff\x0bNETSCAPE")
    assert strip(data[:start] + xmp + data[start:], Kind.GIF) == strip(data, Kind.GIF)


def test_vp8x_flags_tell_the_truth() -> None:
    for name in ("webp", "lossless", "animated webp"):
        out = strip(FILES[name][1], Kind.WEBP)
        flags = out[20]
        assert bool(flags & 0x20) is (b"ICCP" in out)
        assert bool(flags & 0x08) is (b"EXIF" in out)
        assert not flags & 0x04
        assert int.from_bytes(out[4:8], "little") == len(out) - 8


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "avif"])
@given(share=st.floats(0, 1))
def test_any_part_of_a_file_can_be_stripped(name: str, share: float) -> None:
    kind, data = FILES[name]
    part = data[: int(len(data) * share)]
    assert len(strip(part, kind)) <= len(part)


@given(st.binary(max_size=300))
def test_exif_of_any_bytes_has_an_orientation(data: bytes) -> None:
    assert 1 <= exif.orientation(data) <= 8
    assert 1 <= exif.orientation(b"II*\0" + data) <= 8


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_read_in_both_byte_orders(order: str, value: int) -> None:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    block = magic + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    assert exif.orientation(block) == value
    assert exif.orientation(b"Exif\0\0" + block) == value
    assert exif.orientation(exif.only_orientation(value)) == value


def test_segments_cover_a_whole_jpeg() -> None:
    for name in ("jpeg", "progressive", "cmyk"):
        data: Any = FILES[name][1]
        assert b"".join(data[s.start : s.end] for s in jpeg.segments(data)) == data
