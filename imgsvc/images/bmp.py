"""What Pillow leaves to its callers in BMP files."""

from __future__ import annotations

import struct

_COMPRESSIONS = range(14)
_V5_HEADER = struct.pack("<I", 124)
_EMBEDDED = b"DEBM"
_DEPTHS = {0, 1, 2, 4, 8, 16, 24, 32}


def has_header(data: bytes) -> bool:
    """Whether the file has a header that makes sense, and some data behind it."""
    pixels = int.from_bytes(data[10:14], "little")
    short = int.from_bytes(data[14:18], "little") in {12, 16} and data[14] == 12
    depth = int.from_bytes(data[24:26] if short else data[28:30], "little")
    compression = 0 if short else int.from_bytes(data[30:34], "little")
    return pixels < len(data) and depth in _DEPTHS and compression in _COMPRESSIONS


def profile(data: bytes) -> bytes | None:
    """The colour profile that a file with a version 5 header embeds."""
    if data[14:18] != _V5_HEADER or data[70:74] != _EMBEDDED:
        return None
    start, size = struct.unpack_from("<II", data, 126)
    return data[14 + start : 14 + start + size]
