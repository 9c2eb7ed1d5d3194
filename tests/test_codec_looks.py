"""What a person sees stays right: which way is up, alpha, depth, and every frame."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from imgsvc.images import isobmff, png
from imgsvc.images.decode import Limits, decode
from imgsvc.images.sniff import sniff
from tests.image_assertions import apart, compressed, film, opened, saved, shown
from tests.sample_images import photograph

PHOTO = photograph(5, 96, 64)
TARGETS = ["keep", "jpeg", "webp", "avif", "png"]
NEAR = 9.0


def exif_for(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A camera"
    return exif


# --- orientation -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_is_applied(form: str, orientation: int, target: str) -> None:
    options: dict[str, Any] = {} if form in {"PNG", "TIFF"} else {"quality": 98}
    data = saved(PHOTO, form, exif=exif_for(orientation), **options)
    upright = ImageOps.exif_transpose(opened(data))
    result = compressed(data, form=target)
    assert (result.info.width, result.info.height) == upright.size
    assert_upright(result.data, upright, turned=result.info.kept)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_kept_picture_stays_upright(form: str, orientation: int) -> None:
    options: dict[str, Any] = {"quality": 5} if form != "PNG" else {}
    image = PHOTO if form != "PNG" else PHOTO.quantize(16)
    data = saved(image, form, exif=exif_for(orientation), **options)
    result = compressed(data, 100, "keep" if form != "PNG" else "avif")
    assert result.info.kept or form == "PNG"
    upright = ImageOps.exif_transpose(opened(data))
    assert (result.info.width, result.info.height) == upright.size
    if result.info.kept:
        assert b"A camera" not in result.data
        assert_upright(result.data, upright, turned=True)
        again = compressed(result.data, 100)
        assert (again.info.width, again.info.height) == upright.size


def assert_upright(data: bytes, upright: Image.Image, *, turned: bool = False) -> None:
    shown_image = opened(data)
    if turned:
        shown_image = ImageOps.exif_transpose(shown_image)
    assert apart(shown_image, upright) < NEAR


def test_a_still_in_an_animated_format_is_turned_too() -> None:
    frames = [photograph(n, 60, 40) for n in range(3)]
    for form in ("WEBP", "PNG"):
        data = film(frames, form, exif=exif_for(6), duration=100)
        result = compressed(data, 90)
        assert (result.info.width, result.info.height) == (40, 60)
        expected = [frame.transpose(Image.Transpose.ROTATE_270) for frame in frames]
        for (got, _), wanted in zip(shown(result.data), expected, strict=True):
            got_upright = got if got.size == (40, 60) else got.transpose(Image.Transpose.ROTATE_270)
            assert apart(got_upright, wanted) < NEAR


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_senseless_orientations_mean_upright(value: int) -> None:
    result = compressed(saved(PHOTO, "JPEG", exif=exif_for(value)))
    assert apart(opened(result.data), PHOTO) < NEAR


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_damaged_exif_is_no_damage_to_the_picture(form: str) -> None:
    data = saved(PHOTO, form, exif=exif_for(1))
    magic = data.rindex(b"MM\0*", 0, data.index(b"A camera"))
    damaged = data[:magic] + b"junk" + data[magic + 4 :]
    assert apart(opened(compressed(damaged).data), PHOTO) < NEAR


# --- alpha -------------------------------------------------------------------------------------


def sprite(mode: str = "RGBA") -> Image.Image:
    """A disc with soft edges, transparent around it."""
    alpha = Image.radial_gradient("L").resize((64, 64)).point([255] * 120 + [0] * 136)
    soft = alpha.resize((32, 32)).resize((64, 64), Image.Resampling.BILINEAR)
    image = photograph(7, 64, 64).convert("L" if mode == "LA" else "RGB")
    image.putalpha(soft)
    return image


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_is_kept_or_goes_onto_white(form: str, mode: str, target: str) -> None:
    image = sprite(mode)
    data = saved(image, form, **({"lossless": True} if form == "WEBP" else {}))
    result = compressed(data, form=target)
    got = opened(result.data)
    assert apart(got, image) < NEAR
    if result.info.output_format == "jpeg":
        assert all(value > 245 for value in got.convert("RGB").getpixel((0, 0)))  # type: ignore[union-attr]
    else:
        assert apart(alpha_of(got), alpha_of(image)) < 6


def alpha_of(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").getchannel("A")


@pytest.mark.parametrize(
    "kind", ["index", "bytes", "grey", "rgb", "one", "grey16", "rgb16", "grey4"]
)
def test_every_way_in_which_a_png_is_transparent(kind: str) -> None:
    image, data = transparent_png(kind)
    assert apart(decoded(data), image) == 0
    assert apart(alpha_of(decoded(data)), alpha_of(image)) == 0
    assert apart(opened(compressed(data).data), decoded(data)) == 0 or kind.endswith(("16", "4"))


def decoded(data: bytes) -> Image.Image:
    return decode(data, sniff(data), Limits(10**6, animated=True)).first


def transparent_png(kind: str) -> tuple[Image.Image, bytes]:
    """What is to be seen, and a PNG of it: the left half transparent."""
    left = Image.new("L", (64, 64), 255)
    left.paste(0, (0, 0, 32, 64))
    if kind in {"index", "bytes"}:
        indexed = Image.new("P", (64, 64), 1)
        indexed.paste(0, (0, 0, 32, 64))
        indexed.putpalette([10, 20, 30, 200, 100, 50])
        key: Any = 0 if kind == "index" else b"\0\x80"
        data = saved(indexed, "PNG", transparency=key)
        seen = Image.new("RGBA", (64, 64), (200, 100, 50, 255 if kind == "index" else 128))
        seen.paste((0, 0, 0, 0), (0, 0, 32, 64))
        return seen, data
    if kind == "grey16":
        values = np.full((64, 64), 0x8001, dtype=np.uint16)
        values[:, :32] = 0x8000
        seen = Image.merge("LA", (Image.new("L", (64, 64), 128), left))
        return seen, saved(Image.fromarray(values), "PNG", transparency=0x8000)
    if kind in {"grey", "one", "grey4"}:
        mode = "1" if kind == "one" else "L"
        grey = Image.new(mode, (64, 64), 255 if kind == "one" else 119)
        grey.paste(0, (0, 0, 32, 64))
        seen = Image.merge("LA", (grey.convert("L"), left))
        if kind == "grey4":
            return seen, raw_png(4, 0, bytes([0] * 16 + [0x77] * 16), b"\0\0")
        return seen, saved(grey, "PNG", transparency=0)
    seen = Image.new("RGB", (64, 64), (200, 100, 50))
    seen.putalpha(left)
    if kind == "rgb16":
        key = struct.pack(">3H", 0xFF00, 2, 0x0100)
        row = key * 32 + struct.pack(">3H", 51_400, 25_700, 12_850) * 32
        return seen, raw_png(16, 2, row, key)
    rgb = Image.new("RGB", (64, 64), (200, 100, 50))
    rgb.paste((1, 2, 3), (0, 0, 32, 64))
    return seen, saved(rgb, "PNG", transparency=(1, 2, 3))


def raw_png(depth: int, colour_type: int, row: bytes, key: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", 64, 64, depth, colour_type, 0, 0, 0)
    body = zlib.compress((b"\0" + row) * 64)
    out = png.MAGIC
    for kind, data in ((b"IHDR", head), (b"tRNS", key), (b"IDAT", body), (b"IEND", b"")):
        out += len(data).to_bytes(4, "big") + kind + data
        out += zlib.crc32(kind + data).to_bytes(4, "big")
    return out


def test_transparent_pixels_cost_no_palette_entries() -> None:
    image = sprite()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    hidden = Image.fromarray(noise).convert("RGBA")
    hidden.putalpha(0)
    hidden.paste(image, mask=image.getchannel("A").point([0] + [255] * 255))
    assert apart(opened(compressed(saved(hidden, "PNG")).data), image) < NEAR


# --- depth -------------------------------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 65_535, 128).astype(np.uint16), (64, 1))
GREY = Image.fromarray((RAMP / 257).round().astype(np.uint8))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_greys_are_scaled(form: str) -> None:
    data = saved(Image.fromarray(RAMP), form)
    assert apart(decoded(data), GREY) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_16_bit_photographs(target: str) -> None:
    grey = photograph(4, 240, 160).convert("L")
    noise = np.random.default_rng(1).integers(-128, 128, (160, 240))
    deep = np.clip(np.asarray(grey).astype(np.int32) * 257 + noise, 0, 65_535).astype(np.uint16)
    got = opened(compressed(saved(Image.fromarray(deep), "PNG"), 95, target).data)
    assert apart(got, grey) < 3


def test_16_bit_big_endian_and_inverted_and_12_bit_tiffs() -> None:
    big = tiff(RAMP.astype(">u2").tobytes(), 16, 1, order=">")
    inverted = tiff((65_535 - RAMP).astype("<u2").tobytes(), 16, 0)
    for data in (big, inverted):
        assert apart(decoded(data), GREY) == 0


def tiff(pixels: bytes, bits: int, photometric: int, order: str = "<") -> bytes:
    """A TIFF of 128 × 64 grey pixels in one strip."""
    tags = [(256, 128), (257, 64), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, 64), (279, len(pixels))]
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(order + "I", 8 + len(pixels))
    return head + pixels + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def test_16_bit_colours() -> None:
    row = b"".join(struct.pack(">3H", x * 1_000, 65_535 - x * 1_000, 40_000) for x in range(64))
    got = decoded(raw_png(16, 2, row, b""))
    seen = Image.new("RGB", (64, 64))
    for x in range(64):
        seen.paste((x * 1_000 >> 8, 255 - (x * 1_000 >> 8), 156), (x, 0, x + 1, 64))
    assert apart(got, seen) < 3


@pytest.mark.parametrize(
    ("scale", "mode"), [(1 / 65_535, "F"), (1 / 257, "F"), (1, "F"), (1_000, "F"), (1, "I")]
)
def test_fractions_and_large_numbers_are_scaled(scale: float, mode: str) -> None:
    image = Image.fromarray(
        (RAMP.astype(np.float64) * scale).astype(np.float32 if mode == "F" else np.int32)
    )
    assert image.mode == mode
    assert apart(decoded(saved(image, "TIFF")), GREY) < 0.6


def test_fractions_that_are_no_numbers_do_no_harm() -> None:
    values = np.full((8, 8), np.nan, dtype=np.float32)
    assert compressed(saved(Image.fromarray(values), "TIFF")).info.output_format == "jpeg"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_plain_modes(mode: str, form: str, target: str) -> None:
    image = PHOTO.convert(mode)
    data = saved(image, form)
    assert apart(decoded(data), image) == 0
    assert apart(opened(compressed(data, 95, target).data), image) < 20


def test_few_colours_come_out_exactly() -> None:
    image = PHOTO.quantize(100).convert("RGB")
    for form in ("PNG", "BMP"):
        got = opened(compressed(saved(image, form), form="png").data)
        assert apart(got, image) == 0
    grey = PHOTO.convert("L").point([level // 4 * 4 for level in range(256)])
    assert apart(opened(compressed(saved(grey, "PNG")).data), grey) == 0


def test_interlaced_pngs() -> None:
    data = bytearray(saved(Image.new("L", (1, 1), 77), "PNG"))
    data[28] = 1
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    assert opened(compressed(bytes(data), form="jpeg").data).size == (1, 1)


def test_a_tiffs_first_page() -> None:
    result = compressed(film([PHOTO, photograph(9, 20, 20)], "TIFF"))
    assert apart(opened(result.data), PHOTO) < NEAR


def test_a_raws_thumbnail_is_not_taken_for_the_picture() -> None:
    tags = ImageFileDirectory_v2()
    tags[50706] = b"\1\4\0\0"
    with pytest.raises(Exception, match="raw picture"):
        compressed(saved(PHOTO, "TIFF", tiffinfo=tags))


# --- animation ---------------------------------------------------------------------------------

DURATIONS = [100, 200, 40, 500, 70]
ANIMATED = ["keep", "webp", "avif", "png"]


def moving(mode: str) -> list[Image.Image]:
    """A disc that moves over a photograph, or over nothing."""
    frames = []
    for number in range(len(DURATIONS)):
        under = photograph(3, 120, 80).convert("RGBA")
        frame = under if mode == "RGB" else Image.new("RGBA", (120, 80))
        frame.paste((220, 30 * number, 60, 255), (20 * number, 10, 20 * number + 30, 50))
        frames.append(frame.convert(mode))
    return frames


@pytest.mark.parametrize("target", ANIMATED)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animations_keep_frames_and_times(form: str, mode: str, target: str) -> None:
    frames = moving(mode)
    options: dict[str, dict[str, Any]] = {"GIF": {"disposal": 2}, "WEBP": {"lossless": True}}
    data = film(frames, form, duration=DURATIONS, **options.get(form, {}))
    got = shown(compressed(data, 80, target).data)
    source = shown(data)
    assert [duration for _, duration in got] == DURATIONS
    for (image, _), (wanted, _) in zip(got, source, strict=True):
        assert apart(image, wanted) < NEAR
        assert apart(image.getchannel("A"), wanted.getchannel("A")) < 3


@pytest.mark.parametrize("loop", [0, 1, 3])
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_loops_are_kept(form: str, loop: int) -> None:
    data = film(moving("RGB"), form, duration=DURATIONS, loop=loop, quality=100)
    for target in ("keep", "png", "webp"):
        assert opened(compressed(data, form=target).data).info["loop"] == loop
    assert isobmff.plays(compressed(data, form="avif").data) == loop


@pytest.mark.parametrize("loop", [None, 0, 1, 3])
def test_a_gif_counts_its_repeats_others_their_runs(loop: int | None) -> None:
    options = {} if loop is None else {"loop": loop}
    data = film(moving("RGB"), "GIF", duration=DURATIONS, **options)
    assert opened(compressed(data).data).info.get("loop") == loop
    runs = 1 if loop is None else loop + 1 if loop else 0
    assert opened(compressed(data, form="webp").data).info["loop"] == runs
    assert opened(compressed(data, form="png").data).info["loop"] == runs
    assert isobmff.plays(compressed(data, form="avif").data) == runs


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_the_first_frame_goes_into_a_format_without_animation(form: str) -> None:
    frames = moving("RGB")
    got = opened(compressed(film(frames, form, duration=50), 90, "jpeg").data)
    assert apart(got, frames[0]) < NEAR


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_gifs_with_every_disposal(disposal: int) -> None:
    for mode in ("RGB", "RGBA"):
        if (mode, disposal) == ("RGB", 3):  # Pillow reads a first frame of this kind as kept;
            continue  # browsers clear it
        data = film(moving(mode), "GIF", duration=DURATIONS, disposal=disposal)
        got = shown(compressed(data, 90).data)
        assert [duration for _, duration in got] == DURATIONS
        for (image, _), (wanted, _) in zip(got, shown(data), strict=True):
            assert apart(image, wanted) < NEAR
            assert apart(image.getchannel("A"), wanted.getchannel("A")) < 1


@pytest.mark.parametrize("blend", [0, 1])
@pytest.mark.parametrize("disposal", [0, 1, 2])
def test_apngs_with_every_disposal_and_blend(disposal: int, blend: int) -> None:
    frames = moving("RGBA")
    data = film(frames, "PNG", duration=DURATIONS, disposal=disposal, blend=blend)
    wanted = [frame for frame, _ in shown(data)]
    if (disposal, blend) == (2, 1):  # Pillow forgets to undo the second frame
        wanted = frames
    for (image, _), frame in zip(shown(compressed(data, 90).data), wanted, strict=True):
        assert apart(image, frame) < NEAR


@pytest.mark.parametrize("quality", [1, 2, 50])
def test_what_vanishes_from_a_gif_is_transparent_to_every_reader(quality: int) -> None:
    frames = []
    for number in range(4):
        frame = Image.new("RGBA", (320, 240))
        frame.paste(photograph(3, 80, 60), (40 * number, 30 * number))
        frames.append(frame)
    data = film(frames, "GIF", duration=50, disposal=2)
    for (image, _), frame in zip(shown(compressed(data, quality).data), frames, strict=True):
        assert apart(alpha_of(image), alpha_of(frame)) == 0


def test_equal_frames_keep_their_time() -> None:
    frames = [PHOTO, PHOTO, PHOTO, photograph(6, 96, 64)]
    for form in ("WEBP", "PNG", "GIF"):
        data = film(frames, form, duration=[100, 200, 300, 50], minimize_size=False)
        for target in ANIMATED:
            got = shown(compressed(data, 80, target).data)
            assert sum(duration for _, duration in got) == 650
            assert apart(got[0][0], PHOTO) < NEAR
            assert apart(got[-1][0], frames[-1]) < NEAR


def test_a_hidden_default_picture_of_an_apng_is_not_shown() -> None:
    frames = moving("RGB")
    data = film([PHOTO.resize((120, 80)), *frames], "PNG", default_image=True, duration=100)
    for target in ANIMATED:
        got = shown(compressed(data, 80, target).data)
        assert len(got) == len(frames)
        assert apart(got[0][0], frames[0]) < NEAR
    assert apart(opened(compressed(data, 80, "jpeg").data), frames[0]) < NEAR


def test_frames_that_change_little_cost_little() -> None:
    frames = [photograph(3, 200, 150) for _ in range(10)]
    for number, frame in enumerate(frames):
        frame.paste((255, 0, 0), (number * 10, 10, number * 10 + 8, 18))
    still = compressed(saved(frames[0], "GIF")).info.output_bytes
    assert compressed(film(frames, "GIF", duration=50)).info.output_bytes < 1.5 * still


@pytest.mark.parametrize("duration", [65_535, 65_537, 100_123, 16_000_001])
@pytest.mark.parametrize("target", ANIMATED)
def test_long_durations(duration: int, target: str) -> None:
    data = film(moving("RGB"), "WEBP", duration=duration, quality=100)
    total = sum(shown_for for _, shown_for in shown(compressed(data, 30, target).data))
    assert total == pytest.approx(5 * duration, rel=1e-3)


def test_an_animation_too_long_for_webp_stays_in_its_own_format() -> None:
    data = film(moving("RGB"), "PNG", duration=60_000_000)
    result = compressed(data, 30, "webp")
    assert result.info.output_format == "png"
    assert [duration for _, duration in shown(result.data)] == [60_000_000] * 5


def test_fractions_of_milliseconds_add_up() -> None:
    data = film(moving("RGB"), "PNG", duration=[1_000 / 30] * 5)
    for target in ("webp", "avif"):
        durations = [duration for _, duration in shown(compressed(data, form=target).data)]
        assert sum(durations) == 167
    assert shown(compressed(data).data)[0][1] == pytest.approx(1_000 / 30, abs=0.01)
