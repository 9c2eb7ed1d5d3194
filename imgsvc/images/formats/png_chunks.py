"""Read and strip PNG and APNG files, chunk by chunk."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from imgsvc.images import exif, icc
from imgsvc.images.compose import Disposal
from imgsvc.images.errors import corrupt, truncated
from imgsvc.images.part_limits import check_blocks, check_frames

MAGIC = b"\x89PNG\r\n\x1a\n"
_MAX_PROFILE_BYTES = 4 * 2**20
_VISUAL_PNG_CHUNKS = {
    *(b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"),
    *(b"acTL", b"fcTL", b"fdAT"),
    *(b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"sBIT", b"bKGD", b"pHYs"),
}
"""The chunks that affect how the image looks."""

_LUMINANCE_FACTOR = 10_000
"""PNG stores luminances as integers, multiplied by this factor."""

_SAMPLES_PER_PIXEL = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel, by colour type."""

ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""The passes of an interlaced image: the left and top start, and the horizontal and vertical step."""

_DECOMPRESS_BYTES = 2**20
"""Bytes that are decompressed at a time, to limit memory."""

_CHECKSUMMED = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
"""Chunks whose checksum must be right."""


class PngChunk(NamedTuple):
    """A chunk: its type, and its start and end in the file, including length and checksum."""

    chunk_type: bytes
    start: int
    end: int


@dataclass(slots=True)
class ApngFrame:
    """One frame of an animation: its box on the canvas and its compressed data.

    The box is left, top, right and bottom in pixels. `duration` is in milliseconds.
    """

    box: tuple[int, int, int, int]
    duration: float
    disposal: Disposal
    blend: bool
    data: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Png:
    """The contents of a PNG file, without its pixels.

    `play_count` 0 means endless. `frames` is empty if the image is not animated. `is_srgb` means that
    the file has an sRGB chunk. The peaks are luminances in cd/m², of the content and of the display it
    was made on; 0 means unknown.
    """

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
    is_srgb: bool = False
    code_points: tuple[int, int] | None = None
    content_peak: int = 0
    display_peak: int = 0
    play_count: int = 1
    data: list[bytes] = field(default_factory=list)
    frames: list[ApngFrame] = field(default_factory=list)

    @property
    def colour_key(self) -> tuple[int, ...] | None:
        """The transparent colour of a grey or RGB image, or None."""
        samples = {0: 1, 2: 3}.get(self.colour_type)
        if samples is None or self.transparency is None or len(self.transparency) < 2 * samples:
            return None
        return struct.unpack_from(f">{samples}H", self.transparency)

    @property
    def profile(self) -> bytes | None:
        """The colour profile: embedded, or built from cICP or gAMA and cHRM. None means sRGB."""
        peak = self.content_peak or self.display_peak
        if self.code_points and (built := icc.from_code_points(*self.code_points, peak)):
            return built
        if self.icc is not None or self.is_srgb:
            return self.icc
        return icc.from_gamma(self.gamma, self.primaries)

    def default_image_file(self) -> bytes:
        """Return the default image as a PNG file with only the chunks that its pixels need."""
        return self._build_file(self.width, self.height, self.data)

    def row_bytes(self, width: int, height: int) -> int:
        """Return the size of an image's rows, which are compressed in its data."""
        return sum(
            rows * (1 + -(-columns * self.depth * _SAMPLES_PER_PIXEL[self.colour_type] // 8))
            for columns, rows in _passes(width, height, interlaced=self.header[12] == 1)
            if columns
        )

    def is_truncated(self, width: int, height: int, data: Sequence[bytes]) -> bool:
        """Return whether the compressed data of an image ends before its last row."""
        missing = self.row_bytes(width, height)
        decompressor = zlib.decompressobj()
        for piece in data:
            rest = piece
            while rest and missing > 0:
                missing -= len(decompressor.decompress(rest, _DECOMPRESS_BYTES))
                rest = decompressor.unconsumed_tail
        return missing > 0 and missing > len(decompressor.flush())

    def frame_file(self, frame: ApngFrame) -> bytes:
        """Return one frame as a separate PNG file."""
        left, top, right, bottom = frame.box
        return self._build_file(right - left, bottom - top, frame.data)

    def _build_file(self, width: int, height: int, data: Sequence[bytes]) -> bytes:
        chunk_list = [
            MAGIC,
            build_chunk(b"IHDR", struct.pack(">II", width, height) + self.header[8:13]),
        ]
        if self.palette is not None:
            chunk_list.append(build_chunk(b"PLTE", self.palette))
        if self.transparency is not None and self.colour_type == 3:
            chunk_list.append(build_chunk(b"tRNS", self.transparency))
        chunk_list += [build_chunk(b"IDAT", piece) for piece in data]
        chunk_list.append(build_chunk(b"IEND", b""))
        return b"".join(chunk_list)


def _passes(width: int, height: int, *, interlaced: bool) -> Iterator[tuple[int, int]]:
    """Yield the numbers of columns and rows of each pass."""
    for left, top, across, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        yield -(-(width - left) // across), -(-(height - top) // down)


def chunks(data: bytes) -> Iterator[PngChunk]:
    """Yield the chunks up to IEND. `start` and `end` enclose the whole chunk.

    Raise `corrupt_image` if the file ends before IEND, or if an essential chunk is damaged.
    """
    position = len(MAGIC)
    chunk_type = b""
    count = 0
    while chunk_type != b"IEND":
        count += 1
        check_blocks(count)
        if position + 12 > len(data):
            raise truncated()
        length, chunk_type = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise truncated()
        if chunk_type in _CHECKSUMMED:
            checksum = zlib.crc32(memoryview(data)[position + 4 : end - 4])
            if checksum != int.from_bytes(data[end - 4 : end], "big"):
                raise corrupt("The PNG file is damaged: a checksum is wrong.")
        yield PngChunk(chunk_type, position, end)
        position = end


def read(data: bytes) -> Png:
    """Parse a PNG file without decoding its pixels. Raise `corrupt_image`."""
    png: Png | None = None
    frame: ApngFrame | None = None
    is_animated = False
    for chunk_type, start, end in chunks(data):
        body = data[start + 8 : end - 4]
        if png is None:
            if chunk_type != b"IHDR" or len(body) < 13:
                raise corrupt("The PNG file is damaged: it does not start with a header.")
            width, height, depth, colour_type = struct.unpack_from(">IIBB", body)
            png = Png(width, height, depth, colour_type, header=body)
        elif chunk_type == b"acTL" and len(body) >= 8 and not png.data:
            is_animated = True
            png.play_count = int.from_bytes(body[4:8], "big")
        elif chunk_type == b"fcTL" and is_animated:
            frame = _parse_frame(body, png)
            png.frames.append(frame)
            check_frames(len(png.frames))
        elif chunk_type == b"IDAT":
            png.data.append(body)
            if frame is not None:
                frame.data.append(body)
        elif chunk_type == b"fdAT" and frame is not None:
            frame.data.append(body[4:])
        else:
            _record_chunk(png, chunk_type, body)
    if png is None or not png.data:
        raise corrupt("The PNG file has no image data.")
    png.frames = [frame for frame in png.frames if frame.data]
    return png


def _parse_frame(body: bytes, png: Png) -> ApngFrame:
    if len(body) < 26:
        raise corrupt("The animated PNG is damaged: a frame header is too short.")
    _, width, height, left, top, numerator, denominator, disposal, blend = struct.unpack_from(
        ">5I2H2B", body
    )
    if not width or not height or left + width > png.width or top + height > png.height:
        raise corrupt("The animated PNG is damaged: a frame is outside the image.")
    return ApngFrame(
        (left, top, left + width, top + height),
        1_000 * numerator / (denominator or 100),
        Disposal(min(disposal, 2)),
        blend=blend == 1,
    )


def _record_chunk(png: Png, chunk_type: bytes, body: bytes) -> None:
    if chunk_type == b"PLTE":
        png.palette = body
    elif chunk_type == b"tRNS":
        png.transparency = body
    elif chunk_type == b"eXIf":
        png.exif = body
    elif chunk_type == b"iCCP":
        png.icc = _decompress_profile(body)
    elif chunk_type == b"cICP" and len(body) == 4:
        png.code_points = body[0], body[1]
    elif chunk_type == b"cLLI" and len(body) == 8:
        png.content_peak = int.from_bytes(body[:4], "big") // _LUMINANCE_FACTOR
    elif chunk_type == b"mDCV" and len(body) == 24:
        png.display_peak = int.from_bytes(body[16:20], "big") // _LUMINANCE_FACTOR
    elif chunk_type == b"sRGB":
        png.is_srgb = True
    elif chunk_type == b"gAMA" and len(body) == 4:
        png.gamma = int.from_bytes(body, "big")
    elif chunk_type == b"cHRM" and len(body) == 32:
        png.primaries = struct.unpack(">8I", body)


def _decompress_profile(body: bytes) -> bytes | None:
    """Return the colour profile, or None if it is damaged or a decompression bomb."""
    _, separator, rest = body.partition(b"\0")
    decompressor = zlib.decompressobj()
    try:
        profile = decompressor.decompress(rest[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if separator and decompressor.eof else None


def strip(data: bytes) -> bytes:
    """Return the PNG file without metadata, and without data after its end.

    If the image is not upright, keep an EXIF chunk with only the orientation.
    """
    kept = [MAGIC]
    orientation = 1
    for chunk_type, start, end in chunks(data):
        if chunk_type == b"eXIf":
            orientation = exif.orientation(data[start + 8 : end - 4])
            if orientation != 1:
                kept.append(build_chunk(b"eXIf", exif.orientation_block(orientation)))
        elif chunk_type in _VISUAL_PNG_CHUNKS:
            kept.append(data[start:end])
    return b"".join(kept)


def build_chunk(chunk_type: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    checksum = zlib.crc32(body, zlib.crc32(chunk_type))
    return struct.pack(">I", len(body)) + chunk_type + body + struct.pack(">I", checksum)
