"""A file's metadata taken out of it, its picture as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from imgsvc.errors import ImageError
from imgsvc.images import gif, isobmff, jpeg, png, webp
from imgsvc.images.sniff import Kind

_STRIPPERS: Mapping[Kind, Callable[[bytes], bytes]] = {
    Kind.JPEG: jpeg.strip,
    Kind.PNG: png.strip,
    Kind.WEBP: webp.strip,
    Kind.GIF: gif.strip,
    Kind.AVIF: isobmff.strip,
    Kind.HEIC: isobmff.strip,
}


def strip(data: bytes, kind: Kind) -> bytes:
    """The picture's own file without metadata, never larger than `data`.

    Orientation, colour profile and animation stay. Where the file's structure cannot be followed, as
    lenient decoders can, it is returned as it came.
    """
    try:
        stripped = _STRIPPERS[kind](data)
    except (ImageError, IndexError, ValueError):
        return data
    return stripped if len(stripped) <= len(data) else data
