"""The JPEG format. `fast_jpeg.py` reads and writes ordinary files without Pillow."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from PIL.JpegImagePlugin import JpegImageFile

from imgsvc.errors import ImageError
from imgsvc.image_types import ImageFormat
from imgsvc.images import colour, exif
from imgsvc.images.compose import Frame
from imgsvc.images.errors import corrupt, truncated
from imgsvc.images.formats import fast_jpeg
from imgsvc.images.formats.base import (
    Codec,
    DecodedImage,
    DecodeLimits,
    EncodeSettings,
    normalised,
    save,
    single_frame,
)
from imgsvc.images.jpeg_quality import jpeg_quality

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SUPPORTED_FRAMES = {0xC0, 0xC1, 0xC2}
_KNOWN_MARKERS = _SUPPORTED_FRAMES | {
    _SOI,
    _EOI,
    _SOS,
    0xC4,
    0xDB,
    0xDD,
    _COM,
    *range(_APP0, _APP15 + 1),
}
_JFIF_BYTES = 18
"""Size of a JFIF segment with its marker and without a thumbnail."""

_PROFILE_ID = b"ICC_PROFILE\0"
_PROFILE_BYTES_PER_SEGMENT = 65_533 - len(_PROFILE_ID) - 2
"""Bytes of a profile that fit into one segment."""

_EXTRA_CODED_DATA = bytes(range(0xFF))
"""Additional coded data, to detect whether a scan is complete."""

_STANDALONE_MARKERS = {0x01, *range(0xD0, 0xD8)}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Segment(NamedTuple):
    """A segment: its marker, and its start and end in the file. The start includes the marker."""

    marker: int
    start: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of the first image in `data`, including its scans' coded data and its EOI.

    `start` and `end` enclose a segment with its marker. Bytes between segments are padding. Raises
    `corrupt_image` if the file ends before its EOI.
    """
    yield Segment(_SOI, 0, 2)
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            raise truncated()
        while data[position + 1 : position + 2] == b"\xff":
            position += 1
        if position + 1 >= len(data):
            raise truncated()
        marker = data[position + 1]
        if marker == _EOI:
            yield Segment(marker, position, position + 2)
            return
        if marker == 0 or marker in _STANDALONE_MARKERS:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if length < 2:
            raise corrupt("The JPEG file is damaged: a segment has no length.")
        end = position + 2 + length
        if marker == _SOS:
            end = _scan_end(data, end)
        yield Segment(marker, position, end)
        position = end


def coded_bytes(data: bytes) -> int:
    """Return the size of the scans of the first image in `data`, in bytes.

    Raise `corrupt_image` if the file ends before its EOI, or has segments that decoders do not
    know.
    """
    size = 0
    for segment in segments(data):
        if segment.marker not in _KNOWN_MARKERS:
            raise corrupt("The JPEG file is damaged: it has a segment of unknown type.")
        if segment.marker == _SOS:
            size += segment.end - segment.start
    return size


def _scan_end(data: bytes, position: int) -> int:
    """Return the position of the next marker that is not a restart marker or a stuffed byte."""
    marker = _NEXT_MARKER.search(data, position)
    if marker is None:
        raise truncated()
    return marker.start()


def with_extra_coded_data(data: bytes) -> bytes:
    """Return the file with additional coded data before its EOI.

    A complete image looks the same with it. An image that was truncated and then closed with an EOI
    looks different. If the structure of the file cannot be parsed, return it unchanged.
    """
    try:
        *_, end = segments(data)
    except ImageError:
        return data
    return data[: end.start] + _EXTRA_CODED_DATA + data[end.start : end.end]


def unsupported_coding(data: bytes) -> str | None:
    """Return the name of a JPEG coding that our decoders do not support, or None."""
    try:
        for segment in segments(data):
            if segment.marker in _FRAME_MARKERS:
                if segment.marker not in _SUPPORTED_FRAMES:
                    return "JPEG files with lossless, hierarchical or arithmetic coding"
                depth = data[segment.start + 4]
                return None if depth == 8 else f"JPEG files with {depth} bits per sample"
    except (ImageError, IndexError):
        pass
    return None


def strip(data: bytes) -> bytes:
    """Return the first image of a JPEG file without metadata, and without data after it.

    Keep what affects how it looks: the JFIF and Adobe markers, the colour profile, and, if the image
    is not upright, an EXIF block with only the orientation.
    """
    kept = []
    orientation = 1
    has_orientation = False
    for segment in segments(data):
        if segment.marker == _APP1 and not has_orientation:
            body = data[segment.start + 4 : segment.end]
            if body.startswith(b"Exif\0\0"):
                orientation, has_orientation = exif.orientation(body), True
        if not _is_metadata(data, segment):
            kept.append(_without_thumbnail(data[segment.start : segment.end]))
    if orientation != 1:
        body = b"Exif\0\0" + exif.orientation_block(orientation)
        index = 2 if len(kept) > 1 and kept[1].startswith(b"\xff\xe0") else 1
        kept.insert(index, b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body)
    return b"".join(kept)


