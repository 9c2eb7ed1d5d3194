"""The function that workers run: compress one image. It has no side effects."""

from __future__ import annotations

import hashlib
import io
import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.image_types import (
    CompressedImage,
    CompressionSettings,
    ImageFormat,
    ImageInfo,
    Note,
    OutputFormat,
    ThumbnailSettings,
    WorkerSettings,
)
from imgsvc.images import resize
from imgsvc.images.compose import Frame
from imgsvc.images.errors import damaged, does_not_fit, out_of_memory, unsupported
from imgsvc.images.formats import CODECS
from imgsvc.images.formats.base import Codec, DecodedImage, DecodeLimits, EncodeSettings, Transcoded
from imgsvc.images.resize import Bounds
from imgsvc.images.sniff import sniff

_PILLOW_SETTINGS = (
    (Image, "MAX_IMAGE_PIXELS", None),  # the service's own limit is checked before decoding
    *(setting for codec in CODECS.values() for setting in codec.pillow_settings),
)


def compress_image(data: bytes, settings: WorkerSettings, max_pixels: int) -> CompressedImage:
    """Return the compressed image, or the source without metadata if compressing saves nothing.

    An image larger than the settings allow is shrunk. With `ThumbnailSettings`, return its thumbnail.

    `max_pixels` limits the pixels of all frames together. Raise only ImageError, with the code
    `not_an_image`, `unsupported_format`, `too_many_pixels`, `corrupt_image` or `out_of_memory`.
    """
    try:
        with _configured_pillow():
            if isinstance(settings, ThumbnailSettings):
                return _thumbnail(data, settings, max_pixels)
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
        animated=(requested or ImageFormat.JPEG).traits.animated,
        bounds=Bounds(settings.max_width, settings.max_height),
    )
    if requested is image_format:
        transcoded = _transcode(data, image_format, settings, limits)
        if transcoded is not None:
            source, output, quality = transcoded
            return _smaller_of(data, output, source, image_format, quality)
    decoded = _decode(data, image_format, limits)
    is_shrunk = _shrink(decoded, limits.bounds)
    output_format = requested or _replacement_format(decoded)
    _check_fits(output_format, decoded)
    quality = settings.quality.resolve(decoded.quality)
    encode_settings = EncodeSettings(quality, settings.progressive, settings.effort)
    output = _encode(decoded, output_format, encode_settings, limits)
    is_converted = output_format is not image_format and settings.format is not OutputFormat.KEEP
    if is_converted or is_shrunk or not image_format.traits.kept:
        return _build_result(data, output, decoded, output_format, quality)
    return _smaller_of(data, output, decoded, output_format, quality)


def _thumbnail(data: bytes, settings: ThumbnailSettings, max_pixels: int) -> CompressedImage:
    bounds = Bounds(settings.max_side, settings.max_side)
    limits = DecodeLimits(max_pixels, animated=False, bounds=bounds)
    decoded = _decode(data, sniff(data), limits)
    _shrink(decoded, bounds)
    output = _encode(decoded, ImageFormat.WEBP, EncodeSettings(settings.quality), limits)
    return _build_result(data, output, decoded, ImageFormat.WEBP, settings.quality)


def _smaller_of(
    data: bytes, output: bytes, decoded: DecodedImage, output_format: ImageFormat, quality: int
) -> CompressedImage:
    """Return the output, or the source without metadata if that is not larger."""
    if len(output) >= decoded.min_stripped_bytes:
        stripped = CODECS[decoded.image_format].strip(decoded.repaired or data)
        if len(output) >= len(stripped):
            return _build_result(data, stripped, decoded, decoded.image_format, None)
    return _build_result(data, output, decoded, output_format, quality)


def _transcode(
    data: bytes, image_format: ImageFormat, settings: CompressionSettings, limits: DecodeLimits
) -> Transcoded | None:
    """Compress the image without decoding its pixels. Return None if that is impossible."""
    codec = CODECS[image_format]
    try:
        return codec.transcode and codec.transcode(data, settings, limits)
    except Exception:  # noqa: BLE001 - decoding reports what is wrong
        return None


def _decode(data: bytes, image_format: ImageFormat, limits: DecodeLimits) -> DecodedImage:
    """Decode the image. If that fails, repair the file and decode it again."""
    codec = CODECS[image_format]
    try:
        return _decode_once(data, image_format, limits)
    except ImageError as error:
        if error.code is not ImageErrorCode.CORRUPT_IMAGE or codec.repair is None:
            raise
        try:
            repaired = codec.repair(data, limits)
        except (ImageError, ValueError, LookupError, OSError, SyntaxError, struct.error):
            raise error from None
        decoded = _decode_once(repaired, image_format, limits)
        decoded.repaired = repaired
        return decoded


