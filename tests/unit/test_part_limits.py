"""Files with very many frames, scans or blocks are rejected before anything is decoded."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from PIL import Image

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.images import icc_parser, isobmff
from imgsvc.images.formats import gif, jpeg_segments, png_chunks, webp
from imgsvc.images.formats.base import DecodeLimits
from imgsvc.images.part_limits import MAX_BLOCKS, MAX_FRAMES, MAX_ITEMS, MAX_SCANS
from tests.image_assertions import compress, encode_animation, encode_image, without_native_module
from tests.sample_images import photograph

PHOTO = photograph(1, 48, 36)
JPEG = encode_image(PHOTO, "JPEG")
PNG = encode_image(PHOTO, "PNG")
GIF = encode_image(PHOTO, "GIF")
WEBP = encode_image(PHOTO, "WEBP")
AVIF = encode_image(PHOTO, "AVIF")
HEADER_END = 33
"""End of the header of a PNG."""


def scans(count: int) -> bytes:
    """Return a progressive JPEG with `count` scans, the last ones repeated."""
    data = encode_image(PHOTO, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - data.count(b"\xff\xda")) + data[-2:]


def animation(frames: int, file_format: str) -> bytes:
    """Return an animation of 1 × 1 pixels."""
    colours = [Image.new("RGB", (1, 1), (number % 2 * 255, 0, 0)) for number in range(frames)]
    return encode_animation(colours, file_format, duration=20)


def gif_animation(frames: int) -> bytes:
    """Return a GIF that repeats one frame. Pillow would merge them."""
    data = encode_image(Image.new("P", (1, 1)), "GIF")
    start = data.index(b",")
    return data[:start] + data[start:-1] * frames + b";"


def riff(chunks: bytes) -> bytes:
    """Return a WebP of 48 × 36 pixels with these chunks after its first one."""
    head = b"VP8X" + struct.pack("<I4x", 10) + b"\x2f\0\0\x23\0\0"
    return b"RIFF" + struct.pack("<I", 4 + len(head + chunks)) + b"WEBP" + head + chunks


def boxed(box_type: bytes, body: bytes) -> bytes:
    """Return a box of an AVIF."""
    return struct.pack(">I", 8 + len(body)) + box_type + body


def avif_with_items(count: int) -> bytes:
    """Return an AVIF that lists this number of items."""
    items = boxed(b"infe", b"\2\0\0\0\0\1\0\0Exif\0") * count
    content = boxed(b"iinf", bytes(4) + struct.pack(">H", count) + items)
    return AVIF[:32] + boxed(b"meta", bytes(4) + content) + AVIF[32:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "JPEG scans": lambda: scans(MAX_SCANS + 1),
    "JPEG scans, cut": lambda: scans(MAX_SCANS + 1)[:-2],
    "JPEG segments": lambda: JPEG[:2] + b"\xff\xe5\0\2" * MAX_BLOCKS + JPEG[2:],
    "JPEG markers": lambda: JPEG[:2] + b"\xff\xd0" * MAX_BLOCKS + JPEG[2:],
    "JPEG padding": lambda: JPEG[:2] + b"\xff" * (MAX_BLOCKS + 1) + JPEG[2:],
    "GIF frames": lambda: gif_animation(MAX_FRAMES + 1),
    "GIF extensions": lambda: GIF[:-1] + b"\x21\xfe\0" * MAX_BLOCKS + b";",
    "APNG frames": lambda: animation(MAX_FRAMES + 1, "PNG"),
    "APNG frame headers": lambda: (
        PNG[:HEADER_END]
        + png_chunks.build_chunk(b"acTL", bytes(8))
        + png_chunks.build_chunk(b"fcTL", struct.pack(">5I2H2B", 0, 1, 1, *(0,) * 6)) * 5_001
        + PNG[HEADER_END:]
    ),
    "PNG chunks": lambda: (
        PNG[:HEADER_END] + png_chunks.build_chunk(b"abCd", b"") * MAX_BLOCKS + PNG[HEADER_END:]
    ),
    "WebP frames": lambda: animation(MAX_FRAMES + 1, "WEBP"),
    "WebP chunks": lambda: riff(WEBP[12:] + b"abcd\0\0\0\0" * MAX_BLOCKS),
    "AVIF frames": lambda: animation(MAX_FRAMES + 1, "AVIF"),
    "AVIF boxes": lambda: AVIF + boxed(b"free", b"") * MAX_BLOCKS,
    "AVIF items": lambda: avif_with_items(MAX_ITEMS + 1),
}


@pytest.mark.parametrize("output_format", ["keep", "jpeg"])
@pytest.mark.parametrize("name", BOMBS)
def test_compress_rejects_image_with_too_many_parts(name: str, output_format: str) -> None:
    data = BOMBS[name]()
    with pytest.raises(ImageError) as caught:
        compress(data, output_format=output_format)
    assert caught.value.code is ImageErrorCode.TOO_MANY_PIXELS
    assert "The image has too many" in str(caught.value)


def test_compress_accepts_image_with_as_many_parts_as_allowed() -> None:
    for data in (scans(MAX_SCANS), gif_animation(MAX_FRAMES)):
        assert compress(data).info.width in {1, 48}
    with without_native_module():
        assert compress(scans(MAX_SCANS)).info.width == 48


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (gif.read, "GIF frames"),
        (png_chunks.read, "APNG frames"),
        (webp.read, "WebP frames"),
        (jpeg_segments.check_counts, "JPEG scans"),
        (isobmff.check, "AVIF items"),
    ],
)
def test_parser_stops_at_the_limit(read: Callable[[bytes], object], name: str) -> None:
    with pytest.raises(ImageError, match="too many"):
        read(BOMBS[name]())


def test_scans_of_images_after_the_first_do_not_count() -> None:
    data = encode_animation([PHOTO] * 3, "MPO", progressive=True)
    jpeg_segments.check_counts(data + scans(MAX_SCANS))
    assert compress(data + scans(MAX_SCANS)).info.width == 48


def test_decode_limits_count_frames() -> None:
    limits = DecodeLimits(10**9, animated=True)
    limits.check(1, 1, MAX_FRAMES)
    with pytest.raises(ImageError, match="frames"):
        limits.check(1, 1, MAX_FRAMES + 1)


def test_strip_avif_does_not_overwrite_the_same_bytes_again_and_again() -> None:
    """An item may list any number of extents, and each may be the whole file."""
    extents = struct.pack(">II", 0, 0) * 60_000
    location = b"\0\0\0\0\x44\0" + struct.pack(">HHHH", 1, 1, 0, 60_000) + extents
    item = boxed(b"infe", b"\2\0\0\0\0\1\0\0Exif\0")
    items = boxed(b"iinf", bytes(4) + b"\0\1" + item)
    data = AVIF[:32] + boxed(b"meta", bytes(4) + items + boxed(b"iloc", location)) + AVIF[32:]
    with pytest.raises(ImageError, match="overlaps"):
        isobmff.strip(data)


def test_icc_tags_cannot_share_bytes_without_limit() -> None:
    def profile(count: int) -> bytes:
        size = 100_000
        start = 132 + 12 * count
        tags = [
            struct.pack(">4sII", b"cicp" if not n else b"%04x" % n, start + n, size - start - n)
            for n in range(count)
        ]
        header = struct.pack(">I32x4s88xI", size, b"acsp", count)
        return (header + b"".join(tags)).ljust(size, b"x")

    for count in (3, 101):
        with pytest.raises(icc_parser.ProfileError):
            icc_parser._tags(profile(count))
    assert icc_parser._tags(profile(1)).keys() == {b"cicp"}
