"""Tests of BMPs that Pillow rejects: any colour masks, two bits per pixel, wrong numbers of colours."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import ImageFormat
from imgsvc.images.formats import CODECS
from imgsvc.images.formats.base import DecodeLimits

WIDTH, HEIGHT = 7, 5
BIT_FIELDS, ALPHA_BIT_FIELDS = 3, 6


def decode(data: bytes) -> Image.Image:
    return CODECS[ImageFormat.BMP].decode(data, DecodeLimits(10_000, animated=False)).first_image


def build_file(
    rows: bytes,
    depth: int,
    compression: int,
    extra: bytes,
    *,
    header_size: int = 40,
    height: int = HEIGHT,
    colours: int = 0,
) -> bytes:
    """Return a BMP. `extra` follows the 40 bytes of the header: masks or a palette."""
    start = 54 + len(extra)
    info = struct.pack(
        "<IiiHHIIiiII", header_size, WIDTH, height, 1, depth, compression, 0, 0, 0, colours, 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + extra + rows


def pack_rows(pixels: list[list[int]], depth: int) -> bytes:
    rows = b""
    for row in pixels:
        line = b"".join(value.to_bytes(depth // 8, "little") for value in row)
        rows += line + bytes(-len(line) % 4)
    return rows


def levels(mask: int, position: int) -> tuple[int, int]:
    """Return a value of a channel, shifted to its mask, and the level that it stands for."""
    if not mask:
        return 0, 0
    shift = (mask & -mask).bit_length() - 1
    largest = mask >> shift
    value = largest * position // (WIDTH + HEIGHT - 1)
    return value << shift, round(255 * value / largest)


MASKS = {
    "444": (16, (0xF00, 0xF0, 0xF, 0)),
    "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "565": (16, (0xF800, 0x7E0, 0x1F, 0)),
    "1555": (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    "231": (16, (0x30, 0xE, 0x1, 0)),
    "880": (16, (0xFF00, 0xFF, 0, 0)),
    "1924": (16, (0x800, 0x1FF, 0x600, 0xF000)),
    "8888 in another order": (32, (0xFF000000, 0xFF0, 0xFF0000, 0)),
    "11 11 10": (32, (0xFFE00000, 0x1FFC00, 0x3FF, 0)),
    "6 17 5 4": (32, (0xFC00000, 0x3FFFE0, 0x1F, 0xF0000000)),
    "8888 with alpha": (32, (0xFF000000, 0xFF00, 0xFF, 0xFF0000)),
}


@pytest.mark.parametrize("height", [HEIGHT, -HEIGHT])
@pytest.mark.parametrize("name", MASKS)
def test_decode_reads_any_colour_masks(name: str, height: int) -> None:
    depth, masks = MASKS[name]
    pixels, expected = [], {}
    for y in range(HEIGHT):
        row = []
        for x in range(WIDTH):
            found = [levels(mask, x + y + 1) for mask in masks]
            row.append(sum(value for value, _ in found))
            expected[x, y] = [level for _, level in found]
        pixels.append(row)
    rows = pack_rows(pixels if height < 0 else pixels[::-1], depth)
    extra = struct.pack("<4I", *masks)
    compression = ALPHA_BIT_FIELDS if masks[3] else BIT_FIELDS
    image = decode(build_file(rows, depth, compression, extra, height=height))
    assert image.mode == ("RGBA" if masks[3] else "RGB")
    for position, channels in expected.items():
        pixel = image.getpixel(position)
        assert isinstance(pixel, tuple)
        # Channels of more than 8 bits are cut, not rounded.
        assert all(abs(a - b) <= 1 for a, b in zip(pixel, channels, strict=False)), position


def test_decode_ignores_alpha_mask_outside_a_short_header() -> None:
    rows = pack_rows([[0xFFFF] * WIDTH] * HEIGHT, 16)
    masks = struct.pack("<4I", 0xF00, 0xF0, 0xF, 0xF000)
    image = decode(build_file(rows, 16, BIT_FIELDS, masks))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_decode_ignores_alpha_that_is_zero_everywhere() -> None:
    rows = pack_rows([[0xF00] * WIDTH] * HEIGHT, 16)
    masks = struct.pack("<4I", 0xF00, 0xF0, 0xF, 0xF000)
    image = decode(build_file(rows, 16, BIT_FIELDS, masks, header_size=56))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 0, 0))


def test_decode_reads_alpha_of_32_bits_with_version_5_header() -> None:
    rows = pack_rows([[0x80FF0000] * WIDTH] * HEIGHT, 32)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    extra = (masks + b"BGRs").ljust(84, b"\0")
    image = decode(build_file(rows, 32, 0, extra, header_size=124))
    assert (image.mode, image.getpixel((0, 0))) == ("RGBA", (255, 0, 0, 128))


def test_decode_reads_two_bits_per_pixel() -> None:
    palette = b"\x10\x20\x30\0\xff\0\0\0\0\xff\0\0\0\0\xff\0"
    row = bytes([0b00011011, 0b11100100, 0, 0])
    image = decode(build_file(row * HEIGHT, 2, 0, palette, colours=4))
    colours = [(48, 32, 16), (0, 0, 255), (0, 255, 0), (255, 0, 0)]
    assert [image.getpixel((x, 0)) for x in range(WIDTH)] == [*colours, *colours[:0:-1]]


@pytest.mark.parametrize("colours", [300, 2**31])
def test_decode_ignores_impossible_number_of_colours(colours: int) -> None:
    palette = b"".join(bytes([level, 0, 255 - level, 0]) for level in range(256))
    rows = bytes([1, 2, 3, 4, 5, 6, 7, 0]) * HEIGHT
    image = decode(build_file(rows, 8, 0, palette, colours=colours))
    assert image.getpixel((6, 0)) == (248, 0, 7)


def test_decode_rejects_missing_rows_and_accepts_missing_padding() -> None:
    rows = pack_rows([[0xF00] * WIDTH] * HEIGHT, 16)
    data = build_file(rows, 16, BIT_FIELDS, struct.pack("<3I", 0xF00, 0xF0, 0xF))
    assert decode(data[:-2]).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ImageError) as error_info:
        decode(data[:-3])
    assert error_info.value.code is ImageErrorCode.CORRUPT_IMAGE
