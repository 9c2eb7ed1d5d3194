"""Tests that compressed images look right: orientation, transparency, bit depth and animation."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from imgsvc.images import isobmff
from imgsvc.images.formats import CODECS, png_chunks
from imgsvc.images.formats.base import DecodeLimits
from imgsvc.images.sniff import sniff
from tests.image_assertions import (
    compress,
    encode_animation,
    encode_image,
    mean_difference,
    open_image,
    read_frames,
)
from tests.sample_images import photograph

PHOTO = photograph(5, 96, 64)
TARGETS = ["keep", "jpeg", "webp", "avif", "png"]
MAX_DIFFERENCE = 9.0


def exif_with_orientation(orientation: int) -> Image.Exif:
    """Return EXIF data with this orientation and a camera name."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A camera"
    return exif


# --- orientation -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_compress_applies_every_exif_orientation(
    file_format: str, orientation: int, target: str
) -> None:
    options: dict[str, Any] = {} if file_format in {"PNG", "TIFF"} else {"quality": 98}
    data = encode_image(PHOTO, file_format, exif=exif_with_orientation(orientation), **options)
    upright = ImageOps.exif_transpose(open_image(data))
    result = compress(data, output_format=target)
    assert (result.info.width, result.info.height) == upright.size
    assert_upright(result.data, upright, needs_transpose=result.info.kept)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_compress_keeps_orientation_of_kept_image(file_format: str, orientation: int) -> None:
    options: dict[str, Any] = {"quality": 5} if file_format != "PNG" else {}
    image = PHOTO if file_format != "PNG" else PHOTO.quantize(16)
    data = encode_image(image, file_format, exif=exif_with_orientation(orientation), **options)
    result = compress(data, 100, "keep" if file_format != "PNG" else "avif")
    assert result.info.kept or file_format == "PNG"
    upright = ImageOps.exif_transpose(open_image(data))
    assert (result.info.width, result.info.height) == upright.size
    if result.info.kept:
        assert b"A camera" not in result.data
        assert_upright(result.data, upright, needs_transpose=True)
        again = compress(result.data, 100)
        assert (again.info.width, again.info.height) == upright.size


def assert_upright(data: bytes, upright: Image.Image, *, needs_transpose: bool = False) -> None:
    """Check the image of a file. `needs_transpose` applies its EXIF orientation first."""
    image = open_image(data)
    if needs_transpose:
        image = ImageOps.exif_transpose(image)
    assert mean_difference(image, upright) < MAX_DIFFERENCE


def test_compress_applies_orientation_to_all_frames() -> None:
    frames = [photograph(n, 60, 40) for n in range(3)]
    for file_format in ("WEBP", "PNG"):
        data = encode_animation(frames, file_format, exif=exif_with_orientation(6), duration=100)
        result = compress(data, 90)
        assert (result.info.width, result.info.height) == (40, 60)
        upright = [frame.transpose(Image.Transpose.ROTATE_270) for frame in frames]
        for (actual, _), expected in zip(read_frames(result.data), upright, strict=True):
            actual_upright = (
                actual if actual.size == (40, 60) else actual.transpose(Image.Transpose.ROTATE_270)
            )
            assert mean_difference(actual_upright, expected) < MAX_DIFFERENCE


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_compress_ignores_invalid_orientation(value: int) -> None:
    result = compress(encode_image(PHOTO, "JPEG", exif=exif_with_orientation(value)))
    assert mean_difference(open_image(result.data), PHOTO) < MAX_DIFFERENCE


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_compress_ignores_damaged_exif(file_format: str) -> None:
    data = encode_image(PHOTO, file_format, exif=exif_with_orientation(1))
    magic = data.rindex(b"MM\0*", 0, data.index(b"A camera"))
    damaged = data[:magic] + b"junk" + data[magic + 4 :]
    assert mean_difference(open_image(compress(damaged).data), PHOTO) < MAX_DIFFERENCE


# --- alpha -------------------------------------------------------------------------------------


