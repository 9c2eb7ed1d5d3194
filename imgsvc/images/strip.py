"""Remove metadata from an image file without re-encoding the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from imgsvc.errors import ImageError
from imgsvc.images import gif, isobmff, jpeg, png, webp
from imgsvc.images.sniff import ImageFormat

_STRIPPERS: Mapping[ImageFormat, Callable[[bytes], bytes]] = {
    ImageFormat.JPEG: jpeg.strip,
    ImageFormat.PNG: png.strip,
    ImageFormat.WEBP: webp.strip,
    ImageFormat.GIF: gif.strip,
    ImageFormat.AVIF: isobmff.strip,
    ImageFormat.HEIC: isobmff.strip,
}


def strip(data: bytes, image_format: ImageFormat) -> bytes:
    """Return the file without metadata. The result is never larger than `data`.

    Keep the orientation, the colour profile and the animation. If the structure of the file cannot be
    parsed (decoders are more lenient), return the file unchanged.
    """
    try:
        stripped = _STRIPPERS[image_format](data)
    except (ImageError, IndexError, ValueError):
        return data
    return stripped if len(stripped) <= len(data) else data
