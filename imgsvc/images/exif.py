"""Read and write the orientation in EXIF: the only EXIF field that affects how an image looks."""

from __future__ import annotations

import struct

from PIL import Image

_TAG_ORIENTATION = 0x0112
_TYPE_SHORT = 3
_MAX_IFD_ENTRIES = 1_000

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = range(5, 9)
"""The orientations that exchange width and height."""


def orientation(exif: bytes | None) -> int:
    """Return the orientation of an EXIF block, 1 to 8. It is 1 (upright) if the block has none.

    `exif` may start with the `Exif` marker of JPEG files.
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 14:
        return 1
    start = struct.unpack_from(f"{order}I", tiff, 4)[0]
    if start + 2 > len(tiff):
        return 1
    count = struct.unpack_from(f"{order}H", tiff, start)[0]
    for offset in range(start + 2, start + 2 + 12 * min(count, _MAX_IFD_ENTRIES), 12):
        if offset + 12 > len(tiff):
            break
        tag, field_type, values, value = struct.unpack_from(f"{order}HHIH", tiff, offset)
        if tag == _TAG_ORIENTATION:
            # Browsers ignore an entry that does not have exactly one value.
            is_valid = field_type == _TYPE_SHORT and values == 1 and value in _TRANSPOSES
            return value if is_valid else 1
    return 1


def orientation_block(value: int) -> bytes:
    """Return the smallest EXIF block with this orientation, without the marker of JPEG files."""
    return struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, _TAG_ORIENTATION, _TYPE_SHORT, 1, value, 0, 0)


def upright_size(size: tuple[int, int], value: int) -> tuple[int, int]:
    """Return the size of an image after it is turned upright, given its EXIF orientation `value`."""
    return size[::-1] if value in _SIDEWAYS else size


def apply_orientation(image: Image.Image, value: int) -> Image.Image:
    """Return the image turned upright, given its EXIF orientation `value`."""
    transpose = _TRANSPOSES.get(value)
    return image if transpose is None else image.transpose(transpose)
