"""The container of AVIF and HEIC (ISO/IEC 14496-12 and 23008-12), as far as metadata needs it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from imgsvc.images.errors import truncated

MAX_SIDE = 32_768
"""The largest width and height that libavif, and what shows AVIF by it, decodes."""

_REPEATS = 1
_EMPTY_EXIF = struct.pack(">I", 0) + struct.pack("<4sIHI", b"II*\0", 8, 0, 0)


class Box(NamedTuple):
    """A box's type, and where its body lies in the file."""

    kind: bytes
    start: int
    end: int


def boxes(data: bytes, start: int = 0, limit: int | None = None) -> Iterator[Box]:
    """The boxes between `start` and `limit`. Raises `corrupt_image` where one is cut short."""
    limit = len(data) if limit is None else limit
    while start + 8 <= limit:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            if start + 16 > limit:
                raise truncated()
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        end = limit if size == 0 else start + size
        if (size and size < head) or end > limit:
            raise truncated()
        yield Box(kind, start + head, end)
        start = end


def check_whole(data: bytes) -> None:
    """Raise `corrupt_image` where the file ends before its last box does."""
    for _ in boxes(data):
        pass


def strip(data: bytes) -> bytes:
    """The file with its EXIF and XMP emptied in place.

    Nothing moves, so no offset in the file has to change. The orientation lies elsewhere
    (`irot`, `imir`), and stays.
    """
    out = bytearray(data)
    for box in boxes(data):
        if box.kind == b"meta":
            _empty_items(data, out, list(boxes(data, box.start + 4, box.end)))
    return bytes(out)


def code_points(data: bytes) -> tuple[int, int] | None:
    """The code points (ITU-T H.273) of a picture's primaries and transfer; None where it has none."""
    for properties in _inside(data, b"meta", b"iprp", skipping=4):
        for container in _find(data, b"ipco", properties):
            for colours in _find(data, b"colr", container):
                if data.startswith(b"nclx", colours.start):
                    primaries, transfer = struct.unpack_from(">HH", data, colours.start + 4)
                    return primaries, transfer
    return None


def plays(data: bytes) -> int:
    """How often an AVIF sequence runs, 0 for ever, as libavif reads it from its first track."""
    track = next(_inside(data, b"moov", b"trak"), None)
    if track is None:
        return 0
    head = next(_find(data, b"tkhd", track), None)
    edits = next(_edits(data, track), None)
    if head is None or edits is None or not data[edits.start + 3] & _REPEATS:
        return 0 if edits is None else 1
    once = int.from_bytes(data[slice(*_span(data, edits, (8, 4), (8, 8)))], "big")
    span = _track_duration(data, head)
    whole = int.from_bytes(data[slice(*span)], "big")
    if not once or whole == (1 << 8 * (span[1] - span[0])) - 1:
        return 0
    return -(-whole // once)


def with_plays(data: bytes, count: int) -> bytes:
    """The AVIF sequence that libavif wrote to run for ever, made to run `count` times."""
    out = bytearray(data)
    once = 0
    for track in _inside(data, b"moov", b"trak"):
        edits = next(_edits(data, track))
        once = int.from_bytes(data[slice(*_span(data, edits, (8, 4), (8, 8)))], "big")
        head = next(_find(data, b"tkhd", track))
        first, end = _track_duration(data, head)
        out[first:end] = (once * count).to_bytes(end - first, "big")
    for head in _inside(data, b"moov", b"mvhd"):
        first, end = _span(data, head, (16, 4), (24, 8))
        out[first:end] = (once * count).to_bytes(end - first, "big")
    return bytes(out)


def _track_duration(data: bytes, head: Box) -> tuple[int, int]:
    return _span(data, head, (20, 4), (28, 8))


def _span(data: bytes, box: Box, old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    """Where a field lies whose offset and size differ between a box's versions 0 and 1."""
    offset, size = new if data[box.start] else old
    return box.start + offset, box.start + offset + size


def _find(data: bytes, kind: bytes, within: Box) -> Iterator[Box]:
    return (box for box in boxes(data, within.start, within.end) if box.kind == kind)


def _edits(data: bytes, track: Box) -> Iterator[Box]:
    for edts in _find(data, b"edts", track):
        yield from _find(data, b"elst", edts)


def _inside(data: bytes, outer: bytes, kind: bytes, skipping: int = 0) -> Iterator[Box]:
    for box in boxes(data):
        if box.kind == outer:
            yield from _find(data, kind, box._replace(start=box.start + skipping))


def _empty_items(data: bytes, out: bytearray, inside: list[Box]) -> None:
    find = {box.kind: box for box in inside}
    if b"iinf" not in find or b"iloc" not in find:
        return
    kinds = dict(_item_kinds(data, find[b"iinf"]))
    within = find.get(b"idat")
    for item, method, extents in _locations(data, find[b"iloc"]):
        if item not in kinds or method > 1 or (method == 1 and within is None):
            continue
        base = within.start if method == 1 and within is not None else 0
        filling = _EMPTY_EXIF if kinds[item] == b"Exif" else b""
        pad = b"\0" if kinds[item] == b"Exif" else b" "
        for offset, declared in extents:
            first = base + offset
            length = min(declared or len(data), len(data) - first)
            if length > 0:
                out[first : first + length] = filling[:length].ljust(length, pad)
                filling = filling[length:]


def _item_kinds(data: bytes, box: Box) -> Iterator[tuple[int, bytes]]:
    """The items that are metadata: their numbers and types."""
    counted = box.start + (6 if data[box.start] == 0 else 8)
    for entry in boxes(data, counted, box.end):
        version, at = data[entry.start], entry.start + 4
        if entry.kind != b"infe" or version < 2:
            continue
        wide = 2 if version == 2 else 4
        item = int.from_bytes(data[at : at + wide], "big")
        kind = data[at + wide + 2 : at + wide + 6]
        about = data[at + wide + 6 : entry.end]
        if kind == b"Exif" or (kind == b"mime" and b"rdf+xml" in about):
            yield item, kind


def _locations(data: bytes, box: Box) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Each item's number, how its place is told, and its extents (offset, length)."""
    version = data[box.start]
    at = box.start + 4
    sizes = data[at : at + 2]
    offset_size, length_size = sizes[0] >> 4, sizes[0] & 15
    base_size, index_size = sizes[1] >> 4, sizes[1] & 15 if version else 0
    at += 2

    def number(size: int) -> int:
        nonlocal at
        if at + size > box.end:
            raise truncated()
        at += size
        return int.from_bytes(data[at - size : at], "big")

    wide = 4 if version == 2 else 2
    for _ in range(number(wide)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        extents = []
        for _ in range(number(2)):
            number(index_size)
            offset = base + number(offset_size)
            extents.append((offset, number(length_size)))
        yield item, method, extents
