"""JPEG files, segment by segment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from imgsvc.errors import ImageError
from imgsvc.images import exif
from imgsvc.images.errors import corrupt, truncated

MAX_SIDE = 65_500
"""libjpeg's JPEG_MAX_DIMENSION."""

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_READ_FRAMES = {0xC0, 0xC1, 0xC2}
_KNOWN = _READ_FRAMES | {_SOI, _EOI, _SOS, 0xC4, 0xDB, 0xDD, _COM, *range(_APP0, _APP15 + 1)}
_JFIF_BYTES = 18
"""A JFIF segment with its marker, and without a thumbnail."""
_PROFILE = b"ICC_PROFILE\0"
_PROFILE_PART = 65_533 - len(_PROFILE) - 2
"""Bytes of a profile that a segment has room for."""
_MORE = bytes(range(0xFF))
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Segment(NamedTuple):
    marker: int
    start: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """The segments of the first picture in `data`, scans with their coded data, EOI included.

    `start` and `end` enclose a segment with its marker; bytes between segments are filling. Raises
    `corrupt_image` where the file ends before its EOI.
    """
    yield Segment(_SOI, 0, 2)
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            raise truncated()
        while data[at + 1 : at + 2] == b"\xff":
            at += 1
        if at + 1 >= len(data):
            raise truncated()
        marker = data[at + 1]
        if marker == _EOI:
            yield Segment(marker, at, at + 2)
            return
        if marker == 0 or marker in _STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            raise corrupt("A segment of the JPEG file has no length: the file is damaged")
        end = at + 2 + length
        if marker == _SOS:
            end = _end_of_scan(data, end)
        yield Segment(marker, at, end)
        at = end


def coded_bytes(data: bytes) -> int:
    """The size of the scans of the first picture in `data`.

    Raises `corrupt_image` where the file ends before its EOI, or has segments that decoders do not
    know.
    """
    size = 0
    for segment in segments(data):
        if segment.marker not in _KNOWN:
            raise corrupt("The JPEG file has a segment of no known kind: the file is damaged")
        if segment.marker == _SOS:
            size += segment.end - segment.start
    return size


def _end_of_scan(data: bytes, at: int) -> int:
    """Where the next marker is; stuffed bytes and restart markers belong to the scan."""
    marker = _NEXT_MARKER.search(data, at)
    if marker is None:
        raise truncated()
    return marker.start()


def prolonged(data: bytes) -> bytes:
    """The file with more coded data before its EOI.

    What has all its data looks the same; what was cut short does not, where its EOI was put back.
    Where the file's structure cannot be followed it is returned as it came.
    """
    try:
        *_, end = segments(data)
    except ImageError:
        return data
    return data[: end.start] + _MORE + data[end.start : end.end]


def unusual(data: bytes) -> str | None:
    """What is rare about a JPEG file whose coding no decoder at hand reads; None where nothing is."""
    try:
        for segment in segments(data):
            if segment.marker in _FRAMES:
                if segment.marker not in _READ_FRAMES:
                    return "JPEG with lossless, hierarchical or arithmetic coding"
                depth = data[segment.start + 4]
                return None if depth == 8 else f"JPEG with {depth} bits per sample"
    except (ImageError, IndexError):
        pass
    return None


def strip(data: bytes) -> bytes:
    """The first picture of a JPEG file without metadata, and without anything behind it.

    What decides its looks stays: JFIF and Adobe markers, the colour profile, and, where the picture
    is not upright, an EXIF block with nothing but the orientation.
    """
    kept = []
    turn = 1
    turn_known = False
    for segment in segments(data):
        if segment.marker == _APP1 and not turn_known:
            body = data[segment.start + 4 : segment.end]
            if body.startswith(b"Exif\0\0"):
                turn, turn_known = exif.orientation(body), True
        if not _is_metadata(data, segment):
            kept.append(_without_thumbnail(data[segment.start : segment.end]))
    if turn != 1:
        body = b"Exif\0\0" + exif.only_orientation(turn)
        place = 2 if len(kept) > 1 and kept[1].startswith(b"\xff\xe0") else 1
        kept.insert(place, b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body)
    return b"".join(kept)


def with_profile(data: bytes, icc: bytes | None) -> bytes:
    """A JPEG file, as libjpeg begins it with a JFIF segment, with a colour profile put behind that."""
    if icc is None:
        return data
    parts = [icc[at : at + _PROFILE_PART] for at in range(0, len(icc), _PROFILE_PART)]
    bodies = (_PROFILE + bytes((number, len(parts))) + part for number, part in enumerate(parts, 1))
    markers = (b"\xff\xe2" + (len(body) + 2).to_bytes(2, "big") + body for body in bodies)
    start = 2 + _JFIF_BYTES
    return b"".join((data[:start], *markers, data[start:]))


def _without_thumbnail(segment: bytes) -> bytes:
    if not segment.startswith(b"\xff\xe0") or len(segment) <= _JFIF_BYTES:
        return segment
    return b"\xff\xe0" + (_JFIF_BYTES - 2).to_bytes(2, "big") + segment[4:16] + b"\0\0"


def _is_metadata(data: bytes, segment: Segment) -> bool:
    if segment.marker == _COM:
        return True
    if not _APP0 <= segment.marker <= _APP15:
        return False
    keeps = {_APP0: b"JFIF\0", _APP2: _PROFILE, _APP14: b"Adobe"}
    keep = keeps.get(segment.marker)
    return keep is None or not data.startswith(keep, segment.start + 4)
