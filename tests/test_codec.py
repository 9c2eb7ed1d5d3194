"""Half the quality, in which format, never larger, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressionSettings, OutputFormat, Quality
from imgsvc.images import png
from imgsvc.images.codec import compress_image, warm_up
from imgsvc.images.sniff import Kind, sniff
from tests.image_assertions import apart, compressed, film, opened, saved, shown
from tests.sample_images import encoded, photograph

PHOTO = photograph(1)
SOURCES = {
    "jpeg": saved(PHOTO, "JPEG", quality=90),
    "png": saved(PHOTO, "PNG"),
    "webp": saved(PHOTO, "WEBP", quality=95),
    "gif": saved(PHOTO, "GIF"),
    "avif": saved(PHOTO, "AVIF", quality=95),
    "bmp": saved(PHOTO, "BMP"),
    "tiff": saved(PHOTO, "TIFF"),
}


def refused(data: bytes, max_pixels: int = 10**6, **settings: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        compress_image(data, CompressionSettings(**settings), max_pixels)
    assert caught.value.message[0].isupper()
    assert not caught.value.message.endswith("Error")
    return caught.value


# --- quality -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved_at", "asked", "used"),
    [(90, "50%", 45), (75, "50%", 38), (88, "25%", 22), (100, "50%", 50), (90, 30, 30)],
)
def test_a_jpeg_comes_out_at_its_share(saved_at: int, asked: str | int, used: int) -> None:
    result = compressed(saved(PHOTO, "JPEG", quality=saved_at), asked)
    assert result.info.source_quality == saved_at
    assert result.info.quality == used
    assert not result.info.kept
    again = compressed(result.data)
    assert again.info.source_quality == used


@pytest.mark.parametrize("kind", ["png", "webp", "gif", "avif", "bmp", "tiff"])
def test_formats_that_record_no_quality_count_as_100(kind: str) -> None:
    picture = compressed(SOURCES[kind]).info
    assert picture.source_quality is None
    assert picture.quality == 50


def test_webp_and_avif_and_jpeg_use_the_number() -> None:
    for form in ("jpeg", "webp", "avif"):
        sizes = [compressed(SOURCES["png"], q, form).info.output_bytes for q in (10, 50, 90)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[2] / 2
    assert compressed(compressed(SOURCES["png"], 50, "jpeg").data).info.source_quality == 50


@pytest.mark.parametrize(("quality", "colours"), [("50%", 128), (10, 25), (1, 2), (100, 256)])
@pytest.mark.parametrize("kind", ["png", "gif"])
def test_palettes_have_their_share_of_256(kind: str, quality: str | int, colours: int) -> None:
    image = opened(compressed(SOURCES[kind], quality).data)
    found = image.getcolors(257)
    assert found is not None
    assert colours // 2 < len(found) <= colours


def test_progressive_is_a_setting() -> None:
    for progressive in (False, True):
        result = compress_image(
            SOURCES["jpeg"], CompressionSettings(progressive=progressive), 10**6
        )
        assert bool(opened(result.data).info.get("progressive")) is progressive


def test_jpeg_is_optimised() -> None:
    assert len(compressed(SOURCES["jpeg"]).data) < 0.95 * len(
        saved(opened(SOURCES["jpeg"]), "JPEG", quality=45)
    )


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["keep", "jpeg", "webp", "avif", "png"])
@pytest.mark.parametrize("kind", SOURCES)
def test_each_format_into_each(kind: str, form: str) -> None:
    result = compressed(SOURCES[kind], form=form)
    picture = result.info
    expected = form if form != "keep" else {"bmp": "jpeg", "tiff": "jpeg"}.get(kind, kind)
    if picture.kept:
        assert form != kind
        expected = kind
    assert picture.input_format == kind
    assert picture.output_format == expected == sniff(result.data)
    assert (picture.width, picture.height) == PHOTO.size == opened(result.data).size
    assert len(result.data) <= len(SOURCES[kind])
    assert apart(opened(result.data), PHOTO) < 8


@pytest.mark.parametrize("form", ["BMP", "TIFF"])
def test_bmp_and_tiff_with_transparency_become_png(form: str) -> None:
    image = PHOTO.convert("RGBA")
    image.paste((0, 0, 0, 0), (10, 10, 60, 60))
    data = saved(image, form)
    if form == "BMP":  # Pillow writes no alpha mask into the header; BITMAPV4HEADER has one
        data = bmp_with_alpha(image)
    result = compressed(data)
    assert result.info.output_format == "png"
    assert opened(result.data).convert("RGBA").getpixel((20, 20))[3] == 0  # type: ignore[index]
    opaque = PHOTO.convert("RGBA")
    data = bmp_with_alpha(opaque) if form == "BMP" else saved(opaque, form)
    assert compressed(data).info.output_format == "jpeg"


def bmp_with_alpha(image: Image.Image) -> bytes:
    rows = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    numbers = (108, image.width, image.height, 1 | 32 << 16, 3, len(rows), 0, 0, 0, 0)
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = b"".join(n.to_bytes(4, "little") for n in numbers + masks).ljust(108, b"\0")
    size = (14 + 108 + len(rows)).to_bytes(4, "little")
    return b"BM" + size + bytes(4) + (122).to_bytes(4, "little") + head + rows


def test_a_bmp_whose_alpha_is_all_zero_is_opaque() -> None:
    result = compressed(
        bmp_with_alpha(Image.merge("RGBA", (*PHOTO.split(), Image.new("L", PHOTO.size))))
    )
    assert result.info.output_format == "jpeg"
    assert apart(opened(result.data), PHOTO) < 8


def test_the_first_picture_of_an_mpo() -> None:
    data = film([PHOTO, photograph(2)], "MPO", quality=90)
    result = compressed(data)
    assert result.info.input_format == result.info.output_format == "jpeg"
    assert apart(opened(result.data), PHOTO) < 8


@pytest.mark.parametrize(("kind", "size"), [("jpeg", (20_000, 4)), ("png", (4, 17_000))])
def test_a_picture_too_large_for_the_output_stays_in_its_own(
    kind: str, size: tuple[int, int]
) -> None:
    data = saved(PHOTO.resize(size), kind, **({"quality": 95} if kind == "jpeg" else {}))
    assert compressed(data, form="webp").info.output_format == kind
    assert compressed(saved(PHOTO.resize((70_000, 4)), "BMP")).info.output_format == "png"


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_an_animation_too_large_for_the_output_stays_one(form: str) -> None:
    frames = [photograph(number, 65_501, 2) for number in range(3)]
    result = compressed(film(frames, form, duration=50), 10, "jpeg")
    assert result.info.output_format == form.lower()
    assert not result.info.kept
    assert len(shown(result.data)) == 3


@pytest.mark.parametrize(("width", "expected"), [(32_768, "avif"), (32_769, "jpeg")])
def test_an_avif_is_no_larger_than_what_its_readers_take(width: int, expected: str) -> None:
    result = compressed(saved(PHOTO.resize((width, 4)), "JPEG", quality=95), form="avif")
    assert result.info.output_format == expected
    assert opened(result.data).size == (width, 4)


# --- never larger ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [form.value for form in OutputFormat])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "avif"])
def test_what_gains_nothing_is_kept(kind: str, form: str) -> None:
    small = compressed(SOURCES[kind], 5, kind if kind != "gif" else "keep").data
    result = compressed(small, 100, form)
    if result.info.kept:
        assert result.info.quality is None
        assert result.info.output_format == kind
        assert result.data == small
    assert len(result.data) <= len(small)


def test_low_quality_sources_do_not_grow() -> None:
    result = compressed(saved(PHOTO, "JPEG", quality=20), 50)
    assert result.info.kept
    assert result.info.source_quality == 20


def test_metadata_does_not_hide_that_nothing_was_gained() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    data = saved(PHOTO, "JPEG", quality=20, exif=exif)
    result = compressed(data, 50)
    assert result.info.kept
    assert len(result.data) < len(data) - 60_000


def test_tiny_bmps_and_tiffs_may_grow() -> None:
    for form in ("BMP", "TIFF"):
        result = compressed(saved(Image.new("RGB", (1, 1)), form))
        assert not result.info.kept
        assert result.info.output_format == "jpeg"


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- " + b"x" * 5_000 + b" --><svg width='1'></svg>", "SVG"),
        ("<?xml version='1.0'?><svg/>".encode("utf-16"), "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\x01" + bytes(30), "PSD"),
        (b"8BPS\0\x02" + bytes(30), "PSB"),
        (saved(PHOTO, "ICO"), "ICO"),
        (b"\0\0\x02\0\x01\0" + bytes(30), "CUR"),
        (saved(PHOTO, "JPEG2000"), "JPEG 2000"),
        (b"\xff\x0a" + bytes(30), "JPEG XL"),
        (b"II\xbc\x01" + bytes(30), "JPEG XR"),
        (saved(PHOTO, "PPM"), "PNM"),
        (saved(PHOTO, "TGA"), "TGA"),
        (saved(PHOTO, "PCX"), "PCX"),
        (saved(PHOTO, "DDS"), "DDS"),
        (saved(PHOTO, "SGI"), "SGI"),
        (saved(PHOTO.convert("1"), "XBM"), "XBM"),
        (saved(PHOTO, "ICNS"), "ICNS"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"II*\0\x10\0\0\0CR\x02\0", "CR2"),
        (b"\xff\xd8\xff\xf7" + bytes(30), "JPEG-LS"),
    ],
)
def test_pictures_that_are_not_read_are_named(data: bytes, word: str) -> None:
    error = refused(data)
    assert error.code is ImageErrorCode.UNSUPPORTED_FORMAT
    assert word in error.message


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"  \r\n", "empty"),
        (b"<!DOCTYPE html><html><body>Not found <svg></svg></body>", "web page"),
        (b"\xef\xbb\xbf <html>", "web page"),
        (b'{"error": "no such image"}', "JSON"),
        (b"Not found\n", "text"),
        (b"BMW is a car", "text"),
        (b"<rss></rss>", "XML"),
        (b"PK\x03\x04" + bytes(20), "ZIP"),
        (b"\0\0\0\x20ftypisom" + bytes(20), "video"),
        (bytes(range(256)), "not a picture"),
        (b"\x89PNG", "not a picture"),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes, word: str) -> None:
    error = refused(data)
    assert error.code is ImageErrorCode.NOT_AN_IMAGE
    assert word in error.message


@pytest.mark.parametrize("kind", SOURCES)
def test_pixels_are_counted(kind: str) -> None:
    count = PHOTO.width * PHOTO.height
    assert compressed(SOURCES[kind], max_pixels=count)
    error = refused(SOURCES[kind], count - 1)
    assert error.code is ImageErrorCode.TOO_MANY_PIXELS
    assert f"{PHOTO.width:,} × {PHOTO.height:,}" in error.message


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_frames_are_counted_with_the_pixels(form: str) -> None:
    data = film([photograph(n, 40, 30) for n in range(5)], form)
    assert compressed(data, max_pixels=6_000)
    for target in OutputFormat:
        error = refused(data, 5_999, format=target)
        assert error.code is ImageErrorCode.TOO_MANY_PIXELS
        assert "5 frames" in error.message


def test_a_bomb_is_refused_by_its_header() -> None:
    head = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    data = zlib.compress(bytes(10**6))
    bomb = b"\x89PNG\r\n\x1a\n"
    for body in (head, b"IDAT" + data, b"IEND"):
        bomb += (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    assert refused(bomb, 10**8).code is ImageErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize("kind", SOURCES)
def test_a_picture_cut_short_fails(kind: str) -> None:
    data = SOURCES[kind]
    for share in (0.1, 0.5, 0.9, 0.99):
        error = refused(data[: int(len(data) * share)])
        assert error.code is ImageErrorCode.CORRUPT_IMAGE
    assert refused(data[:-1]).code is ImageErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_was_cut_short_and_closed_does_not_turn_grey(
    mode: str, options: dict[str, Any]
) -> None:
    data = saved(PHOTO.convert(mode), "JPEG", quality=90, **options)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        error = refused(data[: int(len(data) * share)] + b"\xff\xd9")
        assert error.code is ImageErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("level", [127, 128])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_that_is_grey_at_its_end_is_whole(mode: str, level: int, progressive: bool) -> None:
    image = PHOTO.copy()
    image.paste((level, level, level), (0, 150, *image.size))
    data = saved(image.convert(mode), "JPEG", quality=90, progressive=progressive)
    assert compressed(data).info.source_quality == 90


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_an_animation_cut_short_fails(form: str) -> None:
    data = film([photograph(n, 80, 60) for n in range(4)], form)
    for share in (0.4, 0.7, 0.95):
        for target in (OutputFormat.KEEP, OutputFormat.JPEG):
            error = refused(data[: int(len(data) * share)], format=target)
            assert error.code is ImageErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("height", [1, 2, 37])
def test_a_png_that_says_to_have_more_rows_than_it_has_fails(mode: str, height: int) -> None:
    whole = saved(photograph(1, 51, height).convert(mode), "PNG")
    assert compressed(whole).info.height == height
    header = whole[12:20] + (height + 1).to_bytes(4, "big") + whole[24:29]
    taller = whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]
    assert refused(taller).code is ImageErrorCode.CORRUPT_IMAGE


def test_a_png_that_ends_in_black_is_whole() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        assert compressed(saved(Image.new(mode, (31, 9)), "PNG")).info.height == 9, mode


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 5), (4, 1), (5, 3), (8, 8), (51, 37)])
def test_an_interlaced_png_is_counted_pass_by_pass(width: int, height: int) -> None:
    rows = [
        bytes(1 + 3 * len(range(left, width, across)))
        for left, top, across, down in png.ADAM7
        for _ in range(top, height, down)
        if left < width
    ]
    for missing in (0, 1):
        data = png_of(width, height, b"".join(rows[: len(rows) - missing]), interlaced=True)
        if missing:
            assert refused(data).code is ImageErrorCode.CORRUPT_IMAGE
        else:
            assert compressed(data).info.width == width


def png_of(width: int, height: int, rows: bytes, *, interlaced: bool) -> bytes:
    """An RGB PNG with those rows, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return png.MAGIC + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_a_text_chunk_bomb_in_a_png_does_no_harm() -> None:
    bomb = b"zTXtComment\0\0" + zlib.compress(bytes(50 * 2**20))
    chunk = (len(bomb) - 4).to_bytes(4, "big") + bomb + zlib.crc32(bomb).to_bytes(4, "big")
    data = SOURCES["png"]
    assert compressed(data[:33] + chunk + data[33:]).info.output_format == "png"


