"""WebP files, chunk by chunk."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from imgsvc.images import exif
from imgsvc.images.errors import corrupt, truncated

MAX_SIDE = 16_383
"""The largest width and height that a WebP picture can have."""

MAX_DURATION, MAX_WHOLE_DURATION = 2**24 - 1, 2**31 - 1
"""The milliseconds that one frame can last, and that libwebp counts in all."""

_HAS_PROFILE, _HAS_EXIF, _HAS_XMP = 0x20, 0x08, 0x04
_LOOKS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"}


class Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class WebP:
    """What a WebP file says of itself."""

    width: int
    height: int
    frames: int
    exif: bytes | None


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks in the RIFF container, with heads and padding. Raises `corrupt_image`."""
    limit = 8 + int.from_bytes(data[4:8], "little")
    if limit > len(data):
        raise truncated()
    at = 12
    while at + 8 <= limit:
        kind, size = struct.unpack_from("<4sI", data, at)
        end = at + 8 + size + (size & 1)
        if at + 8 + size > limit:
            raise truncated()
        yield Chunk(kind, at, min(end, limit))
        at = end


def read(data: bytes) -> WebP:
    """Read everything but the pixels. Raises `corrupt_image`."""
    size: tuple[int, int] | None = None
    frames = 0
    extended = data.startswith(b"VP8X", 12)
    about: bytes | None = None
    for kind, start, end in chunks(data):
        body = data[start + 8 : end]
        if size is None:
            size = _size(kind, body)
        if kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF" and extended:
            about = body
    if size is None:
        raise corrupt("The WebP file has no picture data")
    return WebP(*size, max(frames, 1), about)


def _size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    if kind == b"VP8X" and len(body) >= 10:
        return (
            int.from_bytes(body[4:7], "little") + 1,
            int.from_bytes(body[7:10], "little") + 1,
        )
    if kind == b"VP8 " and len(body) >= 10:
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def strip(data: bytes) -> bytes:
    """The WebP file without what nobody sees, and without anything behind its end.

    Where the picture is not upright an EXIF chunk with nothing but the orientation stays.
    """
    kept = []
    turn = 1
    profile = False
    for kind, start, end in chunks(data):
        if kind == b"EXIF" and turn == 1 and data.startswith(b"VP8X", 12):
            turn = exif.orientation(data[start + 8 : end])
        elif kind in _LOOKS:
            kept.append(data[start:end] + bytes(end - start & 1))
            profile = profile or kind == b"ICCP"
    if turn != 1:
        body = exif.only_orientation(turn)
        kept.append(struct.pack("<4sI", b"EXIF", len(body)) + body)
    if kept and kept[0].startswith(b"VP8X"):
        flags = kept[0][8] & ~(_HAS_EXIF | _HAS_XMP | _HAS_PROFILE)
        flags |= (_HAS_EXIF if turn != 1 else 0) | (_HAS_PROFILE if profile else 0)
        kept[0] = kept[0][:8] + bytes([flags]) + kept[0][9:]
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body