def with_profile(data: bytes, icc: bytes | None) -> bytes:
    """Return the JPEG file with a colour profile inserted after its JFIF segment.

    The file must start with a JFIF segment, as libjpeg writes it.
    """
    if icc is None:
        return data
    size = _PROFILE_BYTES_PER_SEGMENT
    parts = [icc[start : start + size] for start in range(0, len(icc), size)]
    bodies = (
        _PROFILE_ID + bytes((number, len(parts))) + part for number, part in enumerate(parts, 1)
    )
    markers = (b"\xff\xe2" + (len(body) + 2).to_bytes(2, "big") + body for body in bodies)
    insert_at = 2 + _JFIF_BYTES
    return b"".join((data[:insert_at], *markers, data[insert_at:]))


def _without_thumbnail(segment: bytes) -> bytes:
    if not segment.startswith(b"\xff\xe0") or len(segment) <= _JFIF_BYTES:
        return segment
    return b"\xff\xe0" + (_JFIF_BYTES - 2).to_bytes(2, "big") + segment[4:16] + b"\0\0"


def _is_metadata(data: bytes, segment: Segment) -> bool:
    if segment.marker == _COM:
        return True
    if not _APP0 <= segment.marker <= _APP15:
        return False
    kept_ids = {_APP0: b"JFIF\0", _APP2: _PROFILE_ID, _APP14: b"Adobe"}
    kept_id = kept_ids.get(segment.marker)
    return kept_id is None or not data.startswith(kept_id, segment.start + 4)


def matches(head: bytes) -> bool:
    """Return whether a file starts like a JPEG, but not like a JPEG-LS."""
    return head.startswith(b"\xff\xd8\xff") and head[3:4] != b"\xf7"


def decode(data: bytes, limits: DecodeLimits) -> DecodedImage:
    """Decode a JPEG, or the first image of an MPO."""
    with JpegImageFile(io.BytesIO(data)) as image:
        limits.check(*image.size)
        quality = _quality(image)
        orientation = exif.orientation(image.info.get("exif"))
        if limits.allow_pixel_array and image.mode == "RGB" and orientation == 1:
            decoded = _decode_fast(data, image, quality)
            if decoded is not None:
                return decoded
        image.load()
        if _is_fill_colour(image.getpixel((image.width - 1, image.height - 1))):
            with JpegImageFile(io.BytesIO(with_extra_coded_data(data))) as extended:
                extended.load()
                if extended.tobytes() != image.tobytes():
                    raise truncated()
        return single_frame(ImageFormat.JPEG, *normalised(image), orientation, quality)


def _decode_fast(data: bytes, image: JpegImageFile, quality: int | None) -> DecodedImage | None:
    """Decode a JPEG into a pixel array. Return None if Pillow has to decode it."""
    try:
        size = coded_bytes(data)
    except ImageError:
        return None
    pixel_array = fast_jpeg.decode(data, *image.size)
    if pixel_array is None or _is_fill_colour(tuple(pixel_array[-1, -1].tolist())):
        return None
    icc = colour.rgb_profile(image.info.get("icc_profile"))
    return DecodedImage(
        ImageFormat.JPEG,
        [Frame(image)],
        icc,
        quality,
        pixel_array=pixel_array,
        min_stripped_bytes=size,
    )


def _is_fill_colour(pixel: float | tuple[int, ...] | None) -> bool:
    """Return whether the last pixel has the grey that libjpeg uses for missing coded data."""
    return set(pixel if isinstance(pixel, tuple) else (pixel,)) <= {127, 128}


def _quality(image: JpegImageFile) -> int | None:
    tables = image.quantization
    used = list(dict.fromkeys(layer[3] for layer in image.layer if layer[3] in tables))
    return jpeg_quality(*(tables[number] for number in used[:2])) if used else None


def encode(decoded: DecodedImage, settings: EncodeSettings) -> bytes:
    """Return the first frame as a JPEG, on white if it has transparency."""
    if decoded.pixel_array is not None:
        data = fast_jpeg.encode(decoded.pixel_array, settings.quality, decoded.min_stripped_bytes)
        return with_profile(data, decoded.icc)
    image = colour.flatten_on_white(decoded.first_image)
    return save(
        image,
        "JPEG",
        quality=settings.quality,
        optimize=True,
        progressive=settings.progressive,
        icc_profile=decoded.icc,
    )


CODEC = Codec(matches, decode, encode, strip, unsupported_variant=unsupported_coding)
