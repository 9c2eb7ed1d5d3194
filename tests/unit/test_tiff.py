"""Tests of TIFFs that Pillow's own reader decodes incorrectly."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.image_assertions import (
    compress,
    encode_animation,
    encode_image,
    mean_difference,
    open_image,
)
from tests.sample_images import photograph

PHOTO = photograph(5, 96, 64)


@pytest.mark.parametrize(("mode", "photometric"), [("RGB", 2), ("CMYK", 5)])
def test_compress_reads_tiff_with_separate_16_bit_planes(mode: str, photometric: int) -> None:
    bands = PHOTO.convert(mode).split()
    pixels = b"".join((np.asarray(band).astype("<u2") * 257).tobytes() for band in bands)
    count, size = len(bands), len(pixels) // len(bands)
    offsets = [8 + number * size for number in range(count)]
    end = 8 + len(pixels)
    lists = struct.pack(f"<{count}H{2 * count}I", *[16] * count, *offsets, *[size] * count)
    tags = [(256, 4, 1, PHOTO.width), (257, 4, 1, PHOTO.height), (258, 3, count, end)]
    tags += [(259, 4, 1, 1), (262, 4, 1, photometric), (273, 4, count, end + 2 * count)]
    tags += [
        (277, 4, 1, count),
        (278, 4, 1, PHOTO.height),
        (279, 4, count, end + 6 * count),
        (284, 4, 1, 2),
    ]
    head = struct.pack("<4sI", b"II*\0", end + len(lists))
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = head + pixels + lists + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert mean_difference(open_image(compress(data, 95).data), PHOTO) < 5


@pytest.mark.parametrize("target", ["keep", "jpeg", "webp", "avif", "png"])
def test_compress_ignores_damaged_second_page_of_tiff(target: str) -> None:
    grey = PHOTO.convert("L")
    grey.info = {}  # a profile would be converted
    data = bytearray(encode_animation([grey, grey], "TIFF"))
    second = data.rindex(struct.pack("<HHII", 257, 4, 1, grey.height))
    struct.pack_into("<H", data, second, 60_000)  # instead of the tag of the height
    assert mean_difference(open_image(compress(bytes(data), 95, target).data), grey) < 5


def test_compress_scales_8_bit_colour_map_of_tiff() -> None:
    data = encode_image(PHOTO.quantize(200), "TIFF")
    with Image.open(io.BytesIO(data)) as opened:
        levels = opened.getpalette() or []
    count = len(levels) // 3
    planes = [level for channel in range(3) for level in levels[channel::3]]
    start = data.index(struct.pack(f"<{count}H", *(level * 256 for level in planes[:count])))
    colour_map = struct.pack(f"<{len(planes)}H", *planes)
    damaged = data[:start] + colour_map + data[start + len(colour_map) :]
    found, expected = (open_image(compress(file, 95, "webp").data) for file in (damaged, data))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("kind", "notes"), [(0, ("first-frame",)), (2, ("first-frame",)), (1, ())])
def test_compress_notes_first_frame_of_tiff_if_second_page_is_no_preview(
    kind: int, notes: tuple[str, ...]
) -> None:
    page = PHOTO.copy()
    page.encoderinfo = {"tiffinfo": {254: kind}}
    data = encode_animation([PHOTO, page], "TIFF")
    assert compress(data).info.notes == notes
    assert compress(encode_image(PHOTO, "TIFF")).info.notes == ()
