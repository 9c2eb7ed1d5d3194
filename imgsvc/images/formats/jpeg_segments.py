"""Read and edit the segments of JPEG files (ITU-T T.81, annex B)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.images import exif
from imgsvc.images.errors import corrupt, truncated
from imgsvc.images.part_limits import MAX_SCANS, check_blocks, check_scans

SOI, EOI, SOS, DHT, DQT, DRI = 0xD8, 0xD9, 0xDA, 0xC4, 0xDB, 0xDD
APP0, APP1, APP2, APP14, APP15, COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = 0xC2
_SUPPORTED_FRAMES = {0xC0, 0xC1, PROGRESSIVE}
_KNOWN_MARKERS = _SUPPORTED_FRAMES | {
    SOI,
    EOI,
    SOS,
    DHT,
    DQT,
    DRI,
    COM,
    *range(APP0, APP15 + 1),
}
_JFIF_BYTES = 18
"""Size of a JFIF segment with its marker and without a thumbnail."""

PROFILE_ID = b"ICC_PROFILE\0"
_PROFILE_BYTES_PER_SEGMENT = 65_533 - len(PROFILE_ID) - 2
"""Bytes of a profile that fit into one segment."""

_EXTRA_CODED_DATA = bytes(range(0xAA, 0xFF)) + bytes(range(0xAA))
"""Additional coded data, to detect whether a scan is complete. libjpeg reads zeros after the end."""

_GAIN_MAP_XMP = b"http://ns.adobe.com/hdr-gain-map/"
_GAIN_MAP_ID = b"urn:iso:std:iso:ts:21496:-1\0"
_APPLE_GAIN_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"

_RESTARTS = range(0xD0, 0xD8)
_FILL = 0xFF
_STANDALONE_MARKERS = {0x01, *_RESTARTS}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff]")
_NEXT_MARKER_IN_RESTARTED_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""libjpeg skips all other markers in a scan that has restart markers."""

_MULTI_SCAN_MARKERS = {SOS, EOI, DHT, DQT, DRI, COM, *range(APP0, APP15 + 1)}
"""The markers that can follow a scan of an image that has several."""


_SCAN_START = b"\xff\xda"


class Segment(NamedTuple):
    """A segment: its marker, and its start and end in the file. The start includes the marker."""

    marker: int
    start: int
    end: int


def segments(data: bytes, *, scans: bool = True) -> Iterator[Segment]:
    """Yield the segments of the first image in `data`, including its scans' coded data and its EOI.

    `start` and `end` enclose a segment with its marker. Bytes between segments are padding. Without
    `scans`, stop before the first scan: finding its end takes time. Raise `corrupt_image` if the file
    ends before its EOI, or `too_many_pixels` if it has too many segments.
    """
    yield Segment(SOI, 0, 2)
    position = 2
    has_restarts = False
    for count in itertools.count():
        check_blocks(count)
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            raise truncated()
        marker = data[position + 1]
        if marker == _FILL:
            position += 1
            continue
        if marker == EOI:
            yield Segment(marker, position, position + 2)
            return
        if marker == 0 or marker in _STANDALONE_MARKERS:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if length < 2:
            raise corrupt("The JPEG file is damaged: a segment has no length.")
        end = position + 2 + length
        if marker == DRI:
            has_restarts = any(data[position + 4 : position + 6])
        if marker == SOS:
            if not scans:
                return
            end = _scan_end(data, end, has_restarts=has_restarts)
        yield Segment(marker, position, end)
        position = end


def coded_bytes(data: bytes) -> int:
    """Return the size of the scans of the first image in `data`, in bytes.

    Raise `corrupt_image` if the file ends before its EOI, has segments that decoders do not know, or
    has something after a scan that cannot follow it: then coded data is damaged.
    """
    size = components = position = 0
    expected = _KNOWN_MARKERS
    is_progressive = has_scan = False
    for marker, start, end in segments(data):
        if marker not in expected or (has_scan and start != position):
            raise corrupt("The JPEG file is damaged: it has a segment of unknown type.")
        if marker in FRAME_MARKERS:
            is_progressive, components = marker == PROGRESSIVE, data[start + 9]
        elif marker == SOS:
            size += end - start
            has_scan = True
            is_whole = data[start + 4] == components and not is_progressive
            expected = {EOI} if is_whole else _MULTI_SCAN_MARKERS
        position = end
    return size


def check_counts(data: bytes) -> None:
    """Raise `too_many_pixels` if the first image in `data` has too many segments or scans.

    This reads only the header of a file with few scans. In what cannot be parsed, count whatever looks
    like the start of a scan.
    """
    has_few_scans = data.count(_SCAN_START) <= MAX_SCANS
    scans = position = 0
    try:
        for segment in segments(data):
            position = segment.end
            if segment.marker == SOS:
                scans += 1
                check_scans(scans)
                if has_few_scans:
                    return
    except ImageError as error:
        if error.code is ImageErrorCode.TOO_MANY_PIXELS:
            raise
        check_scans(scans + data.count(_SCAN_START, position))


