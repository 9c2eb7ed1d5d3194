"""The function that workers run: compress one image. It has no side effects."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import AvifImagePlugin, Image, TiffImagePlugin

from imgsvc.errors import ImageError
from imgsvc.image_types import CompressedImage, CompressionSettings, ImageInfo, OutputFormat
from imgsvc.images.decode import DecodedImage, DecodeLimits, decode, unsupported_variant
from imgsvc.images.encode import encode, fits_format_limits, supports_animation
from imgsvc.images.errors import damaged, out_of_memory
from imgsvc.images.sniff import ImageFormat, sniff
from imgsvc.images.strip import strip

_NEVER_KEPT = {ImageFormat.BMP, ImageFormat.TIFF}
"""Formats that are always converted, because they are unsuitable for web pages."""

_PEAK_BYTES_PER_PIXEL = dict.fromkeys(ImageFormat, 16) | {
    ImageFormat.WEBP: 20,
    ImageFormat.AVIF: 30,
    ImageFormat.HEIC: 30,
}
"""Peak memory of decoding or encoding, in bytes per pixel. Measured, then rounded up."""

_READ_ONLY = {ImageFormat.BMP, ImageFormat.TIFF, ImageFormat.HEIC}
"""Formats that can be read but are never written."""


def compress_image(data: bytes, settings: CompressionSettings, max_pixels: int) -> CompressedImage:
    """Return the compressed image, or the source without metadata if compressing saves nothing.

    `max_pixels` limits the pixels of all frames together. Raise only ImageError, with the code
    `not_an_image`, `unsupported_format`, `too_many_pixels`, `corrupt_image` or `out_of_memory`.
    """
    try:
        with _configured_pillow():
            return _compress(data, settings, max_pixels)
    except MemoryError:
        raise out_of_memory() from None


def warm_up() -> None:
    """Compress one pixel, so that libraries are loaded before the first image arrives."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # damaged files are reported as ImageError
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "JPEG")
    compress_image(pixel.getvalue(), CompressionSettings(), 1)


def _compress(data: bytes, settings: CompressionSettings, max_pixels: int) -> CompressedImage:
    image_format = sniff(data)
    requested = _requested_format(image_format, settings.format)
    limits = DecodeLimits(
        max_pixels,
        animated=supports_animation(requested or ImageFormat.JPEG),
        allow_pixel_array=requested is ImageFormat.JPEG and not settings.progressive,
    )
    decoded = _decode(data, image_format, limits)
    output_format = _output_format(decoded, requested)
    if output_format is image_format and supports_animation(image_format) and not limits.animated:
        # The image is too large for JPEG, so it stays animated: decode all its frames.
        limits.animated = True
        decoded = _decode(data, image_format, limits)
    quality = settings.quality.resolve(decoded.quality)
    output = _encode(decoded, output_format, quality, limits, progressive=settings.progressive)
    if image_format not in _NEVER_KEPT and len(output) >= decoded.min_stripped_bytes:
        stripped = strip(data, image_format)
        if len(output) >= len(stripped):
            return _build_result(data, stripped, decoded, image_format, None)
    return _build_result(data, output, decoded, output_format, quality)


def _decode(data: bytes, image_format: ImageFormat, limits: DecodeLimits) -> DecodedImage:
    try:
        return decode(data, image_format, limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises any exception for damaged files
        if _is_out_of_memory(error, limits, image_format):
            raise out_of_memory() from None
        raise (unsupported_variant(data, image_format) or damaged(image_format.value)) from None


def _encode(
    decoded: DecodedImage,
    image_format: ImageFormat,
    quality: int,
    limits: DecodeLimits,
    *,
    progressive: bool,
) -> bytes:
    try:
        return encode(decoded, image_format, quality, progressive=progressive)
    except MemoryError:
        raise
    except Exception as error:
        if _is_out_of_memory(error, limits, image_format):
            raise out_of_memory() from None
        raise


def _is_out_of_memory(error: Exception, limits: DecodeLimits, image_format: ImageFormat) -> bool:
    """Return whether a codec failed because the worker reached its memory limit.

    libjpeg and others report a lack of memory like damage. Therefore allocate the memory that the
    codec may have needed: if that fails, memory was the cause. The block is never written to, so
    allocating it costs nothing.
    """
    if "memory" in str(error).lower():
        return True
    try:
        bytearray(limits.declared_pixels * _PEAK_BYTES_PER_PIXEL[image_format])
    except MemoryError:
        return True
    return False


def _requested_format(image_format: ImageFormat, setting: OutputFormat) -> ImageFormat | None:
    """Return the output format, or None if it depends on the decoded image."""
    if setting is not OutputFormat.KEEP:
        return ImageFormat(setting.value)
    return None if image_format in _READ_ONLY else image_format


def _output_format(decoded: DecodedImage, requested: ImageFormat | None) -> ImageFormat:
    """Return the output format: the requested one if the image fits its limits, else a fallback."""
    if requested is not None and fits_format_limits(requested, decoded):
        return requested
    if decoded.image_format not in _READ_ONLY:
        return decoded.image_format
    return (
        ImageFormat.PNG
        if decoded.has_alpha or not fits_format_limits(ImageFormat.JPEG, decoded)
        else ImageFormat.JPEG
    )


def _build_result(
    data: bytes,
    output: bytes,
    decoded: DecodedImage,
    output_format: ImageFormat,
    quality: int | None,
) -> CompressedImage:
    info = ImageInfo(
        input_bytes=len(data),
        output_bytes=len(output),
        width=decoded.first_image.width,
        height=decoded.first_image.height,
        input_format=decoded.image_format.value,
        output_format=output_format.value,
        source_quality=decoded.quality,
        quality=quality,
        kept=quality is None,
    )
    return CompressedImage(output, info)


@contextmanager
def _configured_pillow() -> Iterator[None]:
    """Configure Pillow while an image is compressed, and restore its settings afterwards.

    Turn off its pixel limit (ours is checked before decoding), its AVIF threads and its warnings.
    Read all TIFFs with libtiff, because Pillow's reader of uncompressed TIFFs reads 16-bit planes
    as 8-bit planes.
    """
    pillow_limits = Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS
    read_libtiff = TiffImagePlugin.READ_LIBTIFF
    Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS = None, 1
    TiffImagePlugin.READ_LIBTIFF = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS = pillow_limits
        TiffImagePlugin.READ_LIBTIFF = read_libtiff
