"""Read and edit metadata in the container of AVIF and HEIC (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from imgsvc.errors import ImageError
from imgsvc.images import icc
from imgsvc.images.errors import corrupt, truncated
from imgsvc.images.part_limits import check_blocks, check_items

_BRANDS = dict.fromkeys((b"avif", b"avis"), "avif") | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"), "heic"
)
"""The formats of the brands in the file type box."""

_REPEAT_FLAG = 1
"""Flag of an edit list that repeats."""
_EMPTY_EXIF = struct.pack(">I", 0) + struct.pack("<4sIHI", b"II*\0", 8, 0, 0)
"""An EXIF item without fields."""

_GAIN_MAP_URNS = (b"urn:com:apple:photo:2020:aux:hdrgainmap", b"urn:iso:std:iso:ts:21496:")
"""Types of auxiliary images that are gain maps."""


class Box(NamedTuple):
    """A box: its type, and the start and end of its body in the file."""

    box_type: bytes
    start: int
    end: int


def kind(head: bytes) -> str | None:
    """Return the format of the first known brand, the major brand first: "avif", "heic" or None."""
    if not head.startswith(b"ftyp", 4):
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12]] + [head[position : position + 4] for position in range(16, end - 3, 4)]
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)


def boxes(data: bytes, start: int = 0, limit: int | None = None) -> Iterator[Box]:
    """Yield the boxes between `start` and `limit`. Raise `corrupt_image` if one is incomplete."""
    limit = len(data) if limit is None else limit
    count = 0
    while start + 8 <= limit:
        count += 1
        check_blocks(count)
        size, box_type = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            if start + 16 > limit:
                raise truncated()
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        end = limit if size == 0 else start + size
        if (size and size < header) or end > limit:
            raise truncated()
        yield Box(box_type, start + header, end)
        start = end


def check(data: bytes) -> None:
    """Raise `corrupt_image` if the file ends before its last box ends.

    Raise `too_many_pixels` if it has too many boxes or items.
    """
    for outer in boxes(data):
        if outer.box_type == b"meta":
            for box in _children(data, b"iinf", outer._replace(start=outer.start + 4)):
                for count, _ in enumerate(_item_entries(data, box), 1):
                    check_items(count)


def strip(data: bytes) -> bytes:
    """Return the file with its EXIF and XMP overwritten in place.

    No data moves, so all offsets in the file stay valid. The orientation is stored elsewhere
    (`irot`, `imir`) and is kept.
    """
    out = bytearray(data)
    for box in boxes(data):
        if box.box_type == b"meta":
            _empty_items(data, out, list(boxes(data, box.start + 4, box.end)))
    return bytes(out)


def colour_profile(data: bytes) -> bytes | None:
    """Return an ICC profile for the code points (ITU-T H.273) of the primary image, or None."""
    points: tuple[int, int] | None = None
    peaks = {}
    for box in _primary_properties(data):
        if box.box_type == b"colr" and data.startswith(b"nclx", box.start) and points is None:
            primaries, transfer = struct.unpack_from(">HH", data, box.start + 4)
            points = primaries, transfer
        elif box.box_type == b"clli":
            peaks[b"clli"] = struct.unpack_from(">H", data, box.start)[0]
        elif box.box_type == b"mdcv":
            peaks[b"mdcv"] = struct.unpack_from(">I", data, box.start + 16)[0] // 10_000
    peak = peaks.get(b"clli") or peaks.get(b"mdcv", 0)
    return None if points is None else icc.from_code_points(*points, peak)


def has_gain_map(data: bytes) -> bool:
    """Return whether the file has a gain map, from which HDR screens show a brighter image."""
    try:
        for item in _grandchildren(data, b"meta", b"iinf", skipping=4):
            if any(item_type == b"tmap" for _, item_type, _ in _items(data, item)):
                return True
        return any(
            data.startswith(_GAIN_MAP_URNS, box.start + 4)
            for box in _properties(data)
            if box.box_type == b"auxC"
        )
    except (ImageError, IndexError):
        return False


def _properties(data: bytes) -> list[Box]:
    """Return the properties of all items, in the order of their numbers."""
    return [
        box
        for properties in _grandchildren(data, b"meta", b"iprp", skipping=4)
        for container in _children(data, b"ipco", properties)
        for box in boxes(data, container.start, container.end)
    ]


def _primary_properties(data: bytes) -> list[Box]:
    """Return the properties of the primary item, or of all items if the file does not name it."""
    properties = _properties(data)
    primary = next(_grandchildren(data, b"meta", b"pitm", skipping=4), None)
    if primary is None:
        return properties
    item = int.from_bytes(
        data[primary.start + 4 : primary.start + (8 if data[primary.start] else 6)]
    )
    for parent in _grandchildren(data, b"meta", b"iprp", skipping=4):
        for box in _children(data, b"ipma", parent):
            numbers = _associations(data, box).get(item)
            if numbers is not None:
                return [
                    properties[number - 1] for number in numbers if 0 < number <= len(properties)
                ]
    return properties


def _associations(data: bytes, box: Box) -> dict[int, list[int]]:
    """Return the numbers of the properties of each item, from an `ipma` box."""
    id_size = 4 if data[box.start] else 2
    number_size = 2 if data[box.start + 3] & 1 else 1
    mask = (1 << 8 * number_size - 1) - 1
    reader = _NumberReader(data, box.start + 4, box.end)
    return {
        reader.number(id_size): [reader.number(number_size) & mask for _ in range(reader.number(1))]
        for _ in range(reader.number(4))
    }


def play_count(data: bytes) -> int:
    """Return how many times an AVIF sequence plays; 0 means endless.

    Read it from the first track, like libavif.
    """
    track = next(_grandchildren(data, b"moov", b"trak"), None)
    if track is None:
        return 0
    header = next(_children(data, b"tkhd", track), None)
    edit_list = next(_edit_lists(data, track), None)
    if header is None or edit_list is None or not data[edit_list.start + 3] & _REPEAT_FLAG:
        return 0 if edit_list is None else 1
    duration = int.from_bytes(data[slice(*_field_span(data, edit_list, (8, 4), (8, 8)))], "big")
    span = _track_duration(data, header)
    total = int.from_bytes(data[slice(*span)], "big")
    if not duration or total == (1 << 8 * (span[1] - span[0])) - 1:
        return 0
    return -(-total // duration)


def with_play_count(data: bytes, count: int) -> bytes:
    """Make an endless AVIF sequence, as written by libavif, play `count` times."""
    out = bytearray(data)
    duration = 0
    for track in _grandchildren(data, b"moov", b"trak"):
        edit_list = next(_edit_lists(data, track))
        duration = int.from_bytes(data[slice(*_field_span(data, edit_list, (8, 4), (8, 8)))], "big")
        header = next(_children(data, b"tkhd", track))
        first, end = _track_duration(data, header)
        out[first:end] = (duration * count).to_bytes(end - first, "big")
    for header in _grandchildren(data, b"moov", b"mvhd"):
        first, end = _field_span(data, header, (16, 4), (24, 8))
        out[first:end] = (duration * count).to_bytes(end - first, "big")
    return bytes(out)


def _track_duration(data: bytes, header: Box) -> tuple[int, int]:
    return _field_span(data, header, (20, 4), (28, 8))


def _field_span(
    data: bytes, box: Box, old: tuple[int, int], new: tuple[int, int]
) -> tuple[int, int]:
    """Return the start and end of a field whose offset and size differ between box versions.

    `old` and `new` are (offset, size) in versions 0 and 1 of the box.
    """
    offset, size = new if data[box.start] else old
    return box.start + offset, box.start + offset + size


def _children(data: bytes, box_type: bytes, parent: Box) -> Iterator[Box]:
    return (box for box in boxes(data, parent.start, parent.end) if box.box_type == box_type)


def _edit_lists(data: bytes, track: Box) -> Iterator[Box]:
    for edts in _children(data, b"edts", track):
        yield from _children(data, b"elst", edts)


def _grandchildren(data: bytes, outer: bytes, box_type: bytes, skipping: int = 0) -> Iterator[Box]:
    for box in boxes(data):
        if box.box_type == outer:
            yield from _children(data, box_type, box._replace(start=box.start + skipping))


def _empty_items(data: bytes, out: bytearray, children: list[Box]) -> None:
    children_by_type = {box.box_type: box for box in children}
    if b"iinf" not in children_by_type or b"iloc" not in children_by_type:
        return
    item_types = dict(_metadata_items(data, children_by_type[b"iinf"]))
    parent = children_by_type.get(b"idat")
    written = 0
    for item, method, extents in _locations(data, children_by_type[b"iloc"]):
        if item not in item_types or method > 1 or (method == 1 and parent is None):
            continue
        base = parent.start if method == 1 and parent is not None else 0
        content = _EMPTY_EXIF if item_types[item] == b"Exif" else b""
        pad = b"\0" if item_types[item] == b"Exif" else b" "
        for offset, declared in extents:
            first = base + offset
            length = min(declared or len(data), len(data) - first)
            if length > 0:
                written += length
                if written > len(data):
                    raise corrupt("The file is damaged: its metadata overlaps.")
                out[first : first + length] = content[:length].ljust(length, pad)
                content = content[length:]


def _metadata_items(data: bytes, box: Box) -> Iterator[tuple[int, bytes]]:
    """Yield the number and type of each metadata item."""
    for item, item_type, mime_info in _items(data, box):
        if item_type == b"Exif" or (item_type == b"mime" and b"rdf+xml" in mime_info):
            yield item, item_type


def _items(data: bytes, box: Box) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the number, the type and the other information of each item in an `iinf` box."""
    for entry in _item_entries(data, box):
        version, position = data[entry.start], entry.start + 4
        if entry.box_type != b"infe" or version < 2:
            continue
        id_size = 2 if version == 2 else 4
        item = int.from_bytes(data[position : position + id_size], "big")
        item_type = data[position + id_size + 2 : position + id_size + 6]
        yield item, item_type, data[position + id_size + 6 : entry.end]


