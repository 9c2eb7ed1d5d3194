"""Tests of compression: quality, output formats, sizes and rejected files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import CompressionSettings, ImageFormat, OutputFormat, Quality
from imgsvc.images.codec import compress_image, warm_up
from imgsvc.images.formats import png_chunks
from imgsvc.images.sniff import sniff
from tests.image_assertions import (
    compress,
    encode_animation,
    encode_image,
    mean_difference,
    open_image,
)
from tests.sample_images import encoded, photograph

PHOTO = photograph(1)
SOURCES = {
    "jpeg": encode_image(PHOTO, "JPEG", quality=90),
    "png": encode_image(PHOTO, "PNG"),
    "webp": encode_image(PHOTO, "WEBP", quality=95),
    "gif": encode_image(PHOTO, "GIF"),
    "avif": encode_image(PHOTO, "AVIF", quality=95),
    "bmp": encode_image(PHOTO, "BMP"),
    "tiff": encode_image(PHOTO, "TIFF"),
}


def compress_error(data: bytes, max_pixels: int = 10**6, **settings: Any) -> ImageError:
    """Return the error of an image that cannot be compressed."""
    with pytest.raises(ImageError) as error_info:
        compress_image(data, CompressionSettings(**settings), max_pixels)
    assert error_info.value.message[0].isupper()
    assert not error_info.value.message.endswith("Error")
    return error_info.value


# --- quality -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source_quality", "setting", "expected"),
    [(90, "50%", 45), (75, "50%", 38), (88, "25%", 22), (100, "50%", 50), (90, 30, 30)],
)
def test_compress_jpeg_uses_percentage_of_source_quality(
    source_quality: int, setting: str | int, expected: int
) -> None:
    result = compress(encode_image(PHOTO, "JPEG", quality=source_quality), setting)
    assert result.info.source_quality == source_quality
    assert result.info.quality == expected
    assert not result.info.kept
    again = compress(result.data)
    assert again.info.source_quality == expected


@pytest.mark.parametrize("source_format", ["png", "webp", "gif", "avif", "bmp", "tiff"])
def test_compress_assumes_quality_100_for_formats_that_record_none(source_format: str) -> None:
    info = compress(SOURCES[source_format]).info
    assert info.source_quality is None
    assert info.quality == 50


def test_compress_output_size_grows_with_quality() -> None:
    for file_format in ("jpeg", "webp", "avif"):
        sizes = [compress(SOURCES["png"], q, file_format).info.output_bytes for q in (10, 50, 90)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[2] / 2
    assert compress(compress(SOURCES["png"], 50, "jpeg").data).info.source_quality == 50


@pytest.mark.parametrize(("quality", "colours"), [("50%", 128), (10, 25), (1, 2), (100, 256)])
@pytest.mark.parametrize("source_format", ["png", "gif"])
def test_compress_palette_size_is_percentage_of_256_colours(
    source_format: str, quality: str | int, colours: int
) -> None:
    image = open_image(compress(SOURCES[source_format], quality).data)
    found = image.getcolors(257)
    assert found is not None
    assert colours // 2 < len(found) <= colours


def test_compress_writes_progressive_jpeg_only_if_requested() -> None:
    for progressive in (False, True):
        result = compress_image(
            SOURCES["jpeg"], CompressionSettings(progressive=progressive), 10**6
        )
        assert bool(open_image(result.data).info.get("progressive")) is progressive


def test_compress_jpeg_optimises_huffman_codes() -> None:
    assert len(compress(SOURCES["jpeg"]).data) < 0.95 * len(
        encode_image(open_image(SOURCES["jpeg"]), "JPEG", quality=45)
    )


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["keep", "jpeg", "webp", "avif", "png"])
@pytest.mark.parametrize("source_format", SOURCES)
def test_compress_converts_every_format_to_every_output_format(
    source_format: str, output_format: str
) -> None:
    result = compress(SOURCES[source_format], output_format=output_format)
    info = result.info
    expected = (
        output_format
        if output_format != "keep"
        else {"bmp": "jpeg", "tiff": "jpeg"}.get(source_format, source_format)
    )
    assert not info.kept
    assert info.input_format == source_format
    assert info.output_format == expected == sniff(result.data)
    assert (info.width, info.height) == PHOTO.size == open_image(result.data).size
    if output_format in {"keep", source_format}:
        assert len(result.data) <= len(SOURCES[source_format])
    assert mean_difference(open_image(result.data), PHOTO) < 8


@pytest.mark.parametrize("file_format", ["BMP", "TIFF"])
def test_compress_bmp_and_tiff_returns_png_if_transparent_else_jpeg(file_format: str) -> None:
    image = PHOTO.convert("RGBA")
    image.paste((0, 0, 0, 0), (10, 10, 60, 60))
    data = encode_image(image, file_format)
    if file_format == "BMP":  # Pillow writes no alpha mask in the header. BITMAPV4HEADER has one
        data = bmp_with_alpha(image)
    result = compress(data)
    assert result.info.output_format == "png"
    assert open_image(result.data).convert("RGBA").getpixel((20, 20))[3] == 0  # type: ignore[index]
    opaque = PHOTO.convert("RGBA")
    data = bmp_with_alpha(opaque) if file_format == "BMP" else encode_image(opaque, file_format)
    assert compress(data).info.output_format == "jpeg"


def bmp_with_alpha(image: Image.Image) -> bytes:
    """Return a BMP with a version 4 header and an alpha channel."""
    rows = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA")
    numbers = (108, image.width, image.height, 1 | 32 << 16, 3, len(rows), 0, 0, 0, 0)
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = b"".join(n.to_bytes(4, "little") for n in numbers + masks).ljust(108, b"\0")
    size = (14 + 108 + len(rows)).to_bytes(4, "little")
    return b"BM" + size + bytes(4) + (122).to_bytes(4, "little") + head + rows


def test_compress_ignores_bmp_alpha_that_is_all_zero() -> None:
    result = compress(
        bmp_with_alpha(Image.merge("RGBA", (*PHOTO.split(), Image.new("L", PHOTO.size))))
    )
    assert result.info.output_format == "jpeg"
    assert mean_difference(open_image(result.data), PHOTO) < 8


def test_compress_mpo_returns_its_first_image() -> None:
    data = encode_animation([PHOTO, photograph(2)], "MPO", quality=90)
    result = compress(data)
    assert result.info.input_format == result.info.output_format == "jpeg"
    assert mean_difference(open_image(result.data), PHOTO) < 8


@pytest.mark.parametrize(
    ("output_format", "max_side"), [("webp", 16_383), ("avif", 32_768), ("jpeg", 65_500)]
)
def test_compress_rejects_image_too_large_for_chosen_format(
    output_format: str, max_side: int
) -> None:
    for size in ((max_side + 1, 4), (4, max_side + 1)):
        data = encode_image(PHOTO.resize(size), "PNG")
        error = compress_error(data, format=OutputFormat(output_format))
        assert error.code is ImageErrorCode.UNSUPPORTED_FORMAT
        assert f"{size[0]:,} × {size[1]:,}" in error.message
        assert f"{max_side:,} pixels a side" in error.message
    result = compress(encode_image(PHOTO.resize((max_side, 4)), "PNG"), output_format=output_format)
    assert open_image(result.data).size == (max_side, 4)
    assert result.info.output_format == output_format


def test_compress_rejects_animation_too_large_for_chosen_format() -> None:
    data = encode_animation([photograph(n, 65_501, 2) for n in range(3)], "PNG", duration=50)
    assert compress_error(data, format=OutputFormat("jpeg")).code is (
        ImageErrorCode.UNSUPPORTED_FORMAT
    )


def test_compress_rejects_animation_too_long_for_chosen_format() -> None:
    data = encode_animation([photograph(n, 8, 8) for n in range(2)], "PNG", duration=17_000_000)
    error = compress_error(data, format=OutputFormat("webp"))
    assert error.code is ImageErrorCode.UNSUPPORTED_FORMAT
    assert "longer than WebP allows" in error.message
    assert compress(data, output_format="jpeg").info.output_format == "jpeg"


def test_compress_returns_png_for_bmp_too_large_for_jpeg() -> None:
    assert compress(encode_image(PHOTO.resize((70_000, 4)), "BMP")).info.output_format == "png"


@pytest.mark.parametrize("file_format", ["BMP", "TIFF"])
@pytest.mark.parametrize("colours", [2, 7, 100])
def test_compress_palette_source_returns_png_with_all_colours(
    file_format: str, colours: int
) -> None:
    indexed = PHOTO.quantize(colours, dither=Image.Dither.NONE)
    result = compress(encode_image(indexed, file_format))
    assert result.info.output_format == "png"
    assert mean_difference(open_image(result.data), indexed) == 0
    converted = compress(encode_image(indexed, file_format), output_format="jpeg")
    assert converted.info.output_format == "jpeg"


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"}), ("PNG", {})],
)
def test_compress_bilevel_source_stays_bilevel(file_format: str, options: dict[str, Any]) -> None:
    page = PHOTO.convert("1")
    image = open_image(compress(encode_image(page, file_format, **options), 1).data)
    assert (image.format, image.mode) == ("PNG", "1")
    assert image.tobytes() == page.tobytes()


def test_compress_grey_bmp_and_tiff_return_jpeg() -> None:
    for file_format in ("BMP", "TIFF"):
        result = compress(encode_image(PHOTO.convert("L"), file_format))
        assert result.info.output_format == "jpeg"


# --- never larger ------------------------------------------------------------------------------


@pytest.mark.parametrize("source_format", ["jpeg", "png", "webp", "gif", "avif"])
def test_compress_never_returns_larger_file_in_format_of_source(source_format: str) -> None:
    small = compress(SOURCES[source_format], 5).data
    for output_format in ("keep", source_format):
        if output_format != "gif":
            result = compress(small, 100, output_format)
            assert result.info.kept
            assert result.info.quality is None
            assert result.info.output_format == source_format
            assert result.data == small


@pytest.mark.parametrize("output_format", ["jpeg", "webp", "avif", "png"])
@pytest.mark.parametrize("source_format", ["jpeg", "png", "webp", "gif", "avif"])
def test_compress_returns_chosen_format_even_if_larger(
    source_format: str, output_format: str
) -> None:
    small = compress(SOURCES[source_format], 5).data
    result = compress(small, 100, output_format)
    assert result.info.output_format == output_format == sniff(result.data)
    assert result.info.kept is (output_format == source_format)


def test_compress_keeps_jpeg_of_lower_quality_than_requested() -> None:
    result = compress(encode_image(PHOTO, "JPEG", quality=20), 50)
    assert result.info.kept
    assert result.info.source_quality == 20


def test_compress_compares_sizes_without_source_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    data = encode_image(PHOTO, "JPEG", quality=20, exif=exif)
    result = compress(data, 50)
    assert result.info.kept
    assert len(result.data) < len(data) - 60_000


def test_compress_always_converts_bmp_and_tiff() -> None:
    for file_format in ("BMP", "TIFF"):
        result = compress(encode_image(Image.new("RGB", (1, 1)), file_format))
        assert not result.info.kept
        assert result.info.output_format == "jpeg"


# --- rejected files ----------------------------------------------------------------------------


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
        (encode_image(PHOTO, "ICO"), "ICO"),
        (b"\0\0\x02\0\x01\0" + bytes(30), "CUR"),
        (encode_image(PHOTO, "JPEG2000"), "JPEG 2000"),
        (b"\xff\x0a" + bytes(30), "JPEG XL"),
        (b"II\xbc\x01" + bytes(30), "JPEG XR"),
        (encode_image(PHOTO, "PPM"), "PNM"),
        (encode_image(PHOTO, "TGA"), "TGA"),
        (encode_image(PHOTO, "PCX"), "PCX"),
        (encode_image(PHOTO, "DDS"), "DDS"),
        (encode_image(PHOTO, "SGI"), "SGI"),
        (encode_image(PHOTO.convert("1"), "XBM"), "XBM"),
        (encode_image(PHOTO, "ICNS"), "ICNS"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"II*\0\x10\0\0\0CR\x02\0", "CR2"),
        (b"\xff\xd8\xff\xf7" + bytes(30), "JPEG-LS"),
    ],
)
def test_compress_names_unsupported_format_in_error(data: bytes, word: str) -> None:
    error = compress_error(data)
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
        (bytes(range(256)), "not an image"),
        (b"\x89PNG", "not an image"),
    ],
)
def test_compress_describes_file_that_is_not_an_image(data: bytes, word: str) -> None:
    error = compress_error(data)
    assert error.code is ImageErrorCode.NOT_AN_IMAGE
    assert word in error.message


@pytest.mark.parametrize("source_format", SOURCES)
def test_compress_rejects_image_with_too_many_pixels(source_format: str) -> None:
    count = PHOTO.width * PHOTO.height
    assert compress(SOURCES[source_format], max_pixels=count)
    error = compress_error(SOURCES[source_format], count - 1)
    assert error.code is ImageErrorCode.TOO_MANY_PIXELS
    assert f"{PHOTO.width:,} × {PHOTO.height:,}" in error.message


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_compress_counts_pixels_of_all_frames(file_format: str) -> None:
    data = encode_animation([photograph(n, 40, 30) for n in range(5)], file_format)
    assert compress(data, max_pixels=6_000)
    for target in OutputFormat:
        error = compress_error(data, 5_999, format=target)
        assert error.code is ImageErrorCode.TOO_MANY_PIXELS
        assert "5 frames" in error.message


def test_compress_rejects_decompression_bomb_by_its_header() -> None:
    head = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    data = zlib.compress(bytes(10**6))
    bomb = b"\x89PNG\r\n\x1a\n"
    for body in (head, b"IDAT" + data, b"IEND"):
        bomb += (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    assert compress_error(bomb, 10**8).code is ImageErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize("source_format", SOURCES)
def test_compress_rejects_truncated_image(source_format: str) -> None:
    data = SOURCES[source_format]
    for share in (0.1, 0.5, 0.9, 0.99):
        error = compress_error(data[: int(len(data) * share)])
        assert error.code is ImageErrorCode.CORRUPT_IMAGE
    # The last bytes of a file may be checksums, padding or an end marker.
    assert compress_error(data[:-40]).code is ImageErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_compress_rejects_truncated_jpeg_that_ends_with_eoi(
    mode: str, options: dict[str, Any]
) -> None:
    data = encode_image(PHOTO.convert(mode), "JPEG", quality=90, **options)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        error = compress_error(data[: int(len(data) * share)] + b"\xff\xd9")
        assert error.code is ImageErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("level", [127, 128])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_compress_accepts_complete_jpeg_that_ends_in_grey(
    mode: str, level: int, progressive: bool
) -> None:
    image = PHOTO.copy()
    image.paste((level, level, level), (0, 150, *image.size))
    data = encode_image(image.convert(mode), "JPEG", quality=90, progressive=progressive)
    assert compress(data).info.source_quality == 90


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "AVIF"])
def test_compress_rejects_truncated_animation(file_format: str) -> None:
    data = encode_animation([photograph(n, 80, 60) for n in range(4)], file_format)
    for share in (0.4, 0.7, 0.95):
        for target in (OutputFormat.KEEP, OutputFormat("jpeg")):
            error = compress_error(data[: int(len(data) * share)], format=target)
            assert error.code is ImageErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("height", [1, 2, 37])
def test_compress_rejects_png_with_fewer_rows_than_declared(mode: str, height: int) -> None:
    complete = encode_image(photograph(1, 51, height).convert(mode), "PNG")
    assert compress(complete).info.height == height
    header = complete[12:20] + (height + 1).to_bytes(4, "big") + complete[24:29]
    taller = complete[:12] + header + zlib.crc32(header).to_bytes(4, "big") + complete[33:]
    assert compress_error(taller).code is ImageErrorCode.CORRUPT_IMAGE


def test_compress_accepts_complete_png_that_ends_in_black() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        assert compress(encode_image(Image.new(mode, (31, 9)), "PNG")).info.height == 9, mode


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 5), (4, 1), (5, 3), (8, 8), (51, 37)])
def test_compress_detects_missing_row_of_interlaced_png(width: int, height: int) -> None:
    rows = [
        bytes(1 + 3 * len(range(left, width, across)))
        for left, top, across, down in png_chunks.ADAM7
        for _ in range(top, height, down)
        if left < width
    ]
    for missing in (0, 1):
        data = png_from_rows(width, height, b"".join(rows[: len(rows) - missing]), interlaced=True)
        if missing:
            assert compress_error(data).code is ImageErrorCode.CORRUPT_IMAGE
        else:
            assert compress(data).info.width == width


def png_from_rows(width: int, height: int, rows: bytes, *, interlaced: bool) -> bytes:
    """Return an RGB PNG with these rows, even if they do not match its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return png_chunks.MAGIC + b"".join(
        struct.pack(">I", len(body))
        + chunk_type
        + body
        + struct.pack(">I", zlib.crc32(chunk_type + body))
        for chunk_type, body in chunks
    )


