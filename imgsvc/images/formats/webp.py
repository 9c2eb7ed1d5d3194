"""The WebP format."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL.WebPImagePlugin import WebPImageFile

from imgsvc.image_types import Effort, ImageFormat
from imgsvc.images import exif
from imgsvc.images.errors import corrupt, truncated
from imgsvc.images.formats.base import (
    Codec,
    DecodedImage,
    DecodeLimits,
    EncodeSettings,
    animation_options,
    is_hdr,
    normalised,
    save,
    single_frame,
    with_pillow_frames,
)
from imgsvc.images.part_limits import check_blocks, check_frames

_MAX_DURATION, _MAX_TOTAL_DURATION = 2**24 - 1, 2**31 - 1
"""The longest durations, in milliseconds: of one frame, and of the animation (a limit of libwebp)."""

_MAX_LOOPS = 65_535
"""Largest loop count."""

_METHODS = {Effort.FAST: 4, Effort.SMALL: 6}
"""Effort of libwebp, from 0 (fast) to 6. Method 6 takes 1.5 times as long, for 1 to 3 % fewer bytes."""

_HAS_PROFILE, _HAS_EXIF, _HAS_XMP, _IS_ANIMATED = 0x20, 0x08, 0x04, 0x02
"""Flags of the VP8X chunk."""

_VISUAL_RIFF_CHUNKS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"}
"""The chunks that affect how the image looks."""

_IMAGE_CHUNKS = {b"VP8 ", b"VP8L", b"ANMF"}
_METADATA_CHUNKS = {b"EXIF", b"XMP "}
_UNKNOWN_RIFF_SIZE = 2**31
"""Sizes from here on are written by programs that do not know the size."""


class RiffChunk(NamedTuple):
    """A chunk: its FourCC, and its start and end in the file, including header and padding."""

    fourcc: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class WebP:
    """The contents of a WebP file, without its pixels. `frames` is the number of frames."""

    width: int
    height: int
    frames: int
    exif: bytes | None


def chunks(data: bytes) -> Iterator[RiffChunk]:
    """Yield the chunks of the RIFF container, with headers and padding. Raise `corrupt_image`."""
    limit = 8 + int.from_bytes(data[4:8], "little")
    if limit > len(data):
        raise truncated()
    position, count = 12, 0
    while position + 8 <= limit:
        count += 1
        check_blocks(count)
        fourcc, size = struct.unpack_from("<4sI", data, position)
        end = position + 8 + size + (size & 1)
        if position + 8 + size > limit:
            raise truncated()
        yield RiffChunk(fourcc, position, min(end, limit))
        position = end


def read(data: bytes) -> WebP:
    """Parse a WebP file without decoding its pixels. Raise `corrupt_image`."""
    size: tuple[int, int] | None = None
    frames = 0
    extended = data.startswith(b"VP8X", 12)
    exif_block: bytes | None = None
    for fourcc, start, end in chunks(data):
        body = data[start + 8 : end]
        if size is None:
            size = _size(fourcc, body)
        if fourcc == b"ANMF":
            frames += 1
            check_frames(frames)
        elif fourcc == b"EXIF" and extended:
            exif_block = body
    if size is None:
        raise corrupt("The WebP file has no image data.")
    return WebP(*size, max(frames, 1), exif_block)


def _size(fourcc: bytes, body: bytes) -> tuple[int, int] | None:
    if fourcc == b"VP8X" and len(body) >= 10:
        return (
            int.from_bytes(body[4:7], "little") + 1,
            int.from_bytes(body[7:10], "little") + 1,
        )
    if fourcc == b"VP8 " and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if fourcc == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def strip(data: bytes) -> bytes:
    """Return the WebP file without metadata, and without data after its end.

    If the image is not upright, keep an EXIF chunk with only the orientation.
    """
    kept = []
    orientation = 1
    has_profile = False
    for fourcc, start, end in chunks(data):
        if fourcc == b"EXIF" and orientation == 1 and data.startswith(b"VP8X", 12):
            orientation = exif.orientation(data[start + 8 : end])
        elif fourcc in _VISUAL_RIFF_CHUNKS:
            kept.append(data[start:end] + bytes(end - start & 1))
            has_profile = has_profile or fourcc == b"ICCP"
    if orientation != 1:
        body = exif.orientation_block(orientation)
        kept.append(struct.pack("<4sI", b"EXIF", len(body)) + body)
    if kept and kept[0].startswith(b"VP8X"):
        flags = kept[0][8] & ~(_HAS_EXIF | _HAS_XMP | _HAS_PROFILE)
        flags |= (_HAS_EXIF if orientation != 1 else 0) | (_HAS_PROFILE if has_profile else 0)
        kept[0] = kept[0][:8] + bytes([flags]) + kept[0][9:]
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def repair(data: bytes, limits: DecodeLimits) -> bytes:
    """Return a file with a wrong RIFF size, or without its last padding byte, as a valid file.

    Raise `corrupt_image` if a chunk is incomplete, or if frames of an animation or the orientation may
    be missing.
    """
    repaired = _with_riff_size(data)
    if repaired is None:
        # libwebp counts the padding of a VP8 chunk as data, so only the pixels show what is missing.
        candidates = [_with_riff_size(data + last) for last in (b"\0", b"\xff")]
        repaired = candidates[0]
        if repaired is None or not _same_pixels(candidates, limits):
            raise truncated()
    file = read(repaired)
    declared = 8 + int.from_bytes(data[4:8], "little")
    flags = repaired[20] if repaired.startswith(b"VP8X", 12) else 0
    if flags & _HAS_EXIF and file.exif is None:
        raise truncated()
    if flags & _IS_ANIMATED and len(data) + 1 < declared < _UNKNOWN_RIFF_SIZE:
        raise truncated()
    return repaired


def _with_riff_size(data: bytes) -> bytes | None:
    """Return the chunks of an image in a valid file, or None if one of them is incomplete."""
    kept = []
    position = 12
    has_image = False
    while position + 8 <= len(data):
        fourcc, size = struct.unpack_from("<4sI", data, position)
        end = position + 8 + size
        if fourcc not in _VISUAL_RIFF_CHUNKS | _METADATA_CHUNKS:
            break
        if end > len(data):
            return None
        kept.append(data[position:end] + bytes(size & 1))
        has_image = has_image or fourcc in _IMAGE_CHUNKS
        position = end + (size & 1)
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body if has_image else None


def _same_pixels(files: list[bytes | None], limits: DecodeLimits) -> bool:
    """Return whether all files are still images with the same pixels."""
    pixels = set()
    for data in files:
        file = read(data or b"")
        limits.check(file.width, file.height)
        with WebPImageFile(io.BytesIO(data or b"")) as image:
            if image.n_frames > 1:
                return False
            pixels.add(image.tobytes())
    return len(pixels) == 1


def matches(head: bytes) -> bool:
    """Return whether a file starts like a WebP."""
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode a WebP."""
    file = read(data)
    limits.check(file.width, file.height, file.frames)
    orientation = exif.orientation(file.exif)
    with WebPImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size, image.n_frames)
        if image.n_frames == 1:
            return single_frame(
                ImageFormat.WEBP, *normalised(image), orientation, is_tone_mapped=is_hdr(image)
            )
        decoded = DecodedImage(ImageFormat.WEBP, [], play_count=image.info.get("loop", 0))
        return with_pillow_frames(decoded, image, limits, orientation)


def encode(decoded: DecodedImage, settings: EncodeSettings) -> bytes:
    """Return the image as a lossy WebP."""
    frames, icc = decoded.frames_as_rgb()
    options: dict[str, Any] = {"quality": settings.quality, "icc_profile": icc}
    options["method"] = _METHODS[settings.effort]
    if len(frames) > 1:
        options |= animation_options(frames) | {"loop": min(decoded.play_count, _MAX_LOOPS)}
    return save(frames[0].image, "WEBP", **options)


def fits(decoded: DecodedImage) -> bool:
    """Return whether the durations of an animation are within the limits."""
    durations = [frame.duration for frame in decoded.frames]
    return len(durations) == 1 or (
        max(durations) <= _MAX_DURATION and sum(durations) <= _MAX_TOTAL_DURATION
    )


CODEC = Codec(matches, decode, encode, strip, fits, repair=repair, peak_bytes_per_pixel=20)