def sprite(mode: str = "RGBA") -> Image.Image:
    """Return a disc with soft edges on a transparent background."""
    alpha = Image.radial_gradient("L").resize((64, 64)).point([255] * 120 + [0] * 136)
    soft = alpha.resize((32, 32)).resize((64, 64), Image.Resampling.BILINEAR)
    image = photograph(7, 64, 64).convert("L" if mode == "LA" else "RGB")
    image.putalpha(soft)
    return image


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_compress_keeps_alpha_or_flattens_it_on_white(
    file_format: str, mode: str, target: str
) -> None:
    image = sprite(mode)
    data = encode_image(image, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    result = compress(data, output_format=target)
    actual = open_image(result.data)
    assert mean_difference(actual, image) < MAX_DIFFERENCE
    if result.info.output_format == "jpeg":
        assert all(value > 245 for value in actual.convert("RGB").getpixel((0, 0)))  # type: ignore[union-attr]
    else:
        assert mean_difference(alpha_of(actual), alpha_of(image)) < 6


def alpha_of(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").getchannel("A")


@pytest.mark.parametrize(
    "kind", ["index", "bytes", "grey", "rgb", "one", "grey16", "rgb16", "grey4"]
)
def test_decode_png_reads_every_kind_of_transparency(kind: str) -> None:
    image, data = transparent_png(kind)
    assert mean_difference(decode_first(data), image) == 0
    assert mean_difference(alpha_of(decode_first(data)), alpha_of(image)) == 0
    assert mean_difference(
        open_image(compress(data).data), decode_first(data)
    ) == 0 or kind.endswith(("16", "4"))


def decode_first(data: bytes) -> Image.Image:
    """Return the first frame as the service decodes it."""
    return CODECS[sniff(data)].decode(data, DecodeLimits(10**6, animated=True)).first_image


def transparent_png(kind: str) -> tuple[Image.Image, bytes]:
    """Return the expected image, whose left half is transparent, and a PNG of it."""
    left = Image.new("L", (64, 64), 255)
    left.paste(0, (0, 0, 32, 64))
    if kind in {"index", "bytes"}:
        indexed = Image.new("P", (64, 64), 1)
        indexed.paste(0, (0, 0, 32, 64))
        indexed.putpalette([10, 20, 30, 200, 100, 50])
        key: Any = 0 if kind == "index" else b"\0\x80"
        data = encode_image(indexed, "PNG", transparency=key)
        expected = Image.new("RGBA", (64, 64), (200, 100, 50, 255 if kind == "index" else 128))
        expected.paste((0, 0, 0, 0), (0, 0, 32, 64))
        return expected, data
    if kind == "grey16":
        values = np.full((64, 64), 0x8001, dtype=np.uint16)
        values[:, :32] = 0x8000
        expected = Image.merge("LA", (Image.new("L", (64, 64), 128), left))
        return expected, encode_image(Image.fromarray(values), "PNG", transparency=0x8000)
    if kind in {"grey", "one", "grey4"}:
        mode = "1" if kind == "one" else "L"
        grey = Image.new(mode, (64, 64), 255 if kind == "one" else 119)
        grey.paste(0, (0, 0, 32, 64))
        expected = Image.merge("LA", (grey.convert("L"), left))
        if kind == "grey4":
            return expected, raw_png(4, 0, bytes([0] * 16 + [0x77] * 16), b"\0\0")
        return expected, encode_image(grey, "PNG", transparency=0)
    expected = Image.new("RGB", (64, 64), (200, 100, 50))
    expected.putalpha(left)
    if kind == "rgb16":
        key = struct.pack(">3H", 0xFF00, 2, 0x0100)
        row = key * 32 + struct.pack(">3H", 51_400, 25_700, 12_850) * 32
        return expected, raw_png(16, 2, row, key)
    rgb = Image.new("RGB", (64, 64), (200, 100, 50))
    rgb.paste((1, 2, 3), (0, 0, 32, 64))
    return expected, encode_image(rgb, "PNG", transparency=(1, 2, 3))


def raw_png(depth: int, colour_type: int, row: bytes, key: bytes) -> bytes:
    """Return a PNG of 64 × 64 pixels whose rows are all equal, with the transparent colour `key`."""
    head = struct.pack(">IIBBBBB", 64, 64, depth, colour_type, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * 64)
    out = png_chunks.MAGIC
    for kind, data in ((b"IHDR", head), (b"tRNS", key), (b"IDAT", body), (b"IEND", b"")):
        out += len(data).to_bytes(4, "big") + kind + data
        out += zlib.crc32(kind + data).to_bytes(4, "big")
    return out


def test_compress_png_ignores_colours_of_transparent_pixels() -> None:
    image = sprite()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    hidden = Image.fromarray(noise).convert("RGBA")
    hidden.putalpha(0)
    hidden.paste(image, mask=image.getchannel("A").point([0] + [255] * 255))
    assert (
        mean_difference(open_image(compress(encode_image(hidden, "PNG")).data), image)
        < MAX_DIFFERENCE
    )


# --- depth -------------------------------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 65_535, 128).astype(np.uint16), (64, 1))
GREY = Image.fromarray((RAMP / 257).round().astype(np.uint8))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_decode_scales_16_bit_grey(file_format: str) -> None:
    data = encode_image(Image.fromarray(RAMP), file_format)
    assert mean_difference(decode_first(data), GREY) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_compress_preserves_16_bit_grey_photograph(target: str) -> None:
    grey = photograph(4, 240, 160).convert("L")
    noise = np.random.default_rng(1).integers(-128, 128, (160, 240))
    values = np.clip(np.asarray(grey).astype(np.int32) * 257 + noise, 0, 65_535).astype(np.uint16)
    actual = open_image(compress(encode_image(Image.fromarray(values), "PNG"), 95, target).data)
    assert mean_difference(actual, grey) < 3


def test_decode_reads_big_endian_and_inverted_16_bit_tiffs() -> None:
    big = tiff(RAMP.astype(">u2").tobytes(), 16, 1, order=">")
    inverted = tiff((65_535 - RAMP).astype("<u2").tobytes(), 16, 0)
    for data in (big, inverted):
        assert mean_difference(decode_first(data), GREY) == 0


def tiff(pixels: bytes, bits: int, photometric: int, order: str = "<") -> bytes:
    """Return a TIFF of 128 × 64 grey pixels in one strip."""
    tags = [(256, 128), (257, 64), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, 64), (279, len(pixels))]
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", 8 + len(pixels))
    return head + pixels + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def test_decode_reads_16_bit_rgb() -> None:
    row = b"".join(struct.pack(">3H", x * 1_000, 65_535 - x * 1_000, 40_000) for x in range(64))
    actual = decode_first(raw_png(16, 2, row, b""))
    expected = Image.new("RGB", (64, 64))
    for x in range(64):
        expected.paste((x * 1_000 >> 8, 255 - (x * 1_000 >> 8), 156), (x, 0, x + 1, 64))
    assert mean_difference(actual, expected) < 3


@pytest.mark.parametrize(
    ("scale", "mode"), [(1 / 65_535, "F"), (1 / 257, "F"), (1, "F"), (1_000, "F"), (1, "I")]
)
def test_decode_scales_float_and_32_bit_tiffs(scale: float, mode: str) -> None:
    image = Image.fromarray(
        (RAMP.astype(np.float64) * scale).astype(np.float32 if mode == "F" else np.int32)
    )
    assert image.mode == mode
    assert mean_difference(decode_first(encode_image(image, "TIFF")), GREY) < 0.6


def test_compress_accepts_float_tiff_of_nan() -> None:
    values = np.full((8, 8), np.nan, dtype=np.float32)
    assert compress(encode_image(Image.fromarray(values), "TIFF")).info.output_format == "jpeg"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_compress_preserves_images_of_every_basic_mode(
    mode: str, file_format: str, target: str
) -> None:
    image = PHOTO.convert(mode)
    data = encode_image(image, file_format)
    assert mean_difference(decode_first(data), image) == 0
    assert mean_difference(open_image(compress(data, 95, target).data), image) < 20


def test_compress_png_is_lossless_for_few_colours() -> None:
    image = PHOTO.quantize(100).convert("RGB")
    for file_format in ("PNG", "BMP"):
        actual = open_image(compress(encode_image(image, file_format), output_format="png").data)
        assert mean_difference(actual, image) == 0
    grey = PHOTO.convert("L").point([level // 4 * 4 for level in range(256)])
    assert mean_difference(open_image(compress(encode_image(grey, "PNG")).data), grey) == 0


def test_compress_reads_interlaced_png() -> None:
    data = bytearray(encode_image(Image.new("L", (1, 1), 77), "PNG"))
    data[28] = 1
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    assert open_image(compress(bytes(data), output_format="jpeg").data).size == (1, 1)


def test_compress_tiff_returns_its_first_page() -> None:
    result = compress(encode_animation([PHOTO, photograph(9, 20, 20)], "TIFF"))
    assert mean_difference(open_image(result.data), PHOTO) < MAX_DIFFERENCE


def test_compress_rejects_camera_raw_instead_of_using_its_thumbnail() -> None:
    tags = ImageFileDirectory_v2()
    tags[50706] = b"\1\4\0\0"
    with pytest.raises(Exception, match="Camera raw"):
        compress(encode_image(PHOTO, "TIFF", tiffinfo=tags))


# --- animation ---------------------------------------------------------------------------------

DURATIONS = [100, 200, 40, 500, 70]
ANIMATED_TARGETS = ["keep", "webp", "avif", "png"]


def moving_frames(mode: str) -> list[Image.Image]:
    """Return frames with a rectangle that moves over a photograph (RGB) or over transparency (RGBA)."""
    frames = []
    for number in range(len(DURATIONS)):
        background = photograph(3, 120, 80).convert("RGBA")
        frame = background if mode == "RGB" else Image.new("RGBA", (120, 80))
        frame.paste((220, 30 * number, 60, 255), (20 * number, 10, 20 * number + 30, 50))
        frames.append(frame.convert(mode))
    return frames


@pytest.mark.parametrize("target", ANIMATED_TARGETS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_compress_keeps_frames_and_durations_of_animation(
    file_format: str, mode: str, target: str
) -> None:
    frames = moving_frames(mode)
    options: dict[str, dict[str, Any]] = {"GIF": {"disposal": 2}, "WEBP": {"lossless": True}}
    data = encode_animation(frames, file_format, duration=DURATIONS, **options.get(file_format, {}))
    actual = read_frames(compress(data, 80, target).data)
    source = read_frames(data)
    assert [duration for _, duration in actual] == DURATIONS
    for (image, _), (expected, _) in zip(actual, source, strict=True):
        assert mean_difference(image, expected) < MAX_DIFFERENCE
        assert mean_difference(image.getchannel("A"), expected.getchannel("A")) < 3


@pytest.mark.parametrize("loop", [0, 1, 3])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_compress_keeps_play_count(file_format: str, loop: int) -> None:
    data = encode_animation(
        moving_frames("RGB"), file_format, duration=DURATIONS, loop=loop, quality=100
    )
    for target in ("keep", "png", "webp"):
        assert open_image(compress(data, output_format=target).data).info["loop"] == loop
    assert isobmff.play_count(compress(data, output_format="avif").data) == loop


@pytest.mark.parametrize("loop", [None, 0, 1, 3])
def test_compress_converts_gif_repeats_to_play_count(loop: int | None) -> None:
    options = {} if loop is None else {"loop": loop}
    data = encode_animation(moving_frames("RGB"), "GIF", duration=DURATIONS, **options)
    assert open_image(compress(data).data).info.get("loop") == loop
    plays = 1 if loop is None else loop + 1 if loop else 0
    assert open_image(compress(data, output_format="webp").data).info["loop"] == plays
    assert open_image(compress(data, output_format="png").data).info["loop"] == plays
    assert isobmff.play_count(compress(data, output_format="avif").data) == plays


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_compress_animation_to_jpeg_returns_first_frame(file_format: str) -> None:
    frames = moving_frames("RGB")
    actual = open_image(
        compress(encode_animation(frames, file_format, duration=50), 90, "jpeg").data
    )
    assert mean_difference(actual, frames[0]) < MAX_DIFFERENCE


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_compress_gif_applies_every_disposal_method(disposal: int) -> None:
    for mode in ("RGB", "RGBA"):
        if (mode, disposal) == ("RGB", 3):  # Pillow keeps such a first frame,
            continue  # browsers clear it
        data = encode_animation(moving_frames(mode), "GIF", duration=DURATIONS, disposal=disposal)
        actual = read_frames(compress(data, 90).data)
        assert [duration for _, duration in actual] == DURATIONS
        for (image, _), (expected, _) in zip(actual, read_frames(data), strict=True):
            assert mean_difference(image, expected) < MAX_DIFFERENCE
            assert mean_difference(image.getchannel("A"), expected.getchannel("A")) < 1


@pytest.mark.parametrize("blend", [0, 1])
@pytest.mark.parametrize("disposal", [0, 1, 2])
def test_compress_apng_applies_every_disposal_and_blend_method(disposal: int, blend: int) -> None:
    frames = moving_frames("RGBA")
    data = encode_animation(frames, "PNG", duration=DURATIONS, disposal=disposal, blend=blend)
    expected = [frame for frame, _ in read_frames(data)]
    if (disposal, blend) == (2, 1):  # Pillow does not undo the second frame
        expected = frames
    for (image, _), frame in zip(read_frames(compress(data, 90).data), expected, strict=True):
        assert mean_difference(image, frame) < MAX_DIFFERENCE


@pytest.mark.parametrize("quality", [1, 2, 50])
def test_compress_gif_clears_pixels_that_become_transparent(quality: int) -> None:
    frames = []
    for number in range(4):
        frame = Image.new("RGBA", (320, 240))
        frame.paste(photograph(3, 80, 60), (40 * number, 30 * number))
        frames.append(frame)
    data = encode_animation(frames, "GIF", duration=50, disposal=2)
    for (image, _), frame in zip(read_frames(compress(data, quality).data), frames, strict=True):
        assert mean_difference(alpha_of(image), alpha_of(frame)) == 0


def test_compress_keeps_total_duration_of_equal_frames() -> None:
    frames = [PHOTO, PHOTO, PHOTO, photograph(6, 96, 64)]
    for file_format in ("WEBP", "PNG", "GIF"):
        data = encode_animation(
            frames, file_format, duration=[100, 200, 300, 50], minimize_size=False
        )
        for target in ANIMATED_TARGETS:
            actual = read_frames(compress(data, 80, target).data)
            assert sum(duration for _, duration in actual) == 650
            assert mean_difference(actual[0][0], PHOTO) < MAX_DIFFERENCE
            assert mean_difference(actual[-1][0], frames[-1]) < MAX_DIFFERENCE


def test_compress_apng_ignores_hidden_default_image() -> None:
    frames = moving_frames("RGB")
    data = encode_animation(
        [PHOTO.resize((120, 80)), *frames], "PNG", default_image=True, duration=100
    )
    for target in ANIMATED_TARGETS:
        actual = read_frames(compress(data, 80, target).data)
        assert len(actual) == len(frames)
        assert mean_difference(actual[0][0], frames[0]) < MAX_DIFFERENCE
    assert mean_difference(open_image(compress(data, 80, "jpeg").data), frames[0]) < MAX_DIFFERENCE


def test_compress_gif_stores_only_changed_area_of_frames() -> None:
    frames = [photograph(3, 200, 150) for _ in range(10)]
    for number, frame in enumerate(frames):
        frame.paste((255, 0, 0), (number * 10, 10, number * 10 + 8, 18))
    still = compress(encode_image(frames[0], "GIF")).info.output_bytes
    assert compress(encode_animation(frames, "GIF", duration=50)).info.output_bytes < 1.5 * still


@pytest.mark.parametrize("duration", [65_535, 65_537, 100_123, 16_000_001])
@pytest.mark.parametrize("target", ANIMATED_TARGETS)
def test_compress_keeps_long_durations(duration: int, target: str) -> None:
    data = encode_animation(moving_frames("RGB"), "WEBP", duration=duration, quality=100)
    total = sum(each for _, each in read_frames(compress(data, 30, target).data))
    assert total == pytest.approx(5 * duration, rel=1e-3)


def test_compress_apng_keeps_durations_too_long_for_webp() -> None:
    data = encode_animation(moving_frames("RGB"), "PNG", duration=60_000_000)
    result = compress(data, 30)
    assert [duration for _, duration in read_frames(result.data)] == [60_000_000] * 5


def test_compress_rounds_fractional_durations_without_drift() -> None:
    data = encode_animation(moving_frames("RGB"), "PNG", duration=[1_000 / 30] * 5)
    for target in ("webp", "avif"):
        durations = [
            duration for _, duration in read_frames(compress(data, output_format=target).data)
        ]
        assert sum(durations) == 167
    assert read_frames(compress(data).data)[0][1] == pytest.approx(1_000 / 30, abs=0.01)