def test_pillow_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS
    warm_up()
    refused(b"")
    assert before == Image.MAX_IMAGE_PIXELS


def test_equal_bytes_and_settings_give_equal_results() -> None:
    for kind, data in SOURCES.items():
        assert compressed(data).data == compressed(data).data, kind


def test_heic_with_its_extra() -> None:
    pillow_heif.register_heif_opener()
    data = saved(PHOTO, "HEIF", quality=90)
    assert sniff(data) is Kind.HEIC
    result = compressed(data)
    assert result.info.input_format == "heic"
    assert result.info.output_format in {"jpeg", "heic"}


def test_heic_without_its_extra_says_how_to_get_it() -> None:
    data = (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)
    error = refused(data)
    assert error.code in {ImageErrorCode.UNSUPPORTED_FORMAT, ImageErrorCode.CORRUPT_IMAGE}
    if error.code is ImageErrorCode.UNSUPPORTED_FORMAT:
        assert "imgsvc[heic]" in error.message


def test_a_pixel_of_every_kind() -> None:
    for form in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"):
        for target in OutputFormat:
            data = saved(Image.new("RGB", (1, 1), "red"), form)
            settings = CompressionSettings(Quality(50, relative=True), target)
            result = compress_image(data, settings, 1)
            assert opened(result.data).size == (1, 1)


def test_the_example_pictures() -> None:
    for number, extension in enumerate(["jpg", "png", "webp", "gif", "avif", "bmp", "tif"]):
        data = encoded(number, extension)
        with Image.open(io.BytesIO(compressed(data).data)) as image:
            assert apart(image, photograph(number)) < 8


def test_a_small_avif_is_made_as_well_as_pillow_makes_it() -> None:
    image = photograph(96, 160, 120)
    assert compressed(saved(image, "PNG"), form="avif").data == saved(
        image, "AVIF", quality=50, max_threads=1
    )
