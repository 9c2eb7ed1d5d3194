"""The one thing in EXIF that a person sees: which way is up."""

from __future__ import annotations

import struct

from PIL import Image

_ORIENTATION = 0x0112
_SHORT = 3
_MAX_ENTRIES = 1_000

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(exif: bytes | None) -> int:
    """The orientation, 1 to 8, that an EXIF block asks for; 1 (upright) where it asks for none.

    `exif` may begin with the `Exif` marker that JPEG puts before it.
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 14:
        return 1
    start = struct.unpack_from(f"{order}I", tiff, 4)[0]
    if start + 2 > len(tiff):
        return 1
    count = struct.unpack_from(f"{order}H", tiff, start)[0]
    for at in range(start + 2, start + 2 + 12 * min(count, _MAX_ENTRIES), 12):
        if at + 12 > len(tiff):
            break
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == _ORIENTATION:
            return value if kind == _SHORT and value in _TURNS else 1
    return 1


def only_orientation(value: int) -> bytes:
    """The smallest EXIF block, without JPEG's marker, that says `value`."""
    return struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, _ORIENTATION, _SHORT, 1, value, 0, 0)


def upright(image: Image.Image, value: int) -> Image.Image:
    """The picture, turned as orientation `value` asks; itself where it is upright."""
    turn = _TURNS.get(value)
    return image if turn is None else image.transpose(turn)
