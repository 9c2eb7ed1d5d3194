"""What a worker does: bytes and settings in, fewer bytes out. Pure."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import AvifImagePlugin, Image, TiffImagePlugin

from imgsvc.errors import ImageError
from imgsvc.image_types import CompressedImage, CompressionSettings, ImageInfo, OutputFormat
from imgsvc.images.decode import Limits, Source, decode, unusual
from imgsvc.images.encode import encode, fits, holds_animation
from imgsvc.images.errors import damaged, out_of_memory
from imgsvc.images.sniff import Kind, sniff
from imgsvc.images.strip import strip

_NEVER_KEPT = {Kind.BMP, Kind.TIFF}
"""They have no place on a page."""
_BYTES_PER_PIXEL = dict.fromkeys(Kind, 16) | {Kind.WEBP: 20, Kind.AVIF: 30, Kind.HEIC: 30}
"""What decoding or encoding takes at its worst, measured and rounded up."""
_CANNOT_BE_WRITTEN = {Kind.BMP, Kind.TIFF, Kind.HEIC}


def compress_image(data: bytes, settings: CompressionSettings, max_pixels: int) -> CompressedImage:
    """Compress a picture of at most `max_pixels` pixels, frames included.

    Raises ImageError, and nothing else: `not_an_image`, `unsupported_format`, `too_many_pixels`,
    `corrupt_image` or `out_of_memory`.
    """
    try:
        with _pillow_at_our_terms():
            return _compress(data, settings, max_pixels)
    except MemoryError:
        raise out_of_memory() from None


def warm_up() -> None:
    """Load what the first picture would otherwise have to wait for."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it says of damaged files, we say
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "JPEG")
    compress_image(pixel.getvalue(), CompressionSettings(), 1)


def _compress(data: bytes, settings: CompressionSettings, max_pixels: int) -> CompressedImage:
    kind = sniff(data)
    wanted = _wanted(kind, settings.format)
    limits = Limits(
        max_pixels,
        animated=holds_animation(wanted or Kind.JPEG),
        rows=wanted is Kind.JPEG and not settings.progressive,
    )
    source = _decoded(data, kind, limits)
    target = _target(source, wanted)
    if target is kind and holds_animation(kind) and not limits.animated:  # too large for JPEG
        limits.animated = True
        source = _decoded(data, kind, limits)
    quality = settings.quality.resolve(source.quality)
    result = _encoded(source, target, quality, limits, progressive=settings.progressive)
    if kind not in _NEVER_KEPT and len(result) >= source.least_bytes:
        own = strip(data, kind)
        if len(result) >= len(own):
            return _compressed(data, own, source, kind, None)
    return _compressed(data, result, source, target, quality)


def _decoded(data: bytes, kind: Kind, limits: Limits) -> Source:
    try:
        return decode(data, kind, limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file makes Pillow raise anything
        if _for_want_of_memory(error, limits, kind):
            raise out_of_memory() from None
        raise (unusual(data, kind) or damaged(kind.value)) from None


def _encoded(
    source: Source, kind: Kind, quality: int, limits: Limits, *, progressive: bool
) -> bytes:
    try:
        return encode(source, kind, quality, progressive=progressive)
    except MemoryError:
        raise
    except Exception as error:
        if _for_want_of_memory(error, limits, kind):
            raise out_of_memory() from None
        raise


def _for_want_of_memory(error: Exception, limits: Limits, kind: Kind) -> bool:
    """Whether a codec failed because the worker's memory limit was reached.

    libjpeg and others do not tell that from damage, so what they would have needed is asked for once
    more; it is never touched, and costs nothing.
    """
    if "memory" in str(error).lower():
        return True
    try:
        bytearray(limits.counted * _BYTES_PER_PIXEL[kind])
    except MemoryError:
        return True
    return False


def _wanted(kind: Kind, form: OutputFormat) -> Kind | None:
    """The format to write; None where that depends on the picture."""
    if form is not OutputFormat.KEEP:
        return Kind(form.value)
    return None if kind in _CANNOT_BE_WRITTEN else kind


def _target(source: Source, wanted: Kind | None) -> Kind:
    """The format to write, for this picture: one that it fits into."""
    if wanted is not None and fits(wanted, source):
        return wanted
    if source.kind not in _CANNOT_BE_WRITTEN:
        return source.kind
    return Kind.PNG if source.transparent or not fits(Kind.JPEG, source) else Kind.JPEG


def _compressed(
    data: bytes, result: bytes, source: Source, form: Kind, quality: int | None
) -> CompressedImage:
    picture = ImageInfo(
        input_bytes=len(data),
        output_bytes=len(result),
        width=source.first.width,
        height=source.first.height,
        input_format=source.kind.value,
        output_format=form.value,
        source_quality=source.quality,
        quality=quality,
        kept=quality is None,
    )
    return CompressedImage(result, picture)


@contextmanager
def _pillow_at_our_terms() -> Iterator[None]:
    """Pillow without its own limits (ours are checked before), threads and warnings, and without its
    own reader of uncompressed TIFFs, which takes planes of 16 bits for such of 8: libtiff does not."""
    before = Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS
    before_tiff = TiffImagePlugin.READ_LIBTIFF
    Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS = None, 1
    TiffImagePlugin.READ_LIBTIFF = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, AvifImagePlugin.DEFAULT_MAX_THREADS = before
        TiffImagePlugin.READ_LIBTIFF = before_tiff
