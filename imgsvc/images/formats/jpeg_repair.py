"""Repair JPEG files without an end marker or with invalid metadata, if all pixels are there."""

from __future__ import annotations

import io

from PIL.JpegImagePlugin import JpegImageFile

from imgsvc.errors import ImageError
from imgsvc.images import exif
from imgsvc.images.errors import truncated
from imgsvc.images.formats import jpeg_segments
from imgsvc.images.formats.base import DecodeLimits
from imgsvc.images.formats.jpeg_segments import (
    APP0,
    APP1,
    APP2,
    APP14,
    COM,
    FRAME_MARKERS,
    PROFILE_ID,
    PROGRESSIVE,
    SOS,
)

_SOI_BYTES, _EOI_BYTES = b"\xff\xd8", b"\xff\xd9"
_SHORTEST = {APP0: (b"JFIF\0", 14), APP2: (PROFILE_ID, 15), APP14: (b"Adobe", 12)}
"""The first bytes and the smallest size of the segments that affect how the image looks (libjpeg)."""

_COEFFICIENTS = 64
"""Coefficients of a component's blocks."""


def repair(data: bytes, limits: DecodeLimits) -> bytes:
    """Return the file with an EOI, and with only those segments that affect how it looks.

    Raise `corrupt_image` if coded data is missing.
    """
    header, first_scan = _header(data)
    repaired = header + data[first_scan:]
    try:
        *_, end = jpeg_segments.segments(repaired)
    except ImageError:
        repaired = repaired.removesuffix(b"\xff") + _EOI_BYTES
    else:
        return repaired[: end.end]
    check_all_scans(repaired)
    with JpegImageFile(io.BytesIO(repaired)) as image:
        limits.check(*image.size)
        image.load()
        check_complete(repaired, image)
    return repaired


def check_complete(
    data: bytes, image: JpegImageFile, draft_size: tuple[int, int] | None = None
) -> None:
    """Raise `corrupt_image` if coded data is missing in the scans of a decoded image.

    `draft_size` is the smallest size at which the image was decoded, if that is not its full size.
    """
    extended_file = jpeg_segments.with_extra_coded_data(data)
    with JpegImageFile(io.BytesIO(extended_file)) as extended:
        extended.draft(None, draft_size)
        extended.load()
        if extended.tobytes() != image.tobytes():
            raise truncated()


def check_all_scans(data: bytes) -> None:
    """Raise `corrupt_image` if scans are missing: a component, or the refinement of a coefficient."""
    components: bytes = b""
    done: dict[int, set[int]] = {}
    is_progressive = False
    for segment in jpeg_segments.segments(data):
        body = data[segment.start + 4 : segment.end]
        if segment.marker in FRAME_MARKERS:
            is_progressive = segment.marker == PROGRESSIVE
            components = body[6 : 6 + 3 * body[5] : 3]
        elif segment.marker == SOS:
            count = body[0]
            first, last, shifts = body[1 + 2 * count : 4 + 2 * count]
            if not shifts & 15 or not is_progressive:
                band = range(first, last + 1) if is_progressive else range(_COEFFICIENTS)
                for component in body[1 : 1 + 2 * count : 2]:
                    done.setdefault(component, set()).update(band)
    if any(len(done.get(component, ())) < _COEFFICIENTS for component in components):
        raise truncated()


def _header(data: bytes) -> tuple[bytes, int]:
    """Return the segments before the first scan that affect how the image looks, and its position."""
    kept = [_SOI_BYTES]
    orientation: int | None = None
    # The walk does not reach the end of the file, so it does not matter that the EOI is missing.
    for marker, start, end in jpeg_segments.segments(data + _EOI_BYTES):
        body = data[start + 4 : end]
        if marker == SOS:
            if orientation not in {None, 1}:
                kept.append(jpeg_segments.orientation_segment(orientation or 1))
            return b"".join(kept), start
        if marker == APP1 and orientation is None and body.startswith(b"Exif\0\0"):
            orientation = exif.orientation(body)
        first, size = _SHORTEST.get(marker, (b"", 0))
        is_metadata = APP0 <= marker <= COM and marker not in _SHORTEST
        if start and not is_metadata and body.startswith(first) and len(body) >= size:
            kept.append(data[start:end])
    raise truncated()
