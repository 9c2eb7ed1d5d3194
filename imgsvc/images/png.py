"""PNG files, chunk by chunk, animated ones included."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imgsvc.images import exif, icc
from imgsvc.images.compose import Disposal
from imgsvc.images.errors import corrupt, truncated

MAGIC = b"\x89PNG\r\n\x1a\n"
_MAX_PROFILE_BYTES = 4 * 2**20
_LOOKS = {
    *(b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"),
    *(b"acTL", b"fcTL", b"fdAT"),
    *(b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"sBIT", b"bKGD", b"pHYs"),
}
"""The chunks that decide what a person sees."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""
ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""The passes of an interlaced picture: where each begins, and its steps across and down."""
_INFLATED_AT_ONCE = 2**20
_CHECKED = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}


class Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int


@dataclass(slots=True)
class Part:
    """One frame of an animation: its place on the canvas and its compressed data."""

    box: tuple[int, int, int, int]
    duration: float
    disposal: Disposal
    over: bool
    data: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Png:
    """What a PNG file says of itself. `plays` is 0 for ever; `parts` are empty where it is still."""

    width: int
    height: int
    depth: int
    colour_type: int
    header: bytes
    palette: bytes | None = None
    transparency: bytes | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    gamma: int | None = None
    primaries: tuple[int, ...] | None = None
    standard: bool = False
    code_points: tuple[int, int] | None = None
    plays: int = 1
    data: list[bytes] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def colour_key(self) -> tuple[int, ...] | None:
        """The one colour that is transparent, of a grey or RGB picture; None where there is none."""
        samples = {0: 1, 2: 3}.get(self.colour_type)
        if samples is None or self.transparency is None or len(self.transparency) < 2 * samples:
            return None
        return struct.unpack_from(f">{samples}H", self.transparency)

    @property
    def profile(self) -> bytes | None:
        """The colour profile: embedded, or made from what stands for one; None for sRGB."""
        if self.code_points and (made := icc.from_code_points(*self.code_points)):
            return made
        if self.icc is not None or self.standard:
            return self.icc
        return icc.from_gamma(self.gamma, self.primaries)

    def still(self) -> bytes:
        """The default picture as a PNG file of only what its pixels need."""
        return self._file(self.width, self.height, self.data)

    def is_short(self, width: int, height: int, data: Sequence[bytes]) -> bool:
        """Whether a picture's compressed data end before its last row does."""
        wanted = sum(
            rows * (1 + -(-columns * self.depth * _CHANNELS[self.colour_type] // 8))
            for columns, rows in _passes(width, height, interlaced=self.header[12] == 1)
            if columns
        )
        unpacker = zlib.decompressobj()
        for piece in data:
            rest = piece
            while rest and wanted > 0:
                wanted -= len(unpacker.decompress(rest, _INFLATED_AT_ONCE))
                rest = unpacker.unconsumed_tail
        return wanted > 0 and wanted > len(unpacker.flush())

    def frame(self, part: Part) -> bytes:
        """One frame as a PNG file of its own."""
        left, top, right, bottom = part.box
        return self._file(right - left, bottom - top, part.data)

    def _file(self, width: int, height: int, data: Sequence[bytes]) -> bytes:
        pieces = [MAGIC, _chunk(b"IHDR", struct.pack(">II", width, height) + self.header[8:13])]
        if self.palette is not None:
            pieces.append(_chunk(b"PLTE", self.palette))
        if self.transparency is not None and self.colour_type == 3:
            pieces.append(_chunk(b"tRNS", self.transparency))
        pieces += [_chunk(b"IDAT", piece) for piece in data]
        pieces.append(_chunk(b"IEND", b""))
        return b"".join(pieces)


def _passes(width: int, height: int, *, interlaced: bool) -> Iterator[tuple[int, int]]:
    """The columns and rows of a picture's passes."""
    for left, top, across, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        yield -(-(width - left) // across), -(-(height - top) // down)


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks up to IEND; `start` and `end` enclose the whole chunk.

    Raises `corrupt_image` where the file ends before IEND, or a chunk that matters is damaged.
    """
    at = len(MAGIC)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise truncated()
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise truncated()
        if kind in _CHECKED:
            checksum = zlib.crc32(memoryview(data)[at + 4 : end - 4])
            if checksum != int.from_bytes(data[end - 4 : end], "big"):
                raise corrupt("A checksum in the PNG file is wrong: the file is damaged")
        yield Chunk(kind, at, end)
        at = end


def read(data: bytes) -> Png:
    """Read everything but the pixels. Raises `corrupt_image`."""
    png: Png | None = None
    part: Part | None = None
    declared = False
    for kind, start, end in chunks(data):
        body = data[start + 8 : end - 4]
        if png is None:
            if kind != b"IHDR" or len(body) < 13:
                raise corrupt("The PNG file does not begin with its header")
            width, height, depth, colour_type = struct.unpack_from(">IIBB", body)
            png = Png(width, height, depth, colour_type, header=body)
        elif kind == b"acTL" and len(body) >= 8 and not png.data:
            declared = True
            png.plays = int.from_bytes(body[4:8], "big")
        elif kind == b"fcTL" and declared:
            part = _part(body, png)
            png.parts.append(part)
        elif kind == b"IDAT":
            png.data.append(body)
            if part is not None:
                part.data.append(body)
        elif kind == b"fdAT" and part is not None:
            part.data.append(body[4:])
        else:
            _note(png, kind, body)
    if png is None or not png.data:
        raise corrupt("The PNG file has no picture data")
    png.parts = [part for part in png.parts if part.data]
    return png


def _part(body: bytes, png: Png) -> Part:
    if len(body) < 26:
        raise corrupt("A frame header of the animated PNG is too short")
    _, width, height, left, top, num, den, disposal, blend = struct.unpack_from(">5I2H2B", body)
    if not width or not height or left + width > png.width or top + height > png.height:
        raise corrupt("A frame of the animated PNG lies outside of its picture")
    return Part(
        (left, top, left + width, top + height),
        1_000 * num / (den or 100),
        Disposal(min(disposal, 2)),
        over=blend == 1,
    )


def _note(png: Png, kind: bytes, body: bytes) -> None:
    if kind == b"PLTE":
        png.palette = body
    elif kind == b"tRNS":
        png.transparency = body
    elif kind == b"eXIf":
        png.exif = body
    elif kind == b"iCCP":
        png.icc = _profile(body)
    elif kind == b"cICP" and len(body) == 4:
        png.code_points = body[0], body[1]
    elif kind == b"sRGB":
        png.standard = True
    elif kind == b"gAMA" and len(body) == 4:
        png.gamma = int.from_bytes(body, "big")
    elif kind == b"cHRM" and len(body) == 32:
        png.primaries = struct.unpack(">8I", body)


def _profile(body: bytes) -> bytes | None:
    """The colour profile, or None where it is damaged or a decompression bomb."""
    _, found, rest = body.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(rest[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if found and unpacker.eof else None


def strip(data: bytes) -> bytes:
    """The PNG file without what nobody sees, and without anything behind its end.

    Where the picture is not upright an EXIF chunk with nothing but the orientation stays.
    """
    kept = [MAGIC]
    turn = 1
    for kind, start, end in chunks(data):
        if kind == b"eXIf":
            turn = exif.orientation(data[start + 8 : end - 4])
            if turn != 1:
                kept.append(_chunk(b"eXIf", exif.only_orientation(turn)))
        elif kind in _LOOKS:
            kept.append(data[start:end])
    return b"".join(kept)


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