def _item_entries(data: bytes, box: Box) -> Iterator[Box]:
    """Yield the entries of an `iinf` box."""
    return boxes(data, box.start + (6 if data[box.start] == 0 else 8), box.end)


class _NumberReader:
    """Reads big-endian numbers up to the end of a box."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self._data = data
        self._position = position
        self._end = end

    def number(self, size: int) -> int:
        """Return the next number, of `size` bytes. Raise `corrupt_image` after the end."""
        self._position += size
        if self._position > self._end:
            raise truncated()
        return int.from_bytes(self._data[self._position - size : self._position], "big")


def _locations(data: bytes, box: Box) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield the number, the construction method and the extents (offset, length) of each item."""
    version = data[box.start]
    position = box.start + 4
    sizes = data[position : position + 2]
    offset_size, length_size = sizes[0] >> 4, sizes[0] & 15
    base_size, index_size = sizes[1] >> 4, sizes[1] & 15 if version else 0
    number = _NumberReader(data, position + 2, box.end).number
    id_size = 4 if version == 2 else 2
    for _ in range(number(id_size)):
        item = number(id_size)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        extents = []
        for _ in range(number(2)):
            number(index_size)
            offset = base + number(offset_size)
            extents.append((offset, number(length_size)))
        yield item, method, extents