def _decode_once(data: bytes, image_format: ImageFormat, limits: DecodeLimits) -> DecodedImage:
    codec = CODECS[image_format]
    try:
        return codec.decode(data, limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises any exception for damaged files
        if _is_out_of_memory(error, limits, codec):
            raise out_of_memory() from None
        variant = codec.unsupported_variant(data)
        raise (unsupported(variant) if variant else damaged(image_format)) from None


def _shrink(decoded: DecodedImage, bounds: Bounds) -> bool:
    """Shrink the frames to fit the bounds. Return whether the image is larger than the bounds."""
    full_size = decoded.full_size or decoded.first_image.size
    size = bounds.fit(full_size)
    if size == full_size:
        return False
    for number, frame in enumerate(decoded.frames):
        decoded.frames[number] = Frame(resize.shrink(frame.image, size), frame.duration)
    return True


def _encode(
    decoded: DecodedImage,
    image_format: ImageFormat,
    settings: EncodeSettings,
    limits: DecodeLimits,
) -> bytes:
    codec = CODECS[image_format]
    if codec.encode is None:
        raise ValueError(f"{image_format} cannot be written")
    try:
        return codec.encode(decoded, settings)
    except MemoryError:
        raise
    except Exception as error:
        if _is_out_of_memory(error, limits, codec):
            raise out_of_memory() from None
        raise


def _is_out_of_memory(error: Exception, limits: DecodeLimits, codec: Codec) -> bool:
    """Return whether a codec failed because the worker reached its memory limit.

    libjpeg and others report a lack of memory like damage. Therefore allocate the memory that the
    codec may have needed: if that fails, memory was the cause. The block is never written to, so
    allocating it costs nothing.
    """
    if "memory" in str(error).lower():
        return True
    try:
        bytearray(limits.declared_pixels * codec.peak_bytes_per_pixel)
    except MemoryError:
        return True
    return False


def _requested_format(image_format: ImageFormat, setting: OutputFormat) -> ImageFormat | None:
    """Return the chosen format, else that of the source, or None if sources of it are converted."""
    selected = ImageFormat.__members__.get(setting.name)
    if selected is not None:
        return selected
    return image_format if CODECS[image_format].encode else None


def _replacement_format(decoded: DecodedImage) -> ImageFormat:
    """Return the output format for a source whose own format is unsuitable for web pages."""
    needs_png = decoded.has_alpha or decoded.is_indexed
    too_large = max(decoded.first_image.size) > ImageFormat.JPEG.traits.max_side
    return ImageFormat.PNG if needs_png or too_large else ImageFormat.JPEG


def _check_fits(image_format: ImageFormat, decoded: DecodedImage) -> None:
    """Raise `unsupported_format` if the format does not allow such a large image or long animation."""
    traits, size = image_format.traits, decoded.first_image.size
    if max(size) > traits.max_side or not CODECS[image_format].fits(decoded):
        raise does_not_fit(traits.title, *size, traits.max_side)


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
        notes=_notes(data, output, decoded, kept=quality is None),
        digest=hashlib.sha256(output).digest(),
    )
    return CompressedImage(output, info)


def _notes(data: bytes, output: bytes, decoded: DecodedImage, *, kept: bool) -> tuple[Note, ...]:
    """Return what the output lacks of the source. `kept`: the output is the source without metadata."""
    has_gain_map = CODECS[decoded.image_format].has_gain_map
    notes = {
        Note.GAIN_MAP_DROPPED: has_gain_map(data) and not (kept and has_gain_map(output)),
        Note.TONE_MAPPED: decoded.is_tone_mapped and not kept,
        Note.FIRST_FRAME: decoded.source_frames > len(decoded.frames) and not kept,
    }
    return tuple(note for note, applies in notes.items() if applies)


@contextmanager
def _configured_pillow() -> Iterator[None]:
    """Configure Pillow while an image is compressed, and restore its settings afterwards."""
    previous = [getattr(module, name) for module, name, _ in _PILLOW_SETTINGS]
    for module, name, value in _PILLOW_SETTINGS:
        setattr(module, name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for (module, name, _), value in zip(_PILLOW_SETTINGS, previous, strict=True):
            setattr(module, name, value)