def _scan_end(data: bytes, position: int, *, has_restarts: bool) -> int:
    """Return the position of the marker at which libjpeg ends a scan."""
    pattern = _NEXT_MARKER_IN_RESTARTED_SCAN if has_restarts else _NEXT_MARKER
    marker = pattern.search(data, position)
    if marker is None:
        raise truncated()
    return marker.start()


def with_extra_coded_data(data: bytes) -> bytes:
    """Return the file with additional coded data at the end of each scan.

    A complete image looks the same with it. An image with a truncated or damaged scan looks different.
    """
    parts = []
    position = 0
    # Damaged coded data can look like a segment that is longer than the file.
    with suppress(ImageError):
        for marker, start, end in segments(data):
            if marker == SOS:
                parts += [data[position:end], _extra_coded_data(data[start:end])]
                position = end
    return b"".join((*parts, data[position:]))


def _extra_coded_data(scan: bytes) -> bytes:
    """Return coded data for the end of a scan: in this restart interval, and in the next ones."""
    marker = scan.rfind(b"\xff", 0, -1)
    while marker >= 0 and scan[marker + 1] not in _RESTARTS:
        marker = scan.rfind(b"\xff", 0, marker)
    number = scan[marker + 1] + 1 if marker >= 0 else _RESTARTS.start
    restarts = (b"\xff%c" % (_RESTARTS[(number + step) % 8]) for step in range(8))
    return _EXTRA_CODED_DATA.join((b"", *restarts, b""))


def unsupported_coding(data: bytes) -> str | None:
    """Return the name of a JPEG coding that our decoders do not support, or None."""
    try:
        for segment in segments(data):
            if segment.marker in FRAME_MARKERS:
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
    first_scan = None
    for segment in segments(data):
        if segment.marker == SOS and first_scan is None:
            first_scan = segment.start
        if first_scan is not None:
            end = segment.end
            continue
        if segment.marker == APP1 and not has_orientation:
            body = data[segment.start + 4 : segment.end]
            if body.startswith(b"Exif\0\0"):
                orientation, has_orientation = exif.orientation(body), True
        if not _is_metadata(data, segment):
            kept.append(_without_thumbnail(data[segment.start : segment.end]))
    if first_scan is not None:
        # Damaged coded data can look like a segment, so what follows the first scan stays as it is.
        kept.append(data[first_scan:end])
    if orientation != 1:
        index = 2 if len(kept) > 1 and kept[1].startswith(b"\xff\xe0") else 1
        kept.insert(index, orientation_segment(orientation))
    return b"".join(kept)


def orientation_segment(orientation: int) -> bytes:
    """Return an EXIF segment with only this orientation."""
    body = b"Exif\0\0" + exif.orientation_block(orientation)
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def with_profile(data: bytes, icc: bytes | None) -> bytes:
    """Return the JPEG file with a colour profile inserted after its JFIF segment.

    The file must start with a JFIF segment, as libjpeg writes it.
    """
    if icc is None:
        return data
    size = _PROFILE_BYTES_PER_SEGMENT
    parts = [icc[start : start + size] for start in range(0, len(icc), size)]
    bodies = (
        PROFILE_ID + bytes((number, len(parts))) + part for number, part in enumerate(parts, 1)
    )
    markers = (b"\xff\xe2" + (len(body) + 2).to_bytes(2, "big") + body for body in bodies)
    insert_at = 2 + _JFIF_BYTES
    return b"".join((data[:insert_at], *markers, data[insert_at:]))


def has_gain_map(data: bytes) -> bool:
    """Return whether the file has a gain map, from which HDR screens show a brighter image.

    Ultra HDR and ISO 21496-1 name it in the metadata of the first image. Apple names it in that of an
    image after the first.
    """
    has_other_images = False
    try:
        for marker, start, end in segments(data, scans=False):
            if marker == APP1 and data.find(_GAIN_MAP_XMP, start, end) >= 0:
                return True
            if marker == APP2 and data.startswith(_GAIN_MAP_ID, start + 4):
                return True
            if marker == APP2 and data.startswith(b"MPF\0", start + 4):
                has_other_images = True
    except ImageError:
        return False
    return has_other_images and _APPLE_GAIN_MAP in data


def _without_thumbnail(segment: bytes) -> bytes:
    if not segment.startswith(b"\xff\xe0") or len(segment) <= _JFIF_BYTES:
        return segment
    return b"\xff\xe0" + (_JFIF_BYTES - 2).to_bytes(2, "big") + segment[4:16] + b"\0\0"


def _is_metadata(data: bytes, segment: Segment) -> bool:
    if segment.marker == COM:
        return True
    if not APP0 <= segment.marker <= APP15:
        return False
    kept_ids = {APP0: b"JFIF\0", APP2: PROFILE_ID, APP14: b"Adobe"}
    kept_id = kept_ids.get(segment.marker)
    return kept_id is None or not data.startswith(kept_id, segment.start + 4)
