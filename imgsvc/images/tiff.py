"""What Pillow leaves to its callers in TIFF files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image, ImageChops
from PIL.TiffImagePlugin import TiffImageFile

from imgsvc.images import colour
from imgsvc.images.errors import truncated, unsupported

_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 254, 258, 262, 330, 50706
_PLACES = ((273, 279), (324, 325))
"""The tags of offsets and byte counts, of strips and of tiles."""
_WHITE_IS_ZERO = 0


@dataclass(frozen=True, slots=True)
class Page:
    """The first page of a TIFF file, as its tags describe it."""

    bits: int
    white_is_zero: bool
    end: int

    def check_whole(self, size: int) -> None:
        """Raise `corrupt_image` where picture data lies behind the end of a file of `size` bytes."""
        if self.end > size:
            raise truncated()

    def pixels(self, image: Image.Image) -> Image.Image:
        """The loaded picture, with deep greys brought to 8 bits and black made dark."""
        if image.mode.startswith("I;16"):
            grey = colour.scaled(image, (1 << min(self.bits, 16)) - 1)
        elif image.mode in {"I", "F"}:
            grey = colour.ranged(image)
        else:
            return image
        return ImageChops.invert(grey) if self.white_is_zero else grey


def has_header(data: bytes) -> bool:
    """Whether the whole directory of the first page lies within the file."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    if b"+" in data[2:4]:
        offset, counter, entry = data[8:16], 8, 20
    else:
        offset, counter, entry = data[4:8], 2, 12
    start = int.from_bytes(offset, order)
    count = int.from_bytes(data[start : start + counter], order)
    end = start + counter + entry * count + len(offset)
    return start >= 8 and count > 0 and end <= len(data)


def page(image: TiffImageFile) -> Page:
    """The opened file's first page. Raises `unsupported_format` for camera raws, whose first page is
    but a thumbnail."""
    tags = image.tag_v2
    reduced = isinstance(kind := tags.get(_SUBFILE_TYPE), int) and kind & 1
    if _DNG_VERSION in tags or (reduced and _SUB_IFDS in tags):
        raise unsupported("A camera's raw picture")
    bits = _numbers(tags.get(_BITS))
    return Page(
        bits=bits[0] if bits else 1,
        white_is_zero=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        end=max((_end(tags, *place) for place in _PLACES), default=0),
    )


def _end(tags: Any, offsets: int, counts: int) -> int:
    places = zip(_numbers(tags.get(offsets)), _numbers(tags.get(counts)), strict=False)
    return max((offset + count for offset, count in places), default=0)


def _numbers(value: object) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(number for number in values if isinstance(number, int))