def test_compress_ignores_decompression_bomb_in_png_text_chunk() -> None:
    bomb = b"zTXtComment\0\0" + zlib.compress(bytes(50 * 2**20))
    chunk = (len(bomb) - 4).to_bytes(4, "big") + bomb + zlib.crc32(bomb).to_bytes(4, "big")
    data = SOURCES["png"]
    assert compress(data[:33] + chunk + data[33:]).info.output_format == "png"


def test_compress_restores_pillow_settings() -> None:
    before = Image.MAX_IMAGE_PIXELS
    warm_up()
    compress_error(b"")
    assert before == Image.MAX_IMAGE_PIXELS


def test_compress_is_deterministic() -> None:
    for source_format, data in SOURCES.items():
        assert compress(data).data == compress(data).data, source_format


def test_compress_reads_heic_if_pillow_heif_is_installed() -> None:
    pillow_heif.register_heif_opener()
    data = encode_image(PHOTO, "HEIF", quality=90)
    assert sniff(data) is ImageFormat.HEIC
    result = compress(data)
    assert result.info.input_format == "heic"
    assert result.info.output_format == "jpeg"
    assert compress(encode_image(PHOTO, "HEIF", quality=1), 100).info.output_format == "jpeg"


def test_compress_heic_error_names_missing_extra() -> None:
    data = (24).to_bytes(4, "big") + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)
    error = compress_error(data)
    assert error.code in {ImageErrorCode.UNSUPPORTED_FORMAT, ImageErrorCode.CORRUPT_IMAGE}
    if error.code is ImageErrorCode.UNSUPPORTED_FORMAT:
        assert "imgsvc[heic]" in error.message


def test_compress_accepts_one_pixel_of_every_format() -> None:
    for file_format in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"):
        for target in OutputFormat:
            data = encode_image(Image.new("RGB", (1, 1), "red"), file_format)
            settings = CompressionSettings(Quality(50, relative=True), target)
            result = compress_image(data, settings, 1)
            assert open_image(result.data).size == (1, 1)


def test_compress_preserves_sample_images() -> None:
    for number, extension in enumerate(["jpg", "png", "webp", "gif", "avif", "bmp", "tif"]):
        data = encoded(number, extension)
        with Image.open(io.BytesIO(compress(data).data)) as image:
            assert mean_difference(image, photograph(number)) < 8


def test_compress_small_avif_uses_default_speed_of_pillow() -> None:
    image = photograph(96, 160, 120)
    assert compress(encode_image(image, "PNG"), output_format="avif").data == encode_image(
        image, "AVIF", quality=50, max_threads=1
    )
